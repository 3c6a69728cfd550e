"""Followed streams: how far each place that another system writes to has been read, and since when reading fails.

Invariants: everything before a position is in the event log, because a position moves after its events were appended;
it moves only from where it was read, so that what is counted beside it is counted once. A position belongs to a place:
when a stream follows another one, it is read from its beginning.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import func, literal, select, update
from sqlalchemy.engine import Row

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import upsert
from antiphon.catalog.rows import value_of
from antiphon.core.scope import Scope

_SCHEMA = "followed-position/1"
_table = schema.followed_streams


class FollowedStream(msgspec.Struct, frozen=True):
    """A followed stream as it stands.

    Attributes:
        place: what is followed.
        moves: how often the position moved.
        position: of the reader, in its own words; ``None`` before its first page.
        refused: rows that are no events, with the reason of the last one in ``refusal``.
        lost: messages that were removed before they were read.
        waiting: messages that were not read yet, where the place tells.
        caught_up_at: what was written before this moment is in the log.
        failing_since: of the first of the failures in a row, with the last one in ``error``.
    """

    stream: str
    place: str
    moves: int = 0
    position: str | None = None
    refused: int = 0
    lost: int = 0
    waiting: int | None = None
    refusal: str | None = None
    error: str | None = None
    caught_up_at: datetime | None = None
    failing_since: datetime | None = None


class PositionMove(msgspec.Struct, frozen=True):
    """The end of a page that was appended; ``refused`` and ``lost`` are those of the page."""

    position: str
    refused: int = 0
    lost: int = 0
    waiting: int | None = None
    refusal: str | None = None
    caught_up_at: datetime | None = None


class FollowedStreams:
    """Repository of the followed streams of each scope."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list(self, scope: Scope) -> dict[str, FollowedStream]:
        """Every stream that was ever followed, by name."""
        rows = self._database.rows(select(_table).where(schema.owned(_table, scope)))
        return {row.stream: self._opened(scope, row) for row in rows}

    def begin(self, scope: Scope, stream: str, place: str) -> FollowedStream:
        """The state of a stream that follows a place; a new one where it followed another."""
        row = self._database.first(select(_table).where(schema.owned(_table, scope, stream=stream)))
        if row is not None and row.place == place:
            return self._opened(scope, row)
        with self._database.transaction() as connection:
            row = self._database.first(select(_table).where(schema.owned(_table, scope, stream=stream)), connection)
            if row is not None and row.place == place:
                return self._opened(scope, row)
            # The number of moves goes on, so that no reader of the place before moves this one.
            made = FollowedStream(stream, place, 0 if row is None else row.moves + 1)
            values: dict[str, Any] = msgspec.structs.asdict(made)
            statement = upsert(_table).values(tenant=scope.tenant, environment=scope.environment, **values)
            connection.execute(statement.on_conflict_do_update(set_=values))
        return made

    def advance(self, scope: Scope, before: FollowedStream, move: PositionMove) -> FollowedStream | None:
        """Move a position on, which ends its failures; ``None``, and nothing changes, when another process moved it."""
        after = FollowedStream(
            before.stream,
            before.place,
            before.moves + 1,
            move.position,
            before.refused + move.refused,
            before.lost + move.lost,
            move.waiting,
            move.refusal or before.refusal,
            None,
            move.caught_up_at or before.caught_up_at,
        )
        values: dict[str, Any] = msgspec.structs.asdict(after)
        subject = f"{after.stream}:{after.place}"
        values["position"] = self._database.seal(scope, _SCHEMA, subject, move.position.encode())
        unchanged = schema.owned(_table, scope, stream=before.stream, moves=before.moves)
        moved = self._database.write(update(_table).where(unchanged).values(values))
        return after if moved else None

    def failed(self, scope: Scope, stream: str, error: str) -> None:
        """Record the failure of a reading; the moment of the first one in a row stays."""
        now = literal(self._database.clock.now(), _table.c.failing_since.type)
        since = func.coalesce(_table.c.failing_since, now)
        owned = schema.owned(_table, scope, stream=stream)
        self._database.write(update(_table).where(owned).values(error=error, failing_since=since))

    def _opened(self, scope: Scope, row: Row[Any]) -> FollowedStream:
        position = None
        if row.position is not None:
            subject = f"{row.stream}:{row.place}"
            position = self._database.unseal(scope, _SCHEMA, subject, row.position).decode()
        return value_of(FollowedStream, row, position=position)
