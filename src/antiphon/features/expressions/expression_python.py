"""Compiles expressions to Python closures, for streams, on-demand features and online reads.

Invariant: for every payload the closure gives the very numbers, booleans, texts and nulls that the SQL of
``expression_sql`` gives for the same row. Instants are microseconds since 1970 in a float.
"""

from __future__ import annotations

import math
import operator
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

from antiphon.definitions import nodes
from antiphon.definitions.nodes import Expression, Value
from antiphon.features.expressions.numerics import DAY, HOUR, WHOLE, log1p, offsets_of
from antiphon.features.tiles.sketches import hashed

Payload = Mapping[str, Any]
Evaluate = Callable[[Payload], Value]

NOW = "now"
"""Key of the request's moment in a payload; inputs have the key ``request.NAME``."""
INSTANT = re.compile(
    r"[1-9]\d{3}-(0\d|1[0-2])-([0-2]\d|3[01])[T ]([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d{1,6})?)?"
    r"(Z|[+-](0\d|1[0-4]):[0-5]\d)?",
    re.ASCII,
)
"""Texts that are read as instants, the same ones on every path; without offset they are UTC."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
}
_COMPARISON: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def compile_expression(node: Expression) -> Evaluate:
    """A closure that evaluates the expression on one payload."""
    match node:
        case nodes.ColumnNode(name=name):
            return lambda payload: normalize(payload.get(name))
        case nodes.LiteralNode(value=value):
            return lambda _payload: value
        case nodes.ArithmeticNode(operator=symbol, left=left, right=right):
            return _arithmetic(symbol, compile_expression(left), compile_expression(right))
        case nodes.ComparisonNode(operator=symbol, left=left, right=right):
            return _comparison(symbol, _finite(left), _finite(right))
        case nodes.BooleanNode(operator=symbol, left=left, right=right):
            return _boolean(symbol, compile_expression(left), compile_expression(right))
        case nodes.NotNode(operand=operand):
            return _apply_to(compile_expression(operand), bool, operator.not_)
        case nodes.IsNullNode(operand=operand):
            inner = _finite(operand)
            return lambda payload: inner(payload) is None
        case nodes.CoalesceNode(operands=operands):
            return _coalesce(tuple(_finite(operand) for operand in operands))
        case nodes.RequestInputNode(name=name):
            place = request_place(name)
            return lambda payload: normalize(payload.get(place))
        case nodes.FeatureValueNode(name=name):
            return lambda payload: normalize(payload.get(name))
        case nodes.NowNode():
            return lambda payload: normalize(payload.get(NOW))
        case nodes.CallNode(function=function, operands=operands):
            return _call(function, tuple(_finite(operand) for operand in operands))
        case nodes.RoundNode(operand=operand, step=step):
            return _rounded(_finite(operand), Fraction(step))
        case nodes.CaseNode(branches=branches, otherwise=otherwise):
            chosen = [(compile_expression(condition), _finite(value)) for condition, value in branches]
            return _case(chosen, _finite(otherwise))
        case nodes.MembershipNode(operand=operand, values=values):
            return _member(_finite(operand), values)
        case nodes.CalendarNode(part=part, operand=operand, zone=zone):
            return _calendar(part, compile_expression(operand), zone)
        case nodes.HashBucketNode(operand=operand, buckets=buckets):
            return _bucket(_finite(operand), buckets)


def request_place(name: str) -> str:
    """Key of a request input in a payload."""
    return f"request.{name}"


def normalize(value: object) -> Value:
    """A payload's value as an expression sees it: double, boolean, text or null."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, float)):
        try:
            number = float(value)
        except OverflowError:
            return None
        return number if math.isfinite(number) else None
    return _microseconds(value) if isinstance(value, datetime) else None


def plain(value: Value) -> Value:
    """A computed value as it is stored: a number that is not finite is null, and there is one zero on both paths."""
    if isinstance(value, float):
        # Adding zero turns -0.0 into 0.0.
        return value + 0.0 if math.isfinite(value) else None
    return value


def instant_of(value: Value) -> float | None:
    """Microseconds since 1970 of an instant, or of a text that is one."""
    if isinstance(value, str):
        if not INSTANT.fullmatch(value):
            return None
        try:
            return _microseconds(datetime.fromisoformat(value))
        except ValueError:  # the 30th of February
            return None
    return value if isinstance(value, float) else None


