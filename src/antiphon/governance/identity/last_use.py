"""Last use of keys and sessions, and the newest instant seen: noted in memory, written together, rarely.

Invariant: no request waits for these writes and none fails with them. A key costs one write a day and process, a
session one in :data:`SESSION_SECONDS`, the newest instant one in :data:`MARK_SECONDS`. A crash loses what was noted
since: a day may be missed only by a key whose every use that day was within that time of a crash.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Column, or_, select, update
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import upsert
from antiphon.core.clock import from_microseconds, microseconds
from antiphon.core.errors import AntiphonError
from antiphon.core.scope import ANY

SESSION_SECONDS = 30.0
MARK_SECONDS = 60.0
_RETRY_SECONDS = 5.0
_MOST = 20_000
_Place = tuple[str, str, str | bytes]
_COLUMNS: Mapping[str, tuple[Column[Any], Column[Any]]] = {
    "key": (schema.api_keys.c.id, schema.api_keys.c.last_used_day),
    "session": (schema.sessions.c.hash, schema.sessions.c.seen_at),
}
"""Of what is used: the columns of its name and of its last use."""

_log = logging.getLogger(__name__)


class LastUse:
    """Notes uses; a thread of its own writes them while there are any, in the ``background``, or :meth:`flush` does."""

    def __init__(self, database: Database, *, background: bool = True) -> None:
        self._database = database
        self._background = background
        self._waiting: dict[_Place, int] = {}
        self._known: dict[_Place, int] = {}
        self._mark = 0
        self._marked: float | None = None
        self._failed: float | None = None
        self._lock = threading.Lock()
        self._running = False

    def key(self, tenant: str, key: str, now: datetime) -> None:
        """A key is used."""
        self._note(("key", tenant, key), now.toordinal(), 1, now)

    def session(self, tenant: str, digest: bytes, now: datetime) -> None:
        """A session is used."""
        self._note(("session", tenant, digest), microseconds(now), SESSION_SECONDS * 1e6, now)

    def flush(self) -> None:
        """Write what was noted.

        Raises:
            UnavailableError: the catalog is away or busy; what was noted is kept.
        """
        with self._lock:
            waiting, self._waiting, mark = self._waiting, {}, self._mark
        try:
            with self._database.transaction() as connection:
                for (kind, tenant, name), value in waiting.items():
                    identifier, used = _COLUMNS[kind]
                    table = used.table
                    own = table.c.tenant == tenant, table.c.environment == ANY, identifier == name
                    older = or_(used.is_(None), used < value)
                    connection.execute(update(table).where(*own, older).values({used: value}))
                write_mark(connection, mark)
        except BaseException:
            with self._lock:
                self._waiting = {**waiting, **self._waiting}
            self._failed = self._database.clock.monotonic()
            raise
        self._marked = self._database.clock.monotonic()

    def _note(self, place: _Place, value: int, apart: float, now: datetime) -> None:
        self._mark = max(self._mark, microseconds(now))
        if self._marked is None or self._database.clock.monotonic() - self._marked >= MARK_SECONDS:
            self._start()
        if value - self._known.get(place, 0) < apart:
            return
        with self._lock:
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[place] = self._waiting[place] = value
        self._start()

    def _start(self) -> None:
        if not self._background:
            return
        if self._failed is not None and self._database.clock.monotonic() - self._failed < _RETRY_SECONDS:
            return
        with self._lock:
            if self._running:
                return
            self._running = True
        threading.Thread(target=self._run, name="last-use", daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                self.flush()
            except (AntiphonError, SQLAlchemyError) as error:
                _log.warning("when keys were last used could not be written now: %s", type(error).__name__)
                self._running = False
                return
            with self._lock:
                if not self._waiting:
                    self._running = False
                    return


def trust_clock(database: Database, *, within: Connection) -> tuple[datetime | None, datetime]:
    """Set the newest instant seen to the clock's, also if that is earlier; the mark before, and the clock's time.

    A process that runs keeps what it has seen, and would write it again: none may run.
    """
    table, now = schema.clock_marks, database.clock.now()
    before = within.execute(select(table.c.newest_at).where(table.c.tenant == ANY)).scalar()
    write_mark(within, microseconds(now), backwards=True)
    return None if before is None else from_microseconds(before), now


def write_mark(connection: Connection, mark: int, *, backwards: bool = False) -> None:
    """Note the newest instant, in microseconds since 1970; it goes back only when told to."""
    table = schema.clock_marks
    row = upsert(table).values(tenant=ANY, environment=ANY, newest_at=mark)
    later = None if backwards else table.c.newest_at < mark
    connection.execute(row.on_conflict_do_update(set_={"newest_at": mark}, where=later))
