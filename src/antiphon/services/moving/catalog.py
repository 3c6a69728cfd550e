"""Moves a project's catalog between a file and a server, in either direction.

Invariants:
- The source is one committed state, read in one transaction, and is never changed but for last rows that say where it
  went: from then on no process opens it, and none that has it open writes to it, so that two catalogs cannot both go
  on. That transaction decides the move; what is left after it is to remove one mark from a target that is whole.
- A target that is not complete says so, and no process opens it. What it holds from a move that was cut off, or from a
  copy made ahead while the project served, is brought up to date: rows that differ are written, the others are not.
- Every table is compared row by row before the source is left: what differs ends the move, and both stay as they are.
- A target that was itself moved here is replaced, after a copy of it was made: that is the way back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from itertools import zip_longest
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import upsert
from antiphon.catalog.moves import MOVES, count_move
from antiphon.core.clock import microseconds
from antiphon.core.errors import ConflictError, CorruptionError, InvalidInputError
from antiphon.core.ids import canonical
from antiphon.core.scope import ANY
from antiphon.operations.processes import ProcessIdentity
from antiphon.services.moving.marks import (
    MOVED_TO,
    MOVING_FROM,
    OWN,
    SETTINGS_AFTER,
    read_marks,
    remove_marks,
    require_present,
    set_marks,
)

BATCH = 1_000
"""Rows that are read and written in one go."""

_leases = schema.leases
_Key = tuple[Any, ...]

Tell = Callable[[str, int, int], object]
"""Takes the table, rows done, and rows in all."""


class MovedTable(msgspec.Struct, frozen=True):
    """A table that is the same in both catalogs: its rows, and the SHA-256 of them in the order of their keys."""

    table: str
    rows: int
    sha256: str


class CatalogMove:
    """One catalog on its way into another: :meth:`copy`, then :meth:`switch`; nothing changes in the source before.

    Args:
        ahead: the project goes on, for a copy ahead of the move; else nothing may have the source open.

    Raises:
        InvalidInputError: both are the same. ConflictError: the target holds another catalog, or a process has the
            source open. SetupError: the source was moved elsewhere.
    """

    def __init__(self, source: Database, target: Database, *, ahead: bool = False) -> None:
        self._source = source
        self._target = target
        self.written = 0
        """Rows that were written by the last copy."""
        self._here, self._there = source.backend.place, target.backend.place
        if self._here == self._there:
            raise InvalidInputError("The catalog is there already.", where=self._there)
        target.migrate()
        require_present(source)
        if not ahead:
            require_unused(source)
        if read_marks(target).get(MOVING_FROM) != self._here:
            self._begin()

    def copy(self, tell: Tell = lambda *_: None, without: Collection[sa.Table] = ()) -> None:
        """Make every table of the target what the source's is now, but for those ``without``."""
        self.written = 0
        with self._source.read() as reading:
            self._bring(reading, _tables(without), tell)

    def switch(
        self,
        change: Callable[[Connection, Connection], object] = lambda *_: None,
        without: Collection[sa.Table] = (),
        decide: Callable[[Connection], object] = lambda connection: None,
        tell: Callable[[int, int], object] = lambda *_: None,
    ) -> tuple[MovedTable, ...]:
        """Compare every table, change the target, leave the source, and let the target count.

        Nothing is written to the source between the comparison and its last rows: they are one transaction, and it has
        one writer.

        Args:
            change: takes a transaction of the target, while nothing opens it yet, and the one that leaves the source.
                What it writes to both is to be the same.
            decide: in the transaction that leaves the source; what it raises leaves everything as it was.
            tell: takes the rows of a table that were compared.

        Raises:
            CorruptionError: what was written is not what is there to be read; the source stays in use.
            ConflictError: a process has begun to work with the source.
        """
        with self._source.transaction() as reading:
            require_unused(self._source)
            with self._target.read() as written:
                tables = tuple(_compared(reading, written, table, tell) for table in _tables(without))
            with self._target.transaction() as connection:
                set_marks(connection, read_marks(self._source))
                change(connection, reading)
            decide(reading)
            set_marks(reading, {MOVED_TO: self._there})
            count_move(reading, self._there)
        end_move(self._here, self._target)
        return tables

    def _begin(self) -> None:
        """Mark the target, after a copy of it if it holds what was moved from here, or is moved to here."""
        target = self._target
        empty = all(target.first(sa.select(table).limit(1)) is None for table in schema.metadata.sorted_tables)
        if not empty and self._here not in read_marks(target).values():
            raise ConflictError(
                "The target holds a catalog already.",
                where=self._there,
                next_step="Name an empty database, or a [catalog] schema of its own.",
            )
        if not empty:
            target.backend.back_up(schema.REVISION)
        with target.transaction() as connection:
            connection.execute(sa.delete(_leases).where(OWN, _leases.c.name.not_in((MOVES, SETTINGS_AFTER))))
            set_marks(connection, {MOVING_FROM: self._here})

    def _empty(self, tables: Collection[sa.Table]) -> None:
        with self._target.transaction() as connection:
            for table in reversed(schema.metadata.sorted_tables):
                if table in tables:
                    connection.execute(sa.delete(table).where(*_not_a_mark(table)))

    def _bring(self, reading: Connection, tables: Sequence[sa.Table], tell: Tell) -> None:
        """Write the rows of the target that are other than the source's, and remove those that it does not have."""
        try:
            surplus = {table: self._copy(reading, table, tell) for table in tables}
        except sa.exc.IntegrityError:  # A row that is to go has what a new one needs.
            self._empty(tables)
            surplus = {table: self._copy(reading, table, tell) for table in tables}
        for table in reversed(tables):  # Rows that refer to others go before these.
            with self._target.transaction() as connection:
                for keys in surplus[table]:
                    own = (column == value for column, value in zip(table.primary_key.columns, keys, strict=True))
                    connection.execute(sa.delete(table).where(*own))

    def _copy(self, reading: Connection, table: sa.Table, tell: Tell) -> list[_Key]:
        """Write what differs of a table; return the keys of rows that the source does not have."""
        total = reading.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
        after: _Key | None = None
        surplus: list[_Key] = []
        done = 0
        for rows in _batches(reading, table, None):
            last = _key(table, rows[-1])
            there = self._target.rows(_between(table, after, last))
            if there != rows:
                surplus += {_key(table, row) for row in there} - {_key(table, row) for row in rows}
                fresh = set(map(repr, there))
                changed = [dict(row._mapping) for row in rows if repr(row) not in fresh]
                if changed:
                    with self._target.transaction() as connection:
                        connection.execute(_put(table), changed)
                self.written += len(changed)
            after, done = last, done + len(rows)
            tell(str(table.name), done, total)
        surplus += [_key(table, row) for row in self._target.rows(_between(table, after, None))]
        return surplus


