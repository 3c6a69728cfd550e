"""The description of a followed PostgreSQL table: parts of statements about it, and the reasons why one is refused."""

from __future__ import annotations

from typing import Any

import msgspec

from antiphon.core.errors import InvalidInputError
from antiphon.definitions.following import PostgresTable
from antiphon.definitions.source import SourceSpec
from antiphon.features.expressions.expression_sql import quoted
from antiphon.features.sources.postgres import readable_column

_FLOORS = {
    **dict.fromkeys(("int2", "int4", "int8"), "(%s::int8 - 100000)"),  # Of a type that their index compares with.
    "numeric": "(%s::numeric - 100000)",
    "date": "(least(%s::date, current_date) - 2)",
    "timestamp": "(least(%s::timestamp, localtimestamp) - interval '1 hour')",
    "timestamptz": "(least(%s::timestamptz, now()) - interval '1 hour')",
}
"""Rows so far below the greatest watermark are left to sweeps."""

_NUMBERS = ("float4", "float8", "numeric", "money")

_UNIQUE = """
SELECT 1 FROM pg_index AS i WHERE i.indrelid = to_regclass(%(table)s) AND i.indisunique AND i.indisvalid
AND i.indpred IS NULL AND i.indexprs IS NULL AND ARRAY(
    SELECT a.attname::text FROM pg_attribute AS a
    WHERE a.attrelid = i.indrelid AND a.attnum = ANY((i.indkey::int2[])[0:i.indnkeyatts - 1])
    AND (a.attname = %(column)s OR NOT EXISTS (
        SELECT 1 FROM pg_partitioned_table AS p WHERE p.partrelid = i.indrelid AND a.attnum = ANY(p.partattrs)
    ))
) = ARRAY[%(column)s::text]
"""
"""A unique index over a column; of a table in parts the columns that divide it may be in it as well."""


class FollowedTable(msgspec.Struct, frozen=True):
    """A followed table as its database describes it: parts of statements, in which it is called ``own``.

    Attributes:
        payload: a row as a text of JSON.
        watermark, identity: the columns that rows are ordered by, with their types.
        nullable: one of these may be null.
    """

    name: str
    payload: str
    watermark: str
    watermark_kind: str
    identity: str
    identity_kind: str
    nullable: bool

    @property
    def place(self) -> str:
        """The columns that rows are ordered by; :attr:`place_values` takes values for them."""
        return f"({self.watermark}, {self.identity})"

    @property
    def place_values(self) -> str:
        return f"(%s::{self.watermark_kind}, %s::{self.identity_kind})"

    @property
    def floor(self) -> str:
        """A condition of rows that are not far below a watermark; it takes that as a value."""
        return f"{self.watermark} >= {_FLOORS[self.watermark_kind]}"

    @property
    def present(self) -> tuple[str, ...]:
        """Conditions of rows that have a watermark and an id."""
        return (f"{self.watermark} IS NOT NULL", f"{self.identity} IS NOT NULL") if self.nullable else ()


def described_table(cursor: Any, source: SourceSpec) -> FollowedTable:
    """Describe the table that a stream follows.

    Args:
        cursor: of its database.

    Raises:
        InvalidInputError: there is no such table or column, or it is none that can be followed.
    """
    follow = source.follow
    assert isinstance(follow, PostgresTable)
    name = ".".join(quoted(part) for part in follow.table.split("."))
    cursor.execute(
        "SELECT c.relkind::text, a.attname::text, t.typname::text, a.attnotnull, CASE "
        "WHEN t.typnamespace = 'pg_catalog'::regnamespace THEN quote_ident(t.typname) "
        "ELSE format_type(t.oid, NULL) END FROM pg_class AS c "
        "JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped "
        "JOIN pg_type AS t ON t.oid = a.atttypid WHERE c.oid = to_regclass(%s) ORDER BY a.attnum",
        (name,),
    )
    described = cursor.fetchall()
    kinds = {column: kind for _, column, kind, _, _ in described}
    filled = {column for _, column, _, not_null, _ in described if not_null}
    types = {column: sql_type for _, column, _, _, sql_type in described}
    if not described:
        raise _refused(source, "there is no such table, or its user may not see it", "Correct its name, or grant it.")
    if described[0][0] not in ("r", "p"):
        raise _refused(source, "it is no table, and rows of views tell no transaction", "Follow the table below it.")
    watermark = follow.watermark
    for column in (source.event_time, source.available_at, source.event_id, watermark):
        if column is not None and column not in kinds:
            raise _refused(source, f"it has no column {column!r}; it has {', '.join(kinds)}", "Correct the source.")
    if kinds[watermark] not in _FLOORS:
        raise _refused(
            source,
            f"the watermark {watermark!r} is {kinds[watermark]}",
            "Name a column of whole numbers or times that grow as rows come.",
        )
    assert source.event_id is not None
    if not follow.unique:
        cursor.execute(_UNIQUE, {"table": name, "column": source.event_id})
        if cursor.fetchone() is None:
            raise _refused(
                source,
                f"no unique index says that {source.event_id!r} names a row, and rows of one id count once",
                "Name a unique column in event_id; or declare unique=True where it is unique without an index.",
            )
    columns = ", ".join(
        f"{_value(column, kind, exact=column == source.event_id)} AS {_column(column)}"
        for column, kind in kinds.items()
    )
    return FollowedTable(
        _escaped(name),
        f"row_to_json((SELECT payload FROM (SELECT {columns}) AS payload))::text",
        f"own.{_column(watermark)}",
        kinds[watermark],
        f"own.{_column(source.event_id)}",
        _escaped(types[source.event_id]),
        not {watermark, source.event_id} <= filled,
    )


def _value(column: str, kind: str, *, exact: bool = False) -> str:
    """A column as batch reads it from a table; JSON has no number that is none. An ``exact`` one, which is an id, is a
    text where a float would make two of them one."""
    name = f"own.{_column(column)}"
    if exact and kind in _NUMBERS:
        return f"{name}::text"
    if kind not in _NUMBERS:
        return readable_column(name, kind)
    number = f"{name}::numeric" if kind == "money" else name
    return f"CASE WHEN abs({number}) < 1e308 THEN {number}::float8 END"


def _refused(source: SourceSpec, what: str, next_step: str) -> InvalidInputError:
    assert isinstance(source.follow, PostgresTable)
    return InvalidInputError(
        f"The table {source.follow.table} cannot be followed: {what}.",
        where=f"source {source.name}",
        next_step=next_step,
    )


def _column(name: str) -> str:
    return _escaped(quoted(name))


def _escaped(name: str) -> str:
    """A name in a statement that takes values."""
    return name.replace("%", "%%")
