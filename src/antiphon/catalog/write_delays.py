"""Delays of this process's writes to the catalog: it waited for the lock, or was refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import msgspec
import sqlalchemy as sa

from antiphon.core.clock import Clock
from antiphon.core.errors import UnavailableError

_WORTH_NOTING = timedelta(seconds=1)
_ONE_DELAY = timedelta(seconds=5)
"""Delays that are no farther apart are one: between two, hardly anything was written."""


class WriteDelay(msgspec.Struct, frozen=True):
    """A time in which writes waited or were refused. ``refused``: some were given up."""

    since: datetime
    until: datetime
    refused: bool = False

    @property
    def lasted(self) -> timedelta:
        return self.until - self.since


class WriteDelays:
    """The last delay of this process's writes. Safe to share between threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._last: WriteDelay | None = None

    @property
    def last(self) -> WriteDelay | None:
        """The latest delay, which may go on; ``None`` while there was none."""
        return self._last

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """Note what the catalog refuses within the block, from its begin on."""
        began = self._clock.monotonic()
        try:
            yield
        except UnavailableError as error:
            if isinstance(error.__cause__, sa.exc.SQLAlchemyError):  # Otherwise something else is away.
                self.note(began, refused=True)
            raise

    def note(self, began: float, *, refused: bool = False) -> None:
        """Note that a write has waited since a moment, in monotonic seconds, until now."""
        waited = timedelta(seconds=self._clock.monotonic() - began)
        if waited < _WORTH_NOTING and not refused:
            return
        now = self._clock.now()
        with self._lock:
            last = self._last
            found = WriteDelay(now - waited, now, refused)
            if last is not None and found.since - last.until <= _ONE_DELAY:
                found = WriteDelay(min(last.since, found.since), now, refused or last.refused)
            self._last = found
