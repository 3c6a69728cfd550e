"""Expressions and measures compiled to Python closures: what the stream and the online read run.

Invariant: for every payload the closure gives the very integers, booleans, texts and nulls that the SQL of
``compile_sql`` gives for the same row.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from antiphon.definitions.expression import (
    Arithmetic,
    Boolean,
    Coalesce,
    Column,
    Comparison,
    Expression,
    IsNull,
    Literal,
    Not,
    Value,
)
from antiphon.features.plan import LIMIT, Measure, Plan
from antiphon.features.sketches import hashed

Payload = Mapping[str, Any]
Evaluate = Callable[[Payload], Value]
MeasureValue = int | float | bool | str | None
Measured = tuple[MeasureValue, ...]

SEQUENCE_DIGITS = 24
"""Hex digits of an event id's SHA-256 that order events of one instant and tell duplicates."""

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


def sequence(event_id: str) -> str:
    """An event's place among those of one instant: from its id alone, never from its arrival."""
    return hashlib.sha256(event_id.encode()).hexdigest()[:SEQUENCE_DIGITS]


def key_texts(keys: tuple[str, ...], payload: Payload) -> tuple[str, ...] | None:
    """An event's entity keys as text, ``None`` when one is missing."""
    texts: list[str] = []
    for key in keys:
        value = payload.get(key)
        if value is None or isinstance(value, (list, dict)):
            return None
        texts.append(str(value).lower() if isinstance(value, bool) else str(value))
    return tuple(texts)


def compile_measures(plan: Plan) -> Callable[[Payload], Measured | None]:
    """One function from an event's payload to its measures; ``None`` when the source's filter drops it."""
    where = None if plan.spec.source.where is None else compile_expression(plan.spec.source.where)
    measures = tuple(compile_measure(measure) for measure in plan.measures)

    def measured(payload: Payload) -> Measured | None:
        if where is not None and where(payload) is not True:
            return None
        return tuple(measure(payload) for measure in measures)

    return measured


def compile_measure(measure: Measure) -> Callable[[Payload], MeasureValue]:
    """One measure as a function of the payload."""
    where = None if measure.where is None else compile_expression(measure.where)
    value = (lambda _payload: 1.0) if measure.expression is None else compile_expression(measure.expression)
    finish = _FINISHES.get(measure.mode) or _quantiser(measure.scale)

    def evaluate(payload: Payload) -> MeasureValue:
        if where is not None and where(payload) is not True:
            return None
        return finish(value(payload))

    return evaluate


def _counted(_value: Value) -> int:
    return 1


def _plain(value: Value) -> Value:
    if isinstance(value, float):
        # Adding zero turns -0.0 into 0.0: one zero on both paths.
        return value + 0.0 if math.isfinite(value) else None
    return value


def _hashed(value: Value) -> int | None:
    value = _plain(value)
    return None if value is None else hashed(value)


_FINISHES: dict[str, Callable[[Value], MeasureValue]] = {"count": _counted, "plain": _plain, "hashed": _hashed}


def _quantiser(scale: tuple[int, int]) -> Callable[[Value], int | None]:
    numerator, denominator = float(scale[0]), float(scale[1])

    def quantise(value: Value) -> int | None:
        if isinstance(value, bool):
            value = 1.0 if value else 0.0
        elif not isinstance(value, float):
            return None
        steps = value * denominator / numerator
        # round() is half to even, as is DuckDB's cast of a double to an integer.
        return round(steps) if abs(steps) <= LIMIT else None

    return quantise


def compile_expression(node: Expression) -> Evaluate:
    """A closure that evaluates the expression on one payload."""
    match node:
        case Column(name=name):
            return lambda payload: normalise(payload.get(name))
        case Literal(value=value):
            return lambda _payload: value
        case Arithmetic(operator=symbol, left=left, right=right):
            return _arithmetic(symbol, compile_expression(left), compile_expression(right))
        case Comparison(operator=symbol, left=left, right=right):
            return _comparison(symbol, _finite(left), _finite(right))
        case Boolean(operator=symbol, left=left, right=right):
            return _boolean(symbol, compile_expression(left), compile_expression(right))
        case Not(operand=operand):
            inner = compile_expression(operand)

            def negated(payload: Payload) -> Value:
                value = inner(payload)
                return not value if isinstance(value, bool) else None

            return negated
        case IsNull(operand=operand):
            inner = _finite(operand)
            return lambda payload: inner(payload) is None
        case Coalesce(operands=operands):
            return _coalesce(tuple(_finite(operand) for operand in operands))


def normalise(value: object) -> Value:
    """A payload's value as an expression sees it: double, boolean, text or null."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (int, float)):
        try:
            number = float(value)
        except OverflowError:
            return None
        return number if math.isfinite(number) else None
    return None


def _finite(node: Expression) -> Evaluate:
    inner = compile_expression(node)
    if not isinstance(node, Arithmetic):
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
