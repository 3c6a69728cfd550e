"""The event log: source events by stream and offset, the source of truth of streamed features.

Invariants: offsets of a stream begin at 1 and have no holes; an event id is stored once per stream, and what was
stored first stays; an offset that was returned is on disk. A stream is in one log alone: which one, when it is not the
catalog, stands in the catalog, so that a log that was lost, replaced or forgotten is found out and never read past.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import in_parts, upsert
from antiphon.core.errors import CorruptionError, InvalidInputError, SetupError
from antiphon.core.scope import Scope

_SCHEMA = "event/1"


class Event(msgspec.Struct, frozen=True):
    """One source event: when it happened, and since when it could be known."""

    event_id: str
    event_time: datetime
    available_at: datetime
    payload: dict[str, Any]


class _SealedEvent(msgspec.Struct, frozen=True, array_like=True):
    """The sealed part of an event; its column holds the index that its id is looked up by."""

    event_id: str
    payload: dict[str, Any]


class StoredEvent(msgspec.Struct, frozen=True):
    """An event at its offset in the stream; ``appended_at`` is when the log took it (processing time)."""

    offset: int
    event: Event
    appended_at: datetime | None = None


class StreamEnd(msgspec.Struct, frozen=True):
    """A stream and the offset of its last event."""

    stream: str
    end: int


class StreamHome(msgspec.Struct, frozen=True):
    """Location of a stream's events: the log of this id, seen there through ``end`` at least; or, without one, here
    through ``end``."""

    log: str | None
    end: int


_decode = msgspec.json.Decoder(_SealedEvent).decode


class EventLog:
    """The log in the catalog itself."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(self, scope: Scope, stream: str, events: Sequence[Event], *, within: Connection | None = None) -> int:
        """Append events in order and return the stream's last offset; a repeated ``event_id`` is ignored.

        Raises:
            InvalidInputError: an event without id or with an instant without zone, or a stream without name.
            SetupError: another log holds this stream.
        """
        require_events(stream, events)
        rows: dict[str, dict[str, Any]] = {}
        for event in events:
            index = self._database.codec.index(f"{stream}:{event.event_id}", scope, "event")
            rows.setdefault(index, self._row(scope, stream, event, index))
        with self._database.writing(within) as connection:
            end = self.end(scope, stream, within=connection)
            fresh = self._unknown(connection, scope, stream, rows)
            if not fresh:
                return end
            for position, row in enumerate(fresh, start=end + 1):
                row["offset"] = position
            connection.execute(insert(schema.events), fresh)
            end += len(fresh)
            statement = upsert(schema.streams).values(
                tenant=scope.tenant, environment=scope.environment, stream=stream, end_offset=end
            )
            connection.execute(statement.on_conflict_do_update(set_={"end_offset": end}))
            self._database.ring("events", scope)
        return end

    def read(self, scope: Scope, stream: str, after: int, limit: int) -> list[StoredEvent]:
        """Events with ``offset > after``, in order, at most ``limit``.

        Raises:
            CorruptionError: the stream ends before ``after``, so it was set back.
            SetupError: another log holds this stream.
        """
        with self._database.read() as connection:
            rows = self._rows(connection, scope, stream, after, limit)
            end = self.end(scope, stream, within=connection)
        if after > end:
            raise set_back(stream, after, end, "Restore a newer backup of the catalog")
        return [self._opened(scope, stream, row) for row in rows]

    def copied(self, scope: Scope, stream: str, after: int, limit: int) -> list[StoredEvent]:
        """As :meth:`read`, of a stream that is being copied here and may still be in another log."""
        with self._database.read() as connection:
            rows = self._rows(connection, scope, stream, after, limit)
        return [self._opened(scope, stream, row) for row in rows]

    def copied_through(self, scope: Scope, stream: str) -> int:
        """The last offset of which an event is here, whatever log the stream is in."""
        table = schema.events
        last = select(func.max(table.c.offset)).where(schema.owned(table, scope, stream=stream))
        return int(self._database.scalar(last) or 0)

    def copy(self, scope: Scope, stream: str, stored: Sequence[StoredEvent]) -> None:
        """Put events of another log here under their offsets; those that are here stay."""
        rows = []
        for one in stored:
            index = self._database.codec.index(f"{stream}:{one.event.event_id}", scope, "event")
            row = self._row(scope, stream, one.event, index)
            rows.append({**row, "offset": one.offset, "created_at": one.appended_at or row["created_at"]})
        with self._database.transaction() as connection:
            connection.execute(upsert(schema.events).on_conflict_do_nothing(), rows)

    def _rows(self, connection: Connection, scope: Scope, stream: str, after: int, limit: int) -> Sequence[Any]:
        table = schema.events
        after_it = schema.owned(table, scope, stream=stream), table.c.offset > after
        return connection.execute(select(table).where(*after_it).order_by(table.c.offset).limit(limit)).all()

    def _opened(self, scope: Scope, stream: str, row: Any) -> StoredEvent:
        sealed = _decode(self._database.unseal(scope, _SCHEMA, f"{stream}:{row.event_id}", row.payload))
        event = Event(sealed.event_id, row.event_time, row.available_at, sealed.payload)
        return StoredEvent(row.offset, event, row.created_at)

    def end(self, scope: Scope, stream: str, *, within: Connection | None = None) -> int:
        """The last offset, 0 for a stream without events.

        Raises:
            SetupError: another log holds this stream.
        """
        home = home_of(self._database, scope, stream, within)
        if home.log is not None:
            raise SetupError(
                f"The events of stream {stream!r} are in a log on a server, and this project names none.",
                where="[features] log",
                next_step="Set it to that server again, or give the source another name, which begins a new stream.",
            )
        return home.end

    def streams(self, scope: Scope) -> list[StreamEnd]:
        """Every stream that has events here, by name."""
        table = schema.streams
        statement = select(table).where(schema.owned(table, scope), table.c.log.is_(None)).order_by(table.c.stream)
        return [StreamEnd(row.stream, row.end_offset) for row in self._database.rows(statement)]

    def _row(self, scope: Scope, stream: str, event: Event, index: str) -> dict[str, Any]:
        return {
            "tenant": scope.tenant,
            "environment": scope.environment,
            "stream": stream,
            "event_id": index,
            "event_time": event.event_time,
            "available_at": event.available_at,
            "payload": self._database.seal(
                scope, _SCHEMA, f"{stream}:{index}", msgspec.json.encode(_SealedEvent(event.event_id, event.payload))
            ),
            "created_at": self._database.clock.now(),
        }

    def _unknown(
        self, connection: Connection, scope: Scope, stream: str, rows: dict[str, dict[str, Any]]
    ) -> list[dict[str, Any]]:
        table = schema.events
        known: set[str] = set()
        for these in in_parts(table.c.event_id, rows):
            statement = select(table.c.event_id).where(schema.owned(table, scope, stream=stream), these)
            known.update(connection.execute(statement).scalars())
        return [row for index, row in rows.items() if index not in known]


