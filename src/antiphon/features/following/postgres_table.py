"""Rows of a followed PostgreSQL table: those whose transactions had not ended when the last reading began.

Invariant: every row that is committed and stays is in a page, whenever its transaction began or ended and whatever its
watermark is. A reading notes the oldest transaction that runs (the snapshot's xmin) before it looks; the next reading
takes all rows of transactions that are not older. Savepoints have numbers above their transaction's. Rows may come
twice, which the event log bears, and none is missed. The watermark only spares looking at old rows: a *poll* looks at
those about and above the greatest watermark, a *sweep* goes through all of them in slices, between which polls are
made. A sweep begins with the process, and again when twenty times the time that it took has passed, at least every ten
minutes.

The only file of the followers that imports ``psycopg``.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec

from antiphon.core.clock import Clock, from_microseconds, microseconds
from antiphon.core.errors import AntiphonError, SetupError
from antiphon.definitions.following import PostgresTable
from antiphon.definitions.source import SourceSpec
from antiphon.features.following.followed_table import FollowedTable, described_table
from antiphon.features.following.payloads import decoded, sorted_out
from antiphon.features.ports import FollowedPage
from antiphon.features.sources.postgres import database_error, database_uri

_SWEEP_SHARE, _SWEEP_SECONDS = 20.0, 600.0
_SLICE = 50_000
"""Rows that a slice of a sweep looks at."""

_TIMEOUT_MILLISECONDS = 20_000
_OLDEST_SERVER = 130_000

_BEGIN = (
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY; SET LOCAL TIME ZONE 'UTC'; "
    f"SET LOCAL DateStyle = 'ISO'; SET LOCAL statement_timeout = {_TIMEOUT_MILLISECONDS}"
)

_Row = tuple[str, str, str]
"""A row's payload, watermark and id."""


class _Pass(msgspec.Struct, frozen=True):
    """A poll or sweep that takes several pages.

    Attributes:
        horizon: the oldest transaction that ran when it began; ``since`` that of the one before.
        began: microseconds by our clock.
        after: watermark and event id of the last row that it looked at.
    """

    horizon: int
    since: int
    began: int
    after: tuple[str, str] | None = None


class _TablePosition(msgspec.Struct, frozen=True):
    """The point from which reading goes on.

    Attributes:
        polled, swept: the horizons of the last poll and of the last sweep; 0 before the first sweep.
        top: the greatest watermark that was read.
        poll, sweep: those that are under way.
    """

    polled: int = 0
    swept: int = 0
    top: str | None = None
    poll: _Pass | None = None
    sweep: _Pass | None = None


_decode_position = msgspec.json.Decoder(_TablePosition).decode
_decode_row = msgspec.json.Decoder(dict[str, Any]).decode


