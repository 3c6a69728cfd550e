"""Parts that all tables of the catalog share: metadata, the columns of their scope, and short forms of the others."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

from antiphon.catalog.dialect import TEXT
from antiphon.core.clock import from_microseconds, microseconds
from antiphon.core.scope import Scope

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Columns = list[sa.Column[Any]]


class Instant(sa.types.TypeDecorator[datetime]):
    """An instant, kept as whole microseconds since 1970 UTC."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> int | None:
        return None if value is None else microseconds(value)

    def process_result_value(self, value: int | None, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else from_microseconds(value)


def owned(table: sa.Table, scope: Scope, **equal: Any) -> sa.ColumnElement[bool]:
    """The condition that a row belongs to ``scope``, part of every statement; and that columns have these values."""
    return sa.and_(*_of_scope(table, scope), *(table.c[name] == value for name, value in equal.items()))


@lru_cache(maxsize=1_024)
def _of_scope(table: sa.Table, scope: Scope) -> tuple[sa.ColumnElement[bool], ...]:
    # Kept: SQLAlchemy takes longer to make the two than SQLite to find the row.
    return table.c.tenant == scope.tenant, table.c.environment == scope.environment


def given(table: sa.Table, **equal: Any) -> list[sa.ColumnElement[bool]]:
    """The conditions that columns have these values, as far as they are given: ``None`` is no condition."""
    return [table.c[name] == value for name, value in equal.items() if value is not None]


def table(name: str, *parts: sa.schema.SchemaItem | Columns) -> sa.Table:
    """A table whose key begins with tenant and environment."""
    items = [one for part in parts for one in (part if isinstance(part, list) else [part])]
    # Rows live in the primary key's tree: one tree to write and to read instead of a table and an index.
    return sa.Table(name, metadata, *key("tenant", "environment"), *items, sqlite_with_rowid=False)


def key(*names: str, kind: Any = TEXT) -> Columns:
    """Columns of the primary key."""
    return [sa.Column(name, kind, primary_key=True, autoincrement=False) for name in names]


def numbered(*names: str) -> Columns:
    """The primary key of a sequence that each value of these columns has of its own."""
    return [*key(*names), *key("sequence", kind=sa.BigInteger)]


def columns(kind: Any, *names: str) -> Columns:
    """Columns of one kind that every row has a value in."""
    return [sa.Column(name, kind, nullable=False) for name in names]


def optional(kind: Any, *names: str) -> Columns:
    """Columns of one kind that may be null."""
    return [sa.Column(name, kind) for name in names]


def dated(name: str) -> Columns:
    """A document or payload, and the time at which it was made."""
    return [*columns(sa.LargeBinary, name), *columns(Instant, "created_at")]


def index(name: str, *names: str) -> sa.Index:
    """An index over rows of a scope."""
    return sa.Index(name, "tenant", "environment", *names)


def one_where(condition: str, name: str, *names: str) -> sa.Index:
    """An index of rows that meet a condition: at most one of these values does, whatever two writers believe."""
    where = sa.text(condition)
    return sa.Index(name, "tenant", "environment", *names, unique=True, sqlite_where=where, postgresql_where=where)


def unique(*names: str) -> sa.UniqueConstraint:
    """The constraint that no two rows of a scope have the same values."""
    return sa.UniqueConstraint("tenant", "environment", *names)


def refers(name: str, other: str) -> sa.ForeignKeyConstraint:
    """The constraint that a column names a row of another table, of the same scope, by its id."""
    return sa.ForeignKeyConstraint(
        ["tenant", "environment", name], [f"{other}.tenant", f"{other}.environment", f"{other}.id"]
    )
