"""Rings between processes that share a catalog on PostgreSQL: LISTEN and NOTIFY.

Invariants:
- One channel for a catalog (its schema), and one notification a transaction, with all that it rang: at a commit with a
  notification the server takes a lock that all its databases share.
- Listening takes one connection of a process, besides its pool, and no polling. When it is lost it is opened again, and
  then everything is rung once: notifications of meanwhile are lost.
"""

from __future__ import annotations

import logging
import os
import secrets
import select
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from antiphon.catalog.pipe_channel import message_of, names_of

_CHANNEL = "'antiphon_' || md5(current_schema())"
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
"""Seconds before a lost connection is opened again, at first and at most."""

_log = logging.getLogger(__name__)


class NotifyChannel:
    """The channel of one catalog."""

    def __init__(self, engine: sa.Engine, place: str) -> None:
        self._engine = engine
        self._place = place
        self._id = secrets.token_hex(8)
        self._closing: tuple[threading.Event, int] | None = None
        self._thread: threading.Thread | None = None

    def notify(self, connection: Connection, names: Collection[str]) -> None:
        """Notify within the transaction; the server sends it after the commit."""
        payload = f"{self._id}\n{message_of(names).decode()}"
        connection.exec_driver_sql(f"SELECT pg_notify({_CHANNEL}, %s)", (payload,))

    def committed(self, names: Collection[str]) -> None:
        """Do nothing: the server has sent it."""

    def open(self, deliver: Callable[[Collection[str] | None], None]) -> None:
        """Listen in a thread, which rings everything once it does: what was committed before went unheard."""
        ending, waking = os.pipe()
        self._closing = (threading.Event(), waking)
        self._thread = threading.Thread(
            target=self._listen, args=(self._closing[0], ending, deliver), name="doorbell", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """End the thread and its connection."""
        closing, self._closing = self._closing, None
        thread, self._thread = self._thread, None
        if closing is None or thread is None:
            return
        closing[0].set()
        os.close(closing[1])
        if thread is not threading.current_thread():
            thread.join()

    def _listen(self, closed: threading.Event, ending: int, deliver: Callable[[Collection[str] | None], None]) -> None:
        pause = _FIRST_PAUSE
        try:
            while not closed.is_set():
                began = time.monotonic()
                try:
                    with self._engine.connect() as connection:
                        connection.detach()  # It takes no place in the pool.
                        self._follow(connection.connection.dbapi_connection, ending, deliver)
                except Exception as error:
                    if closed.is_set():
                        return
                    if time.monotonic() - began > _LONGEST_PAUSE:
                        pause = _FIRST_PAUSE
                    if pause == _FIRST_PAUSE:  # Once, not with each attempt. The driver's text may hold a password.
                        what = type(error).__name__
                        _log.warning("Notifications of %s are away (%s): new work is polled for.", self._place, what)
                    closed.wait(pause)
                    pause = min(pause * 2, _LONGEST_PAUSE)
        finally:
            os.close(ending)

    def _follow(self, raw: Any, ending: int, deliver: Callable[[Collection[str] | None], None]) -> None:
        """Deliver until the channel is closed, or an error says that the connection is lost."""
        raw.autocommit = True
        channel = raw.execute(f"SELECT {_CHANNEL}").fetchone()[0]
        raw.execute(f'LISTEN "{channel}"')
        deliver(None)
        # The driver's own wait looks every 100 ms whether it was interrupted.
        waiting = select.poll()
        for descriptor in (raw.fileno(), ending):
            waiting.register(descriptor, select.POLLIN | select.POLLHUP | select.POLLERR)
        while not any(descriptor == ending for descriptor, _ in waiting.poll()):
            raw.pgconn.consume_input()
            while (notification := raw.pgconn.notifies()) is not None:
                sender, _, message = notification.extra.partition(b"\n")
                if sender.decode(errors="replace") != self._id:
                    deliver(names_of(message))
        with suppress(Exception):
            raw.close()
