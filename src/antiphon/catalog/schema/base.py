"""Metadata and columns that all tables of the catalog share."""

from __future__ import annotations

import sqlalchemy as sa

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


def _scope() -> tuple[sa.Column[str], sa.Column[str]]:
    return sa.Column("tenant", sa.Text, primary_key=True), sa.Column("environment", sa.Text, primary_key=True)


def table(name: str, *columns: sa.schema.SchemaItem) -> sa.Table:
    # Rows live in the primary key's tree: one tree to write and to read instead of a table and an index.
    return sa.Table(name, metadata, *_scope(), *columns, sqlite_with_rowid=False)


def owned(table: sa.Table, scope: Scope) -> sa.ColumnElement[bool]:
    """The condition that a row belongs to ``scope``: part of every statement."""
    return sa.and_(table.c.tenant == scope.tenant, table.c.environment == scope.environment)
