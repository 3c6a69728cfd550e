"""Moves a project's catalog between a file and a server, in either direction, while the project is stopped.

Invariants:
- The source is one committed state, read in one transaction, and is never changed but for a last row that says where it
  went: from then on no process opens it, so that two catalogs cannot both go on.
- A target that is not complete says so, and no process opens it. A move that was cut off goes on where it was.
- Every table is compared row by row before the source is left: what differs ends the move, and both stay as they are.
- A target that was itself moved here is replaced, after a copy of it was made: that is the way back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import upsert
from antiphon.core.clock import microseconds
from antiphon.core.errors import ConflictError, CorruptionError, InvalidInputError, SetupError
from antiphon.core.ids import canonical
from antiphon.core.scope import ANY

BATCH = 1_000
"""Rows that are read and written in one go."""

_FOREVER = datetime(9999, 1, 1, tzinfo=UTC)
_MOVED_TO, _MOVING_FROM = "moved to", "moving from"
_leases = schema.leases

Tell = Callable[[str, int, int], object]
"""Takes the table, rows done, and rows in all."""


class MovedTable(msgspec.Struct, frozen=True):
    """A table that is the same in both catalogs: its rows, and the SHA-256 of them in the order of their keys."""

    table: str
    rows: int
    sha256: str


class CatalogMove(msgspec.Struct, frozen=True):
    """A catalog that was moved."""

    source: str
    target: str
    tables: tuple[MovedTable, ...]

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(one.rows for one in self.tables)


def require_present(database: Database) -> None:
    """Refuse a catalog that was moved elsewhere, or whose move here has not ended.

    Raises:
        SetupError: it is such a one.
    """
    marks = _marks(database)
    if (elsewhere := marks.get(_MOVED_TO)) is not None:
        raise SetupError(
            f"The catalog was moved to {elsewhere}.",
            where=database.backend.place,
            next_step="Name that one in [catalog] url, or move it back with `antiphon migrate`.",
        )
    if (source := marks.get(_MOVING_FROM)) is not None:
        raise SetupError(
            f"The move of {source} into this catalog has not ended.",
            where=database.backend.place,
            next_step="Run `antiphon migrate` again: it goes on where it was.",
        )


def move(source: Database, target: Database, tell: Tell = lambda *_: None) -> CatalogMove:
    """Move the catalog, or go on with a move that was cut off; the caller has made sure that nothing else has it open.

    Raises:
        InvalidInputError: both are the same. ConflictError: the target holds another catalog, or a process has the
            source open. SetupError: the source was moved elsewhere.
        CorruptionError: what was written is not what was read; the source stays in use.
    """
    here, there = source.backend.place, target.backend.place
    if here == there:
        raise InvalidInputError("The catalog is there already.", where=there)
    target.migrate()
    resumed = _marks(target).get(_MOVING_FROM) == here
    left = resumed and _marks(source).get(_MOVED_TO) == there  # All but the end was done.
    if not left:
        require_present(source)
    _require_unused(source)
    if not resumed:
        _begin(source, target)
    try:
        tables = _copied(source, target, tell)
    except CorruptionError:
        if left or not resumed:
            raise
        _begin(source, target)  # The project went on with the source since the move was cut off.
        tables = _copied(source, target, tell)
    if not left:
        with source.transaction() as connection:
            _set_mark(connection, _MOVED_TO, there)
    with target.transaction() as connection:
        connection.execute(sa.delete(_leases).where(_leases.c.tenant == ANY, _leases.c.environment == ANY))
    return CatalogMove(here, there, tables)


def _require_unused(source: Database) -> None:
    living = sa.select(_leases.c.name).where(_leases.c.environment != ANY, _leases.c.until >= source.clock.now())
    if (names := sorted(row.name for row in source.rows(living))) != []:
        raise ConflictError(
            f"Processes work with this catalog: {', '.join(names)}.",
            where=source.backend.place,
            next_step="Stop them on every machine; one that was killed is forgotten within a minute.",
        )


def _begin(source: Database, target: Database) -> None:
    """Mark the target, and empty it if it holds what was moved from here, or is moved to here."""
    here = source.backend.place
    empty = all(target.first(sa.select(table).limit(1)) is None for table in schema.metadata.sorted_tables)
    if not empty and here not in _marks(target).values():
        raise ConflictError(
            "The target holds a catalog already.",
            where=target.backend.place,
            next_step="Name an empty database, or a [catalog] schema of its own.",
        )
    if not empty:
        target.backend.back_up(schema.REVISION)
    with target.transaction() as connection:
        for table in reversed(schema.metadata.sorted_tables):
            connection.execute(sa.delete(table))
        _set_mark(connection, _MOVING_FROM, here)


def _copied(source: Database, target: Database, tell: Tell) -> tuple[MovedTable, ...]:
    """Copy what the target lacks, and compare every table."""
    with source.read() as reading:
        for table in schema.metadata.sorted_tables:
            _copy(reading, target, table, tell)
        with target.read() as written:
            return tuple(_compared(reading, written, table) for table in schema.metadata.sorted_tables)


def _copy(reading: Connection, target: Database, table: sa.Table, tell: Tell) -> None:
    total = reading.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
    keys = list(table.primary_key.columns)
    last = target.first(sa.select(*keys).where(*_not_a_mark(table)).order_by(*(key.desc() for key in keys)).limit(1))
    done = (
        0 if last is None else target.scalar(sa.select(sa.func.count()).select_from(table).where(*_not_a_mark(table)))
    )
    for rows in _batches(reading, table, None if last is None else tuple(last)):
        with target.transaction() as connection:
            connection.execute(upsert(table).on_conflict_do_nothing(), [dict(row._mapping) for row in rows])
        done += len(rows)
        tell(str(table.name), done, total)


def _batches(connection: Connection, table: sa.Table, after: tuple[Any, ...] | None) -> Iterator[Sequence[sa.Row[Any]]]:
    """The rows after a key, in the order of keys."""
    keys = list(table.primary_key.columns)
    while True:
        statement = sa.select(table).where(*_not_a_mark(table)).order_by(*keys).limit(BATCH)
        if after is not None:
            reached = (sa.bindparam(None, value, key.type) for key, value in zip(keys, after, strict=True))
            statement = statement.where(sa.tuple_(*keys) > sa.tuple_(*reached))
        rows = connection.execute(statement).all()
        if not rows:
            return
        yield rows
        after = tuple(rows[-1]._mapping[key] for key in keys)


def _compared(reading: Connection, written: Connection, table: sa.Table) -> MovedTable:
    ours, theirs = _digest(reading, table), _digest(written, table)
    if ours != theirs:
        raise CorruptionError(
            f"The table {table.name} differs: {ours[0]} rows were read and {theirs[0]} written.",
            where="catalog",
            next_step="The project goes on with the catalog that it has; run `antiphon migrate` again.",
        )
    return MovedTable(str(table.name), *ours)


def _digest(connection: Connection, table: sa.Table) -> tuple[int, str]:
    digest, rows = hashlib.sha256(), 0
    for batch in _batches(connection, table, None):
        for row in batch:
            digest.update(canonical([_plain(value) for value in row]))
        rows += len(batch)
    return rows, digest.hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return microseconds(value)
    return {"bytes": value.hex()} if isinstance(value, bytes) else value


def _not_a_mark(table: sa.Table) -> list[sa.ColumnElement[bool]]:
    return [sa.or_(_leases.c.tenant != ANY, _leases.c.environment != ANY)] if table is _leases else []


def _marks(database: Database) -> dict[str, str]:
    """The place that each mark names."""
    own = _leases.c.tenant == ANY, _leases.c.environment == ANY
    return {row.name: row.holder for row in database.rows(sa.select(_leases.c.name, _leases.c.holder).where(*own))}


def _set_mark(connection: Connection, name: str, place: str) -> None:
    row = {"tenant": ANY, "environment": ANY, "name": name, "holder": place, "epoch": 1, "until": _FOREVER}
    connection.execute(sa.insert(_leases).values(row))
