"""Compiles expressions to DuckDB SQL, for batch, point-in-time joins and lineage.

Invariant: the same values as ``expression_python``. So every number is cast to DOUBLE before anything is done with it,
and what DuckDB would compute otherwise than Python is made of operations that both round correctly (``numerics``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from fractions import Fraction

from antiphon.core.errors import InvalidInputError
from antiphon.definitions import nodes
from antiphon.definitions.nodes import Expression, Kind, kind_of_value
from antiphon.features.expressions.expression_python import INSTANT, NOW, request_place
from antiphon.features.expressions.numerics import DAY, HOUR, LN2, NEAR, SERIES, WHOLE, offsets_of
from antiphon.features.tiles.sketches import hashed_sql

_NUMERIC = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT",
            "UHUGEINT", "FLOAT", "DOUBLE", "DECIMAL")  # fmt: skip
SQL_TYPES: dict[Kind, str] = {
    "number": "DOUBLE",
    "boolean": "BOOLEAN",
    "text": "VARCHAR",
    "instant": "DOUBLE",
    "null": "DOUBLE",
}


def quoted(name: str) -> str:
    """An identifier, quoted."""
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    """A text literal."""
    return "'" + value.replace("'", "''") + "'"


def column_kind(sql_type: str) -> Kind:
    """Kind that a DuckDB type has in expressions; values of the kind ``unknown`` cannot be used."""
    if sql_type.startswith(_NUMERIC):
        return "number"
    if sql_type.startswith("TIMESTAMP"):
        return "instant"
    if sql_type in ('"NULL"', "NULL"):
        return "null"
    if sql_type == "BOOLEAN":
        return "boolean"
    return "text" if sql_type.startswith(("VARCHAR", "ENUM", "UUID")) else "unknown"


class ExpressionSql:
    """Compiles expressions over one relation, whose alias is ``this_row``.

    Args:
        types: column name to DuckDB type.
        where: what errors name.
        instants: columns of numbers that are microseconds since 1970.
    """

    def __init__(self, types: Mapping[str, str], where: str, instants: Collection[str] = ()) -> None:
        self._types = types
        self._where = where
        self._instants = instants
        self._bound = 0

    def condition(self, node: Expression) -> str:
        """A boolean; raises ``InvalidInputError`` when it is none, and as :meth:`expression`."""
        sql, kind = self.expression(node)
        if kind not in ("boolean", "null"):
            raise self.wrong(f"A condition is a {kind}.")
        return sql

    def expression(self, node: Expression) -> tuple[str, Kind]:
        """An expression and its kind; raises ``InvalidInputError`` when a column is missing, or something is of a kind
        it cannot be of."""
        match node:
            case nodes.ColumnNode(name=name):
                return self._column(name)
            case nodes.LiteralNode(value=value):
                return _literal(value), kind_of_value(value)
            case nodes.ArithmeticNode(operator=symbol, left=left, right=right):
                a, b = self._of_kind(left, "number", symbol), self._of_kind(right, "number", symbol)
                if symbol == "/":
                    return f"({a} / nullif({b}, 0.0::DOUBLE))", "number"
                return f"({a} {symbol} {b})", "number"
            case nodes.ComparisonNode(operator=symbol, left=left, right=right):
                (a, a_kind), (b, b_kind) = self._finite(left), self._finite(right)
                if "instant" in (a_kind, b_kind):
                    raise self.wrong(f"{symbol!r} compares instants; compare their seconds_since instead.")
                if a_kind != b_kind and "null" not in (a_kind, b_kind):
                    raise self.wrong(f"{symbol!r} compares a {a_kind} with a {b_kind}.")
                return f"({a} {symbol} {b})", "boolean"
            case nodes.BooleanNode(operator=symbol, left=left, right=right):
                a, b = self._of_kind(left, "boolean", symbol), self._of_kind(right, "boolean", symbol)
                return f"({a} {symbol} {b})", "boolean"
            case nodes.NotNode(operand=operand):
                return f"(NOT {self._of_kind(operand, 'boolean', 'not')})", "boolean"
            case nodes.IsNullNode(operand=operand):
                return f"({self._finite(operand)[0]} IS NULL)", "boolean"
            case nodes.CoalesceNode(operands=operands):
                compiled, found = self._alike("coalesce", operands)
                return f"coalesce({', '.join(compiled)})", found
            case nodes.RequestInputNode(name=name):
                return self._column(request_place(name))
            case nodes.FeatureValueNode(name=name):
                return self._column(name)
            case nodes.NowNode():
                return self._column(NOW)
            case nodes.CallNode(function=function, operands=operands):
                return self._call(function, operands)
            case nodes.RoundNode(operand=operand, step=step):
                return self._rounded(operand, Fraction(step)), "number"
            case nodes.CaseNode(branches=branches, otherwise=otherwise):
                conditions = [self.condition(condition) for condition, _value in branches]
                values, found = self._alike("when", (*(value for _condition, value in branches), otherwise))
                chosen = " ".join(f"WHEN {c} THEN {v}" for c, v in zip(conditions, values[:-1], strict=True))
                return f"(CASE {chosen} ELSE {values[-1]} END)", found
            case nodes.MembershipNode(operand=operand, values=constants):
                sql, found = self._finite(operand)
                kinds = {found, *map(kind_of_value, constants)} - {"null"}
                if len(kinds) > 1:
                    raise self.wrong(f"is_in mixes {' and '.join(sorted(kinds))}.")
                return f"({sql} IN ({', '.join(map(_literal, constants))}))", "boolean"
            case nodes.CalendarNode(part=part, operand=operand, zone=zone):
                return self._calendar(part, operand, zone), "number"
            case nodes.HashBucketNode(operand=operand, buckets=buckets):
                sql, found = self._finite(operand)
                if found == "instant":
                    raise self.wrong("hash_bucket needs a text, a number or a boolean, not an instant.")
                return f"CAST({hashed_sql(_typed(sql, found), found)} % {buckets} AS DOUBLE)", "number"

    def column(self, name: str) -> str:
        """A column as it is; raises ``InvalidInputError`` when there is none of this name."""
        if name not in self._types:
            raise self.wrong(f"There is no column {name!r}; there are {', '.join(self._types)}.")
        return f"this_row.{quoted(name)}"

    def _column(self, name: str) -> tuple[str, Kind]:
        column = self.column(name)
        kind = column_kind(self._types[name])
        if name in self._instants and kind == "number":
            return f"CAST({column} AS DOUBLE)", "instant"
        if kind == "instant":
            instant = f"CAST({column} AS TIMESTAMPTZ)"
            return f"CASE WHEN isfinite({instant}) THEN CAST(epoch_us({instant}) AS DOUBLE) END", kind
        if kind == "unknown":
            raise self.wrong(f"The column {name!r} is {self._types[name]}, which no expression can use.")
        if kind == "number":
            number = f"CAST({column} AS DOUBLE)"
            if not self._types[name].startswith(("FLOAT", "DOUBLE")):
                return number, kind
            return f"CASE WHEN isfinite({number}) THEN {number} END", kind
        return f"CAST({column} AS {SQL_TYPES[kind]})", kind

    def _of_kind(self, node: Expression, expected: Kind, symbol: str, *, finite: bool = False) -> str:
        sql, kind = self._finite(node) if finite else self.expression(node)
        if kind == "null":
            return f"CAST(NULL AS {SQL_TYPES[expected]})"
        if kind != expected:
            raise self.wrong(f"{symbol!r} needs a {expected}, not a {kind}.")
        return sql

    def _finite(self, node: Expression) -> tuple[str, Kind]:
        sql, kind = self.expression(node)
        return (f"CASE WHEN isfinite({sql}) THEN {sql} END" if isinstance(node, nodes.ArithmeticNode) else sql), kind

    def _alike(self, label: str, operands: Sequence[Expression]) -> tuple[list[str], Kind]:
        compiled = [self._finite(operand) for operand in operands]
        kinds = {kind for _sql, kind in compiled} - {"null"}
        if len(kinds) > 1:
            raise self.wrong(f"{label} mixes {' and '.join(sorted(kinds))}.")
        return [sql for sql, _kind in compiled], kinds.pop() if kinds else "null"

    def _call(self, function: str, operands: tuple[Expression, ...]) -> tuple[str, Kind]:
        if function in ("least", "greatest"):
            compiled, found = self._alike(function, operands)
            if found == "instant":
                raise self.wrong(f"{function} compares instants; compare their seconds_since instead.")
            return f"{function}({', '.join(compiled)})", found
        if function == "lower":
            return f"lower({self._of_kind(operands[0], 'text', function)})", "text"
        if function == "epoch":
            return self._instant(operands[0], function), "number"
        if function == "seconds_since":
            later, earlier = (self._instant(operand, function) for operand in operands)
            return f"(({later} - {earlier}) / 1000000.0::DOUBLE)", "number"
        number = self._of_kind(operands[0], "number", function, finite=True)
        return (f"abs({number})" if function == "abs" else self._log1p(number)), "number"

    def _rounded(self, operand: Expression, step: Fraction) -> str:
        numerator, denominator = _literal(float(step.numerator)), _literal(float(step.denominator))
        number = self._of_kind(operand, "number", "round_to", finite=True)
        whole = self._bind(
            f"{number} * {denominator} / {numerator}",
            lambda v: f"CASE WHEN abs({v}) < {WHOLE!r}::DOUBLE THEN CAST(CAST({v} AS BIGINT) AS DOUBLE) ELSE {v} END",
        )
        return self._bind(f"{whole} * {numerator} / {denominator}", lambda v: f"CASE WHEN isfinite({v}) THEN {v} END")

    def _log1p(self, number: str) -> str:
        """The operations of :func:`numerics.log1p`; the library's log2 only guesses the exponent, which is mended."""

        def atanh(s: str) -> str:
            def series(v: str) -> str:
                total = _literal(SERIES[0])
                for coefficient in SERIES[1:]:
                    total = f"({total} * ({v} * {v}) + {_literal(coefficient)})"
                return f"{total} * ({v} * {v}) * {v} + {v}"

            return f"({self._bind(s, series)} * 2.0::DOUBLE)"

        def scaled(mantissa: str, exponent: str) -> str:
            reduced = f"({mantissa} - 1.0::DOUBLE) / ({mantissa} + 1.0::DOUBLE)"
            return f"({exponent}) * {_literal(LN2)} + {atanh(reduced)}"

        def mended(y: str) -> str:
            def with_power(p: str) -> str:
                def with_mantissa(m: str) -> str:
                    mantissa = (
                        f"(CASE WHEN {m} < 0.75 THEN {m} * 2.0::DOUBLE WHEN {m} < 1.5 THEN {m} "
                        f"WHEN {m} < 3.0 THEN {m} / 2.0::DOUBLE ELSE {m} / 4.0::DOUBLE END)"
                    )
                    exponent = (
                        f"CASE WHEN {m} < 0.75 THEN {p} - 1.0::DOUBLE WHEN {m} < 1.5 THEN {p} "
                        f"WHEN {m} < 3.0 THEN {p} + 1.0::DOUBLE ELSE {p} + 2.0::DOUBLE END"
                    )
                    return self._bind(mantissa, lambda reduced: scaled(reduced, exponent))

                return self._bind(f"{y} / pow(2.0::DOUBLE, {p})", with_mantissa)

            return self._bind(f"least(floor(log2({y})), 1023.0::DOUBLE)", with_power)

        def whole(v: str) -> str:
            near = f"{v} > {NEAR[0]}::DOUBLE AND {v} < {NEAR[1]}::DOUBLE"
            return (
                f"CASE WHEN {near} THEN {atanh(f'{v} / (2.0::DOUBLE + {v})')} "
                f"WHEN {v} > -1.0::DOUBLE THEN {self._bind(f'1.0::DOUBLE + {v}', mended)} END"
            )

        return self._bind(number, whole)

    def _calendar(self, part: str, operand: Expression, zone: str) -> str:
        transitions, offsets = (f"[{', '.join(map(_literal, each))}]::DOUBLE[]" for each in offsets_of(zone))
        local = self._bind(
            self._instant(operand, part),
            # A constant list of an instant that is missing would be filtered all the same.
            lambda v: (
                f"CASE WHEN {v} IS NOT NULL THEN CAST({v} + ({offsets})"
                f"[1 + len(list_filter({transitions}, lambda edge: edge <= {v}))] AS BIGINT) END"
            ),
        )
        day, hour = int(DAY), int(HOUR)

        def read(v: str) -> str:
            within = f"(({v} % {day}) + {day}) % {day}"
            if part == "hour":
                return f"CAST({within} // {hour} AS DOUBLE)"
            # Floor division keeps weekdays right before 1970, which began on a Thursday.
            return f"CAST(((({v} - {within}) // {day} + 3) % 7 + 7) % 7 + 1 AS DOUBLE)"

        return self._bind(local, read)

    def _instant(self, node: Expression, label: str) -> str:
        sql, found = self._finite(node)
        if found in ("instant", "null"):
            return f"CAST({sql} AS DOUBLE)"
        if found != "text":
            raise self.wrong(f"{label} needs an instant, not a {found}.")
        return self._bind(
            sql,
            lambda v: (
                f"CASE WHEN regexp_full_match({v}, {text(INSTANT.pattern)}) "
                f"THEN CAST(epoch_us(TRY_CAST({v} AS TIMESTAMPTZ)) AS DOUBLE) END"
            ),
        )

    def _bind(self, sql: str, body: Callable[[str], str]) -> str:
        """The body with a name for a value, so that the value is written and computed once."""
        self._bound += 1
        name = f"bound_{self._bound}"
        return f"(list_transform([{sql}], lambda {name}: {body(name)})[1])"

    def wrong(self, what: str) -> InvalidInputError:
        """The error for a definition that does not fit the relation."""
        return InvalidInputError(what, where=self._where, next_step="Correct the definition or the file.")


def _literal(value: bool | float | str | None) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    return text(value) if isinstance(value, str) else f"{value!r}::DOUBLE"


def _typed(sql: str, kind: Kind) -> str:
    return f"CAST(NULL AS {SQL_TYPES[kind]})" if kind == "null" else sql