class StreamHomes:
    """Repository of where streams are, for a log that is somewhere else."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, scope: Scope, stream: str) -> StreamHome:
        """Returns the location of a stream; offset 0 of the catalog for an unused one."""
        return home_of(self._database, scope, stream, None)

    def claim(self, scope: Scope, stream: str, log: str) -> StreamHome:
        """Say that a stream without events is in a log; what was said first stays, and is returned."""
        statement = upsert(schema.streams).values(
            tenant=scope.tenant, environment=scope.environment, stream=stream, end_offset=0, log=log
        )
        with self._database.transaction() as connection:
            connection.execute(statement.on_conflict_do_nothing())
            return home_of(self._database, scope, stream, connection)

    def switch(self, connection: Connection, scope: Scope, stream: str, home: StreamHome) -> None:
        """Say where a stream is from now on, and drop its events here when that is elsewhere; in a transaction of the
        catalog that holds all or none of them."""
        statement = upsert(schema.streams).values(
            tenant=scope.tenant, environment=scope.environment, stream=stream, end_offset=home.end, log=home.log
        )
        connection.execute(statement.on_conflict_do_update(set_={"end_offset": home.end, "log": home.log}))
        if home.log is not None:
            connection.execute(delete(schema.events).where(schema.owned(schema.events, scope, stream=stream)))

    def seen(self, scope: Scope, stream: str, log: str, end: int) -> int:
        """Remember that a stream in a log goes through ``end``; the furthest that anybody has said."""
        table = schema.streams
        with self._database.transaction() as connection:
            further = schema.owned(table, scope, stream=stream, log=log) & (table.c.end_offset < end)
            connection.execute(update(table).where(further).values(end_offset=end))
            return home_of(self._database, scope, stream, connection).end

    def all(self) -> list[tuple[Scope, str, StreamHome]]:
        """Every stream of every scope, and where it is."""
        table = schema.streams
        rows = self._database.rows(select(table).order_by(table.c.tenant, table.c.environment, table.c.stream))
        return [
            (Scope(row.tenant, row.environment), row.stream, StreamHome(row.log, int(row.end_offset))) for row in rows
        ]

    def require_unmoved(self) -> None:
        """Refuse what another log took once the project was moved; raises as :meth:`.Database.require_unmoved`."""
        self._database.require_unmoved()

    def elsewhere(self) -> list[tuple[Scope, str]]:
        """Every stream whose events are not in the catalog."""
        return [(scope, stream) for scope, stream, home in self.all() if home.log is not None]


def home_of(database: Database, scope: Scope, stream: str, within: Connection | None) -> StreamHome:
    """Returns the location of a stream."""
    table = schema.streams
    row = database.first(select(table).where(schema.owned(table, scope, stream=stream)), within)
    return StreamHome(None, 0) if row is None else StreamHome(row.log, int(row.end_offset))


def require_events(stream: str, events: Sequence[Event]) -> None:
    """Refuse a batch before anything of it is stored.

    Raises:
        InvalidInputError: an event has no id, or the stream no name.
    """
    if not stream:
        raise InvalidInputError("A stream needs a name.", where="stream")
    for event in events:
        if not event.event_id:
            raise InvalidInputError("An event needs an id.", where=f"stream {stream}", next_step="Set event_id.")


def set_back(stream: str, after: int, end: int, way: str) -> CorruptionError:
    """For a reader that is further than the log: what it read is no longer what the log says."""
    return CorruptionError(
        f"The log ends at offset {end} and was read through {after} before: it was set back, and events are missing.",
        where=f"stream {stream}",
        next_step=f"{way}; or give the source another name, which begins a new stream.",
    )