class PostgresTableReader:
    """Reads the rows of one followed table, in one thread at a time.

    Args:
        source: follows a :class:`PostgresTable`.
    """

    def __init__(self, source: SourceSpec, clock: Clock) -> None:
        assert isinstance(source.follow, PostgresTable)
        self._source = source
        self._follow = source.follow
        self._clock = clock
        self._connection: Any = None
        self._table: FollowedTable | None = None
        self._sweep_seconds, self._sweep_due = 0.0, 0.0
        self._swept_through: int | None = None

    def read(self, position: str | None, limit: int) -> FollowedPage:
        """The rows after a position, at most ``limit``.

        Raises:
            UnavailableError: the database is away, or takes longer than 20 s.
            SetupError: it refuses access, is older than PostgreSQL 13, or the driver is not installed.
            InvalidInputError: there is no such table or column, or it is none that can be followed.
        """
        began = microseconds(self._clock.now())
        at = _TablePosition() if position is None else _decode_position(position)
        parts: list[list[_Row]] = []
        empty, caught_up_at = 0, None
        with self._transaction() as cursor:
            horizon, upcoming = self._snapshot(cursor)
            if max(at.polled, at.swept) > upcoming:
                at = _TablePosition()  # Another server, or one that was set back: its numbers say nothing about ours.
            table = self._table = self._table or described_table(cursor, self._source)
            if at.swept:
                poll = at.poll or _Pass(horizon, at.polled, began)
                parts.append(self._polled(cursor, table, poll, at.top, upcoming, limit))
                at = _after_poll(at, poll, parts[-1], limit)
                caught_up_at = None if at.poll else poll.began
            if at.poll is None and (at.sweep is not None or self._is_sweep_due(at)):
                started = self._clock.monotonic()
                sweep = at.sweep or _Pass(horizon, at.swept, began)
                if at.sweep is None:
                    self._sweep_seconds, empty = 0.0, self._empty(cursor, table, sweep, upcoming)
                found, last = self._swept(cursor, table, sweep, upcoming, limit if at.swept == 0 else _SLICE)
                parts.append(found)
                caught_up_at = caught_up_at or (None if last else sweep.began)
                at = _after_sweep(at, sweep, last)
                self._sweep_seconds += self._clock.monotonic() - started
                if last is None:
                    pause = min(_SWEEP_SHARE * self._sweep_seconds, _SWEEP_SECONDS)
                    self._swept_through, self._sweep_due = at.swept, self._clock.monotonic() + pause
            at = self._with_top(cursor, table, at, [part[-1][1] for part in parts if part])
        payloads = (decoded(row[0], _decode_row) for part in parts for row in part)
        events, refused, refusal = sorted_out(self._source, payloads)
        return FollowedPage(
            events=events,
            position=msgspec.json.encode(at).decode(),
            more=at.poll is not None or at.sweep is not None,
            refused=refused + empty,
            refusal=f"{self._follow.watermark} or {self._source.event_id} is null" if empty else refusal,
            caught_up_at=None if caught_up_at is None else from_microseconds(caught_up_at),
        )

    def abandon(self) -> None:
        """End a reading that hangs, from another thread: what it waits for is cut off."""
        with suppress(Exception), socket.socket(fileno=os.dup(self._connection.fileno())) as cut:
            cut.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; the next reading makes another one."""
        connection, self._connection, self._table = self._connection, None, None
        if connection is not None:
            with suppress(Exception):
                connection.close()

    def _is_sweep_due(self, at: _TablePosition) -> bool:
        """Tells whether a sweep begins; also when the end of the one before was not kept, because of a failure."""
        return at.swept != self._swept_through or self._clock.monotonic() >= self._sweep_due

    def _snapshot(self, cursor: Any) -> tuple[int, int]:
        """The oldest transaction that runs, and the number of the next one."""
        snapshot = "SELECT pg_current_snapshot() AS now"
        cursor.execute(f"SELECT pg_snapshot_xmin(now)::text, pg_snapshot_xmax(now)::text FROM ({snapshot}) AS seen")
        horizon, upcoming = cursor.fetchone()
        return int(horizon), int(upcoming)

    def _polled(
        self, cursor: Any, table: FollowedTable, poll: _Pass, top: str | None, upcoming: int, limit: int
    ) -> list[_Row]:
        """The next rows of a poll, at most ``limit``."""
        if poll.after is not None:
            condition, values = f"{table.place} > {table.place_values}", list[str | None](poll.after)
        else:
            condition, values = table.floor, [top]
        return self._selected(cursor, table, [_recent(poll, upcoming), condition], values, f" LIMIT {limit}")

    def _swept(
        self, cursor: Any, table: FollowedTable, sweep: _Pass, upcoming: int, length: int
    ) -> tuple[list[_Row], tuple[str, str] | None]:
        """The new rows of the next slice of a sweep, and its last place; ``None`` of the last slice."""
        conditions, values = ["true"], list[str | None]()
        if sweep.after is not None:
            conditions, values = [f"{table.place} > {table.place_values}"], list(sweep.after)
        cursor.execute(
            f"SELECT {table.watermark}::text, {table.identity}::text FROM {table.name} AS own "
            f"WHERE {' AND '.join([*conditions, *table.present])} "
            f"ORDER BY {table.watermark}, {table.identity} OFFSET {length - 1} LIMIT 1",
            values,
        )
        last = cursor.fetchone()
        if last is not None:
            conditions.append(f"{table.place} <= {table.place_values}")
            values += last
        return self._selected(cursor, table, [*conditions, _recent(sweep, upcoming)], values, ""), last

    def _selected(
        self, cursor: Any, table: FollowedTable, conditions: list[str], values: list[str | None], end: str
    ) -> list[_Row]:
        cursor.execute(
            f"SELECT {table.payload}, {table.watermark}::text, {table.identity}::text FROM {table.name} AS own "
            f"WHERE {' AND '.join([*conditions, *table.present])} ORDER BY {table.watermark}, {table.identity}{end}",
            values,
        )
        found: list[_Row] = cursor.fetchall()
        return found

    def _empty(self, cursor: Any, table: FollowedTable, sweep: _Pass, upcoming: int) -> int:
        """The number of new rows without watermark or id, which have no place."""
        if not table.nullable:
            return 0
        cursor.execute(
            f"SELECT count(*) FROM {table.name} AS own WHERE {_recent(sweep, upcoming)} "
            f"AND NOT ({' AND '.join(table.present)})",
            (),
        )
        (found,) = cursor.fetchone()
        return int(found)

    def _with_top(self, cursor: Any, table: FollowedTable, at: _TablePosition, read: list[str]) -> _TablePosition:
        """The position with the greatest of the watermarks that were read."""
        if not read:
            return at
        listed = read if at.top is None else [at.top, *read]
        cursor.execute(f"SELECT max(one::{table.watermark_kind})::text FROM unnest(%s::text[]) AS one", (listed,))
        (top,) = cursor.fetchone()
        return msgspec.structs.replace(at, top=str(top))

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        """A cursor in a transaction that sees one snapshot; after an error the connection is made anew."""
        try:
            from psycopg import Error
        except ImportError as error:
            raise SetupError(
                "The driver of PostgreSQL is not installed.",
                where=f"source {self._source.name}",
                next_step="pip install antiphon[postgres]",
            ) from error
        try:
            connection = self._connection or self._connected()
            with connection.transaction(), connection.cursor() as cursor:
                cursor.execute(_BEGIN)
                yield cursor
        except AntiphonError:
            self.close()
            raise
        except Error as error:
            self.close()
            said = str(error) or type(error).__name__
            raise database_error(
                self._source.name, said, error.sqlstate or "", self._follow.password_variable
            ) from error

    def _connected(self) -> Any:
        import psycopg

        uri = database_uri(self._source.name, self._follow.url, self._follow.password_variable)
        self._connection = psycopg.connect(uri, autocommit=True, prepare_threshold=None)  # Poolers keep none.
        if self._connection.info.server_version < _OLDEST_SERVER:
            raise SetupError(
                "The server is older than PostgreSQL 13, and does not tell which transactions run.",
                where=f"source {self._source.name}",
                next_step="Upgrade it, or read the table in batch with Source.table.",
            )
        return self._connection


def _after_poll(at: _TablePosition, poll: _Pass, rows: list[_Row], limit: int) -> _TablePosition:
    if len(rows) == limit:
        return msgspec.structs.replace(at, poll=msgspec.structs.replace(poll, after=rows[-1][1:]))
    return msgspec.structs.replace(at, poll=None, polled=poll.horizon)


def _after_sweep(at: _TablePosition, sweep: _Pass, last: tuple[str, str] | None) -> _TablePosition:
    if last is not None:
        return msgspec.structs.replace(at, sweep=msgspec.structs.replace(sweep, after=last))
    return msgspec.structs.replace(at, sweep=None, swept=sweep.horizon, polled=max(at.polled, sweep.horizon))


def _recent(of: _Pass, upcoming: int) -> str:
    """A condition that a row's transaction is not older than a horizon.

    A row has the last 32 bits of its transaction's number; those before are the ones that make it the latest.
    """
    return f"({upcoming} - (({upcoming} - own.xmin::text::bigint) & 4294967295)) >= {of.since}"