def _microseconds(moment: datetime) -> float:
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return float((aware - _EPOCH) // timedelta(microseconds=1))


def _finite(node: Expression) -> Evaluate:
    inner = compile_expression(node)
    if not isinstance(node, nodes.ArithmeticNode):
        return inner

    def finite(payload: Payload) -> Value:
        value = inner(payload)
        return value if not isinstance(value, float) or math.isfinite(value) else None

    return finite


def _arithmetic(symbol: str, left: Evaluate, right: Evaluate) -> Evaluate:
    def divide(a: float, b: float) -> float | None:
        return a / b if b != 0 else None

    combine: Callable[[float, float], float | None] = _ARITHMETIC.get(symbol, divide)

    def evaluate(payload: Payload) -> Value:
        a, b = left(payload), right(payload)
        if isinstance(a, float) and isinstance(b, float):
            return combine(a, b)
        return None

    return evaluate


def _comparison(symbol: str, left: Evaluate, right: Evaluate) -> Evaluate:
    compare = _COMPARISON[symbol]

    def evaluate(payload: Payload) -> Value:
        a, b = left(payload), right(payload)
        return compare(a, b) if a is not None and type(a) is type(b) else None

    return evaluate


def _boolean(symbol: str, left: Evaluate, right: Evaluate) -> Evaluate:
    decisive = symbol == "or"

    def evaluate(payload: Payload) -> Value:
        a, b = left(payload), right(payload)
        if a is decisive or b is decisive:
            return decisive
        return (not decisive) if isinstance(a, bool) and isinstance(b, bool) else None

    return evaluate


def _coalesce(operands: tuple[Evaluate, ...]) -> Evaluate:
    def evaluate(payload: Payload) -> Value:
        for operand in operands:
            value = operand(payload)
            if value is not None:
                return value
        return None

    return evaluate


def _call(function: str, operands: tuple[Evaluate, ...]) -> Evaluate:
    if function in ("least", "greatest"):
        pick: Callable[[Any], Value] = min if function == "least" else max

        def extreme(payload: Payload) -> Value:
            found = [value for value in (operand(payload) for operand in operands) if value is not None]
            # Values of different kinds have no order; SQL refuses them when the types of the columns are known.
            return pick(found) if found and len({type(value) for value in found}) == 1 else None

        return extreme
    if function == "seconds_since":
        later, earlier = operands

        def seconds(payload: Payload) -> Value:
            a, b = instant_of(later(payload)), instant_of(earlier(payload))
            return None if a is None or b is None else (a - b) / 1_000_000.0

        return seconds
    (operand,) = operands
    if function == "epoch":
        return lambda payload: instant_of(operand(payload))
    if function == "lower":
        return _apply_to(operand, str, lower)
    return _apply_to(operand, float, abs if function == "abs" else log1p)


def _apply_to(operand: Evaluate, kind: type, apply: Callable[[Any], Value]) -> Evaluate:
    def applied(payload: Payload) -> Value:
        value = operand(payload)
        return apply(value) if isinstance(value, kind) else None

    return applied


def lower(text: str) -> str:
    """Each code point's own lower case: no ligatures, no final sigma, so that no context matters."""
    return text.lower() if text.isascii() else "".join(letter.lower()[:1] for letter in text)


def _rounded(operand: Evaluate, step: Fraction) -> Evaluate:
    numerator, denominator = float(step.numerator), float(step.denominator)

    def rounded(payload: Payload) -> Value:
        value = operand(payload)
        if not isinstance(value, float):
            return None
        steps = value * denominator / numerator
        whole = float(round(steps)) if abs(steps) < WHOLE else steps
        result = whole * numerator / denominator
        return result if math.isfinite(result) else None

    return rounded


def _case(branches: list[tuple[Evaluate, Evaluate]], otherwise: Evaluate) -> Evaluate:
    def chosen(payload: Payload) -> Value:
        for condition, value in branches:
            if condition(payload) is True:
                return value(payload)
        return otherwise(payload)

    return chosen


def _member(operand: Evaluate, values: tuple[bool | float | str, ...]) -> Evaluate:
    kept = {(type(value), value) for value in values}

    def member(payload: Payload) -> Value:
        value = operand(payload)
        return None if value is None else (type(value), value) in kept

    return member


def _calendar(part: str, operand: Evaluate, zone: str) -> Evaluate:
    transitions, offsets = offsets_of(zone)

    def read(payload: Payload) -> Value:
        instant = instant_of(operand(payload))
        if instant is None:
            return None
        local = instant + offsets[bisect_right(transitions, instant)]
        if part == "hour":
            return float(int(local // HOUR) % 24)
        return float((int(local // DAY) + 3) % 7 + 1)

    return read


def _bucket(operand: Evaluate, buckets: int) -> Evaluate:
    def bucket(payload: Payload) -> Value:
        value = operand(payload)
        return None if value is None else float(hashed(value) % buckets)

    return bucket
