"""Last use of keys and sessions, and the newest instant seen: noted in memory, written together, rarely.

Invariant: no request waits for these writes and none fails with them. A key costs one write a day and process, a
session one in :data:`SESSION_SECONDS`, the newest instant one in :data:`MARK_SECONDS`. A crash loses what was noted
since: a day may be missed only by a key whose every use that day was within that time of a crash.
"""

from __future__ import annotations

import logging
import threading
from datetime import datetime

from sqlalchemy import or_, select, update
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.core.clock import from_microseconds, microseconds
from antiphon.core.errors import AntiphonError

ANY = "*"
"""The environment of what belongs to a whole tenant, and the tenant of what belongs to all."""

SESSION_SECONDS = 30.0
MARK_SECONDS = 60.0
_RETRY_SECONDS = 5.0
_MOST = 10_000
_log = logging.getLogger(__name__)


class LastUse:
    """Notes uses; a thread of its own writes them while there are any.

    Args:
        background: write without being asked; otherwise only :meth:`flush` writes.
    """

    def __init__(self, database: Database, *, background: bool = True) -> None:
        self._database = database
        self._background = background
        self._keys: dict[tuple[str, str], int] = {}
        self._sessions: dict[tuple[str, bytes], int] = {}
        self._written: dict[tuple[str, str], int] = {}
        self._seen: dict[tuple[str, bytes], int] = {}
        self._mark = 0
        self._marked: float | None = None
        self._failed: float | None = None
        self._lock = threading.Lock()
        self._running = False

    def key(self, tenant: str, key: str, now: datetime) -> None:
        """A key is used."""
        self._note_time(now)
        day = now.toordinal()
        if self._written.get((tenant, key), 0) >= day:
            return
        with self._lock:
            if len(self._written) >= _MOST:
                self._written.clear()
            self._written[tenant, key] = day
            self._keys[tenant, key] = day
        self._start()

    def session(self, tenant: str, digest: bytes, now: datetime) -> None:
        """A session is used."""
        self._note_time(now)
        at = microseconds(now)
        if at - self._seen.get((tenant, digest), 0) < SESSION_SECONDS * 1e6:
            return
        with self._lock:
            if len(self._seen) >= _MOST:
                self._seen.clear()
            self._seen[tenant, digest] = self._sessions[tenant, digest] = at
        self._start()

    def flush(self, *, within: Connection | None = None) -> None:
        """Write what was noted.

        Raises:
            UnavailableError: the catalog is away or busy; what was noted is kept.
        """
        with self._lock:
            keys, sessions, mark = self._keys, self._sessions, self._mark
            self._keys, self._sessions = {}, {}
        try:
            with self._database.writing(within) as connection:
                self._write(connection, keys, sessions, mark)
        except BaseException:
            with self._lock:
                self._keys = {**keys, **self._keys}
                self._sessions = {**sessions, **self._sessions}
            self._failed = self._database.clock.monotonic()
            raise
        self._marked = self._database.clock.monotonic()

    def _write(
        self,
        connection: Connection,
        keys: dict[tuple[str, str], int],
        sessions: dict[tuple[str, bytes], int],
        mark: int,
    ) -> None:
        table = schema.api_keys
        for (tenant, key), day in keys.items():
            older = or_(table.c.last_used_day.is_(None), table.c.last_used_day < day)
            connection.execute(
                update(table)
                .where(table.c.tenant == tenant, table.c.environment == ANY, table.c.id == key, older)
                .values(last_used_day=day)
            )
        table = schema.sessions
        for (tenant, digest), at in sessions.items():
            connection.execute(
                update(table)
                .where(
                    table.c.tenant == tenant, table.c.environment == ANY, table.c.hash == digest, table.c.seen_at < at
                )
                .values(seen_at=at)
            )
        write_mark(connection, mark)

    def _note_time(self, now: datetime) -> None:
        self._mark = max(self._mark, microseconds(now))
        if self._marked is None or self._database.clock.monotonic() - self._marked >= MARK_SECONDS:
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
                if not self._keys and not self._sessions:
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