def end_move(source: str, target: Database) -> None:
    """Let a target count whose source was left; doing it again changes nothing."""
    if read_marks(target).get(MOVING_FROM) == source:
        with target.transaction() as connection:
            remove_marks(connection, MOVING_FROM, SETTINGS_AFTER)


def living_leases(database: Database) -> list[tuple[str, str]]:
    """Leases by name with their holders, on whatever machine, but for those whose process is known to have ended, and
    pauses of trainings, which are no process's."""
    own, lasting = ProcessIdentity.own(), _leases.c.until >= database.clock.now()
    others = _leases.c.environment != ANY, sa.not_(_leases.c.name.startswith("training/"))
    living = sa.select(_leases.c.name, _leases.c.holder).where(lasting, *others)
    return sorted((row.name, row.holder) for row in database.rows(living) if not own.sees_end_of(row.holder))


def require_unused(database: Database) -> None:
    """Refuse a catalog that processes work with, on whatever machine.

    Raises:
        ConflictError: some do.
    """
    if living := living_leases(database):
        raise ConflictError(
            f"Processes work with this catalog: {', '.join(name for name, _ in living)}.",
            where=database.backend.place,
            next_step="Stop them on every machine; one that was killed is forgotten within a minute.",
        )


def digests(database: Database, without: Collection[sa.Table] = ()) -> tuple[MovedTable, ...]:
    """Rows and hash of every table as it is, in one read transaction."""
    with database.read() as connection:
        return tuple(_digest(connection, table) for table in _tables(without))


def _tables(without: Collection[sa.Table]) -> list[sa.Table]:
    return [table for table in schema.metadata.sorted_tables if table not in without]


def _put(table: sa.Table) -> sa.Insert:
    """Writes a row in the place of the one with its key."""
    statement = upsert(table)
    others = [column.name for column in table.columns if not column.primary_key]
    if not others:
        return statement.on_conflict_do_nothing()
    return statement.on_conflict_replace(*others)


def _batches(connection: Connection, table: sa.Table, after: _Key | None) -> Iterator[Sequence[sa.Row[Any]]]:
    """The rows after a key, in the order of keys."""
    while rows := connection.execute(_between(table, after, None).limit(BATCH)).all():
        yield rows
        after = _key(table, rows[-1])


def _between(table: sa.Table, after: _Key | None, last: _Key | None) -> sa.Select[Any]:
    """The rows after one key and up to another, in the order of keys."""
    keys = list(table.primary_key.columns)

    def bound(values: _Key) -> sa.Tuple:
        return sa.tuple_(*(sa.bindparam(None, value, key.type) for key, value in zip(keys, values, strict=True)))

    statement = sa.select(table).where(*_not_a_mark(table)).order_by(*keys)
    if after is not None:
        statement = statement.where(sa.tuple_(*keys) > bound(after))
    return statement if last is None else statement.where(sa.tuple_(*keys) <= bound(last))


def _key(table: sa.Table, row: sa.Row[Any]) -> _Key:
    return tuple(row._mapping[key] for key in table.primary_key.columns)


def _compared(
    reading: Connection, written: Connection, table: sa.Table, tell: Callable[[int, int], object]
) -> MovedTable:
    """Compare by turns: a server ends a write transaction that is silent for long."""
    ours, theirs = _TableDigest(), _TableDigest()
    for one, other in zip_longest(_batches(reading, table, None), _batches(written, table, None), fillvalue=()):
        ours.add(one)
        theirs.add(other)
        tell(theirs.rows, ours.rows)
    if ours.hex != theirs.hex:
        raise CorruptionError(
            f"The table {table.name} differs: {ours.rows} rows were read and {theirs.rows} written.",
            where="catalog",
            next_step="The project goes on with the catalog that it has; run `antiphon migrate` again.",
        )
    return MovedTable(str(table.name), ours.rows, ours.hex)


class _TableDigest:
    """The SHA-256 of rows in order."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self.rows = 0

    def add(self, rows: Sequence[sa.Row[Any]]) -> None:
        for row in rows:
            self._digest.update(canonical([_plain(value) for value in row]))
        self.rows += len(rows)

    @property
    def hex(self) -> str:
        return self._digest.hexdigest()


def _digest(connection: Connection, table: sa.Table) -> MovedTable:
    found = _TableDigest()
    for rows in _batches(connection, table, None):
        found.add(rows)
    return MovedTable(str(table.name), found.rows, found.hex)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return microseconds(value)
    return {"bytes": value.hex()} if isinstance(value, bytes) else value


def _not_a_mark(table: sa.Table) -> list[sa.ColumnElement[bool]]:
    return [sa.not_(OWN)] if table is _leases else []
