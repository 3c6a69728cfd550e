"""Compiles a view's measures to DuckDB SQL, for batch, point-in-time joins and lineage.

Invariant: the same values as ``compile_python``. So fixed-point measures become integers before they are added, and
sums are HUGEINT, never floating.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from antiphon.core.clock import microseconds
from antiphon.core.errors import InvalidInputError
from antiphon.definitions.nodes import Kind
from antiphon.features.expressions.compile_python import SEQUENCE_DIGITS
from antiphon.features.expressions.expression_sql import SQL_TYPES, ExpressionSql
from antiphon.features.plan import LIMIT, ViewMeasure, ViewPlan
from antiphon.features.tiles.sketches import hashed_sql

INSTANT_TYPES = ("TIMESTAMP", "DATE", "VARCHAR")
"""Beginnings of the DuckDB types that a time column may have."""
_EARLIEST, _LATEST = microseconds(datetime.min.replace(tzinfo=UTC)), microseconds(datetime.max.replace(tzinfo=UTC))


def rows_sql(
    plan: ViewPlan, relation: str, types: Mapping[str, str], *, hashed: bool = True
) -> tuple[str, tuple[Kind, ...]]:
    """A SELECT of measured rows over a relation, and the kind of each measure.

    The rows have ``k0 …`` (keys as text), ``event_time`` and ``available_at`` (microseconds), ``seq`` and
    ``m0 …``; keys and times that cannot be read are null, so that the caller can count and drop such rows.

    Args:
        relation: anything that may stand after FROM.
        types: column name to DuckDB type.
        hashed: ``False`` gives in ``seq`` the text that :func:`hashed_seq` makes the sequence of.

    Raises:
        InvalidInputError: a declared column is missing, or used as a kind it does not have.
    """
    source = plan.spec.source
    compiler = ExpressionSql(types, f"source {source.name}")
    picked = [f"CAST({compiler.column(key)} AS VARCHAR) AS k{index}" for index, key in enumerate(plan.keys)]
    picked.append(f"{_instant(compiler.column(source.event_time), types[source.event_time])} AS event_time")
    available = source.available_at or source.event_time
    picked.append(f"{_instant(compiler.column(available), types[available])} AS available_at")
    identity = (
        f"CAST({compiler.column(source.event_id)} AS VARCHAR)"
        if source.event_id is not None
        else "CAST(this_row AS VARCHAR)"
    )
    picked.append(f"{hashed_seq(identity) if hashed else identity} AS seq")
    kinds: list[Kind] = []
    outer: list[str] = []
    for index, measure in enumerate(plan.measures):
        sql, found = _measured(compiler, measure)
        picked.append(f"{sql} AS r{index}")
        kinds.append("number" if measure.mode in ("fixed", "hashed") else found)
        outer.append(f"{_finished(measure, f'r{index}', found)} AS m{index}")
    filtered = f" WHERE {compiler.condition(source.where)}" if source.where is not None else ""
    columns = ", ".join([*plan.key_columns, "event_time", "available_at", "seq", *outer])
    return f"SELECT {columns} FROM (SELECT {', '.join(picked)} FROM {relation} AS this_row{filtered})", tuple(kinds)


def hashed_seq(identity: str) -> str:
    """The sequence of an event from the text that tells it from others."""
    return f"left(sha256({identity}), {SEQUENCE_DIGITS})"


def instant_sql(column: str) -> str:
    """Microseconds since 1970 of a column that may hold instants; null for what is none, infinite, or outside the years
    1 to 9999, which no reader could print."""
    instant = f"epoch_us(TRY_CAST({column} AS TIMESTAMPTZ))"
    return f"CASE WHEN {instant} BETWEEN {_EARLIEST} AND {_LATEST} THEN {instant} END"


def _instant(column: str, sql_type: str) -> str:
    if sql_type.startswith(INSTANT_TYPES):
        return instant_sql(column)
    raise InvalidInputError(
        f"The time column {column} is {sql_type}.", next_step="Store instants as timestamps (without zone: UTC)."
    )


def _finished(measure: ViewMeasure, raw: str, kind: Kind) -> str:
    if measure.mode == "count" or (measure.mode == "plain" and kind != "number"):
        return raw
    if measure.mode == "hashed":
        return hashed_sql(f"CASE WHEN isfinite({raw}) THEN {raw} END" if kind == "number" else raw, kind)
    if measure.mode == "plain":
        return f"CASE WHEN {raw} = 0 THEN 0.0::DOUBLE WHEN isfinite({raw}) THEN {raw} END"
    # NaN compares as the greatest number, so it fails the bound like anything else out of range.
    return f"CASE WHEN abs({raw}) <= {LIMIT}::DOUBLE THEN CAST({raw} AS BIGINT) END"


def _measured(compiler: ExpressionSql, measure: ViewMeasure) -> tuple[str, Kind]:
    kind: Kind
    if measure.expression is None:
        sql, kind = "1::BIGINT", "number"
    else:
        sql, kind = compiler.expression(measure.expression)
        if kind == "instant":
            raise compiler.wrong("An instant cannot be aggregated; take its hour or weekday.")
        if measure.mode in ("plain", "hashed"):
            sql = f"CAST({sql} AS {SQL_TYPES[kind]})"
        else:
            if kind == "text":
                raise compiler.wrong("A text cannot be added up.")
            numerator, denominator = measure.scale
            sql = f"CAST({sql} AS DOUBLE) * {float(denominator)!r}::DOUBLE / {float(numerator)!r}::DOUBLE"
    if measure.where is not None:
        sql = f"CASE WHEN {compiler.condition(measure.where)} THEN {sql} END"
    return sql, kind
