"""Compiles measures to Python closures, which streams run on every event.

Invariant: for every payload the closure gives the very integers, booleans, texts and nulls that the SQL of
``compile_sql`` gives for the same row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from antiphon.definitions.nodes import Value
from antiphon.features.expressions.expression_python import Payload, compile_expression, plain
from antiphon.features.plan import LIMIT, ViewMeasure, ViewPlan
from antiphon.features.tiles.sketches import hashed
from antiphon.features.values import MeasureValue

Measured = tuple[MeasureValue, ...]

SEQUENCE_DIGITS = 24
"""Hex digits of an event id's SHA-256 that order events of one instant and tell duplicates."""


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


def compile_measures(plan: ViewPlan) -> Callable[[Payload], Measured | None]:
    """One function from an event's payload to its measures; ``None`` when the source's filter drops it."""
    where = None if plan.spec.source.where is None else compile_expression(plan.spec.source.where)
    measures = tuple(compile_measure(measure) for measure in plan.measures)

    def measured(payload: Payload) -> Measured | None:
        if where is not None and where(payload) is not True:
            return None
        return tuple(measure(payload) for measure in measures)

    return measured


def compile_measure(measure: ViewMeasure) -> Callable[[Payload], MeasureValue]:
    """One measure as a function of the payload."""
    where = None if measure.where is None else compile_expression(measure.where)
    value = (lambda _payload: 1.0) if measure.expression is None else compile_expression(measure.expression)
    finish = _FINISHES.get(measure.mode) or _quantizer(measure.scale)

    def evaluate(payload: Payload) -> MeasureValue:
        if where is not None and where(payload) is not True:
            return None
        return finish(value(payload))

    return evaluate


def _hashed(value: Value) -> int | None:
    value = plain(value)
    return None if value is None else hashed(value)


_FINISHES: dict[str, Callable[[Value], MeasureValue]] = {"count": lambda _value: 1, "plain": plain, "hashed": _hashed}


def _quantizer(scale: tuple[int, int]) -> Callable[[Value], int | None]:
    numerator, denominator = float(scale[0]), float(scale[1])

    def quantize(value: Value) -> int | None:
        if isinstance(value, bool):
            value = 1.0 if value else 0.0
        elif not isinstance(value, float):
            return None
        steps = value * denominator / numerator
        # round() is half to even, as is DuckDB's cast of a double to an integer.
        return round(steps) if abs(steps) <= LIMIT else None

    return quantize
