"""Expressions and measures compiled to DuckDB SQL: what batch, point-in-time and lineage run.

Invariant: the same values as ``compile_python``. So every number is cast to DOUBLE before anything is done with
it, fixed-point measures become integers before they are added, and sums are HUGEINT, never floating.
"""

from __future__ import annotations

from collections.abc import Mapping

from antiphon.core.errors import InvalidInput
from antiphon.definitions.expression import (
    Arithmetic,
    Boolean,
    Coalesce,
    Column,
    Comparison,
    Expression,
    IsNull,
    Kind,
    Literal,
    Not,
    kind_of_value,
)
from antiphon.features.compile_python import SEQUENCE_DIGITS
from antiphon.features.plan import LIMIT, Measure, Plan

_NUMERIC = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT",
            "UHUGEINT", "FLOAT", "DOUBLE", "DECIMAL")  # fmt: skip
_SQL_TYPE: dict[Kind, str] = {"number": "DOUBLE", "boolean": "BOOLEAN", "text": "VARCHAR", "null": "DOUBLE"}


def quoted(name: str) -> str:
    """An identifier, quoted."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """A text literal."""
    return "'" + value.replace("'", "''") + "'"


def column_kind(sql_type: str) -> Kind:
    """What values of a DuckDB type are to an expression; ``unknown`` cannot be used in one."""
    if sql_type.startswith(_NUMERIC):
        return "number"
    if sql_type == "BOOLEAN":
        return "boolean"
    return "text" if sql_type.startswith(("VARCHAR", "ENUM", "UUID")) else "unknown"


def rows_sql(plan: Plan, relation: str, types: Mapping[str, str]) -> tuple[str, tuple[Kind, ...]]:
    """A SELECT of measured rows over a relation, and the kind of each measure.

    The rows have ``k0 …`` (keys as text), ``event_time`` and ``available_at`` (microseconds), ``seq`` and
    ``m0 …``; keys and times that cannot be read are null, so that the caller can count and drop such rows.

    Args:
        relation: anything that may stand after FROM.
        types: column name to DuckDB type.

    Raises:
        InvalidInput: a declared column is missing, or used as a kind it does not have.
    """
    source = plan.spec.source
    where = f"source {source.name}"

    def require(name: str) -> str:
        if name not in types:
            raise InvalidInput(
                f"There is no column {name!r}; there are {', '.join(types)}.",
                where=where,
                next_step="Correct the definition or the file.",
            )
        return f"this_row.{quoted(name)}"

    compiler = _Compiler(types, where)
    picked = [f"CAST({require(key)} AS VARCHAR) AS k{index}" for index, key in enumerate(plan.keys)]
    event_time = _instant(require(source.event_time), types[source.event_time])
    picked.append(f"{event_time} AS event_time")
    if source.available_at is None:
        picked.append(f"{event_time} AS available_at")
    else:
        picked.append(f"{_instant(require(source.available_at), types[source.available_at])} AS available_at")
    identity = (
        f"CAST({require(source.event_id)} AS VARCHAR)" if source.event_id is not None else "CAST(this_row AS VARCHAR)"
    )
    picked.append(f"left(sha256({identity}), {SEQUENCE_DIGITS}) AS seq")
    kinds: list[Kind] = []
    outer: list[str] = []
    for index, measure in enumerate(plan.measures):
        sql, found = compiler.measure(measure)
        picked.append(f"{sql} AS r{index}")
        kinds.append("number" if measure.mode == "fixed" else found)
        outer.append(f"{_finished(measure, f'r{index}', found)} AS m{index}")
    filtered = f" WHERE {compiler.condition(source.where)}" if source.where is not None else ""
    keys = [f"k{index}" for index in range(len(plan.keys))]
    columns = ", ".join([*keys, "event_time", "available_at", "seq", *outer])
    return f"SELECT {columns} FROM (SELECT {', '.join(picked)} FROM {relation} AS this_row{filtered})", tuple(kinds)


def condition_sql(node: Expression, types: Mapping[str, str], where: str) -> str:
    """A condition over ``this_row``, a relation with columns of these types; raises as :func:`rows_sql`."""
    return _Compiler(types, where).condition(node)


def _instant(column: str, sql_type: str) -> str:
    if sql_type.startswith(("TIMESTAMP", "DATE", "VARCHAR")):
        return f"epoch_us(TRY_CAST({column} AS TIMESTAMPTZ))"
    raise InvalidInput(
        f"The time column {column} is {sql_type}.", next_step="Store instants as timestamps (without zone: UTC)."
    )


def _finished(measure: Measure, raw: str, kind: Kind) -> str:
    if measure.mode == "count" or (measure.mode == "plain" and kind != "number"):
        return raw
    if measure.mode == "plain":
        return f"CASE WHEN {raw} = 0 THEN 0.0::DOUBLE WHEN isfinite({raw}) THEN {raw} END"
    # NaN compares as the greatest number, so it fails the bound like anything else out of range.
    return f"CASE WHEN abs({raw}) <= {LIMIT}::DOUBLE THEN CAST({raw} AS BIGINT) END"


class _Compiler:
    def __init__(self, types: Mapping[str, str], where: str) -> None:
        self._types = types
        self._where = where

    def measure(self, measure: Measure) -> tuple[str, Kind]:
        kind: Kind
        if measure.expression is None:
            sql, kind = "1::BIGINT", "number"
        else:
            sql, kind = self.expression(measure.expression)
            if measure.mode == "plain":
                sql = f"CAST({sql} AS {_SQL_TYPE[kind]})"
            else:
                if kind == "text":
                    raise self._wrong("A text cannot be added up.")
                numerator, denominator = measure.scale
                sql = f"CAST({sql} AS DOUBLE) * {float(denominator)!r}::DOUBLE / {float(numerator)!r}::DOUBLE"
        if measure.where is not None:
            sql = f"CASE WHEN {self.condition(measure.where)} THEN {sql} END"
        return sql, kind

    def condition(self, node: Expression) -> str:
        sql, kind = self.expression(node)
        if kind not in ("boolean", "null"):
            raise self._wrong(f"A condition is a {kind}.")
        return sql

    def expression(self, node: Expression) -> tuple[str, Kind]:
        match node:
            case Column(name=name):
                return self._column(name)
            case Literal(value=value):
                return _literal(value), kind_of_value(value)
            case Arithmetic(operator=symbol, left=left, right=right):
                a, b = self._of_kind(left, "number", symbol), self._of_kind(right, "number", symbol)
                if symbol == "/":
                    return f"({a} / nullif({b}, 0.0::DOUBLE))", "number"
                return f"({a} {symbol} {b})", "number"
            case Comparison(operator=symbol, left=left, right=right):
                (a, a_kind), (b, b_kind) = self._finite(left), self._finite(right)
                if a_kind != b_kind and "null" not in (a_kind, b_kind):
                    raise self._wrong(f"{symbol!r} compares a {a_kind} with a {b_kind}.")
                return f"({a} {symbol} {b})", "boolean"
            case Boolean(operator=symbol, left=left, right=right):
                a, b = self._of_kind(left, "boolean", symbol), self._of_kind(right, "boolean", symbol)
                return f"({a} {symbol} {b})", "boolean"
            case Not(operand=operand):
                return f"(NOT {self._of_kind(operand, 'boolean', 'not')})", "boolean"
            case IsNull(operand=operand):
                return f"({self._finite(operand)[0]} IS NULL)", "boolean"
            case Coalesce(operands=operands):
                compiled = [self._finite(operand) for operand in operands]
                kinds = {kind for _sql, kind in compiled} - {"null"}
                if len(kinds) > 1:
                    raise self._wrong(f"coalesce mixes {' and '.join(sorted(kinds))}.")
                return f"coalesce({', '.join(sql for sql, _kind in compiled)})", kinds.pop() if kinds else "null"

    def _column(self, name: str) -> tuple[str, Kind]:
        if name not in self._types:
            raise self._wrong(f"There is no column {name!r}; there are {', '.join(self._types)}.")
        kind = column_kind(self._types[name])
        if kind == "unknown":
            raise self._wrong(f"The column {name!r} is {self._types[name]}, which no expression can use.")
        if kind == "number":
            number = f"CAST(this_row.{quoted(name)} AS DOUBLE)"
            if not self._types[name].startswith(("FLOAT", "DOUBLE")):
                return number, kind
            return f"CASE WHEN isfinite({number}) THEN {number} END", kind
        return f"CAST(this_row.{quoted(name)} AS {_SQL_TYPE[kind]})", kind

    def _of_kind(self, node: Expression, wanted: Kind, symbol: str) -> str:
        sql, kind = self.expression(node)
        if kind == "null":
            return f"CAST(NULL AS {_SQL_TYPE[wanted]})"
        if kind != wanted:
            raise self._wrong(f"{symbol!r} needs a {wanted}, not a {kind}.")
        return sql

    def _finite(self, node: Expression) -> tuple[str, Kind]:
        sql, kind = self.expression(node)
        return (f"CASE WHEN isfinite({sql}) THEN {sql} END" if isinstance(node, Arithmetic) else sql), kind

    def _wrong(self, what: str) -> InvalidInput:
        return InvalidInput(what, where=self._where, next_step="Correct the definition or the file.")


def _literal(value: bool | float | str | None) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    return text(value) if isinstance(value, str) else f"{value!r}::DOUBLE"
