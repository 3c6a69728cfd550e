"""Values as rows: a column and a field of one name hold the same; the scope stands in tenant and environment."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Generic, TypeVar

import msgspec
from sqlalchemy import ColumnElement, Table, select
from sqlalchemy.engine import Connection, Row

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.sealed_columns import SEALED_COLUMNS
from antiphon.core.clock import Clock, utc
from antiphon.core.errors import NotFoundError
from antiphon.core.scope import Scope

T = TypeVar("T", bound=msgspec.Struct)


def row_of(table: Table, value: Any, scope: Scope | None = None, **others: Any) -> dict[str, Any]:
    """The row of a value, in its own scope or a given one; ``others`` are columns that it has under no such name."""
    own = {name: getattr(value, name) for name in table.c.keys() if hasattr(value, name)}  # noqa: SIM118
    scope = scope or value.scope
    return {**own, "tenant": scope.tenant, "environment": scope.environment, **others}


def value_of(kind: type[T], row: Row[Any], **others: Any) -> T:
    """The value that a row holds; ``others`` are fields that it has under no such name."""
    columns = dict(zip(row._fields, row, strict=True))
    fields = {name: columns[name] for name in kind.__struct_fields__ if name in columns}
    if "scope" in kind.__struct_fields__:
        fields["scope"] = Scope(row.tenant, row.environment)
    return kind(**{**fields, **others})


def next_moment(clock: Clock, moves: Sequence[Any]) -> datetime:
    """The time of a move that follows these: not before the last one's, also when the wall clock was set back."""
    now = utc(clock.now())
    last: datetime = moves[-1].at if moves else now
    return max(now, last)


def missing(what: str, name: object, scope: Scope, next_step: str) -> NotFoundError:
    """The error of a scope that has nothing of this name."""
    return NotFoundError(f"There is no {what} {name!r}.", where=str(scope), next_step=next_step)


class SealedRows(Generic[T]):
    """The rows of a table that hold a value each, sealed whole, beside the columns that it is found by.

    Args:
        column: the sealed column, ``table.column`` of :data:`~antiphon.catalog.sealed_columns.SEALED_COLUMNS`.
        kind: of the values.
    """

    def __init__(self, database: Database, column: str, kind: type[T]) -> None:
        self._database = database
        (self._sealed,) = (one for one in SEALED_COLUMNS if one.name == column)
        self._table = schema.metadata.tables[self._sealed.table]
        self._columns = [self._table.c[name] for name in (*self._sealed.subject, self._sealed.column)]
        self._decoder = msgspec.json.Decoder(kind)

    def row(self, value: Any, scope: Scope | None = None, **others: Any) -> dict[str, Any]:
        """The row of a value, as :func:`row_of` makes it, with the value sealed."""
        scope = scope or value.scope
        row = row_of(self._table, value, scope, **others)
        subject = ":".join(str(row[name]) for name in self._sealed.subject)
        sealed = self._database.seal(scope, self._sealed.schema, subject, msgspec.json.encode(value))
        return {**row, self._sealed.column: sealed}

    def find(
        self,
        scope: Scope,
        *conditions: ColumnElement[bool],
        order: Sequence[ColumnElement[Any]] = (),
        limit: int | None = None,
        within: Connection | None = None,
    ) -> list[T]:
        """The values of a scope that meet the conditions."""
        statement = select(*self._columns).where(schema.owned(self._table, scope), *conditions)
        with self._database.reading(within) as connection:
            rows = connection.execute(statement.order_by(*order).limit(limit)).all()
            return [self._opened(scope, row) for row in rows]

    def get(self, scope: Scope, name: str, *, within: Connection | None = None) -> T | None:
        """The value of this id, if there is one."""
        found = self.find(scope, self._columns[0] == name, within=within)
        return found[0] if found else None

    def require(self, scope: Scope, name: str, what: str, next_step: str, *, within: Connection | None = None) -> T:
        """The value of this id.

        Raises:
            NotFoundError: there is none; the message says of ``what``, and the next step.
        """
        found = self.get(scope, name, within=within)
        if found is None:
            raise missing(what, name, scope, next_step)
        return found

    def _opened(self, scope: Scope, row: Row[Any]) -> T:
        *subject, sealed = tuple(row)
        return self._decoder.decode(
            self._database.unseal(scope, self._sealed.schema, ":".join(map(str, subject)), sealed)
        )
