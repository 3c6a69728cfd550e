"""An independent reading of the definitions: plain Python over a list of events, exact fractions, no tiles, no SQL."""

from __future__ import annotations

import hashlib
import math
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from typing import Any, NamedTuple

MINUTE = 60_000_000


class Known(NamedTuple):
    """An event as it is known: ``origin`` 0 for a file, 1 for the log; ``place`` its offset there."""

    identity: str
    entity: str
    event_time: int
    available_at: int
    payload: dict[str, Any]
    origin: int
    place: int


def seq(identity: str) -> str:
    return hashlib.sha256(identity.encode()).hexdigest()[:24]


def deduplicated(events: list[Known]) -> list[Known]:
    best: dict[tuple[str, int, str], Known] = {}
    for event in events:
        place = (event.entity, event.event_time, event.identity)
        known = best.get(place)
        if known is None or (event.available_at, event.origin, event.place) < (
            known.available_at,
            known.origin,
            known.place,
        ):
            best[place] = event
    return list(best.values())


def quantized(x: float, scale: str) -> int | None:
    """Nearest multiple, half to even, of the double product the definition names (value × 1/scale); ``None`` when it
    is further than 2⁴⁷ steps from zero."""
    step = Fraction(scale)
    product = x * float(step.denominator) / float(step.numerator)
    return int(Decimal(product).to_integral_value(ROUND_HALF_EVEN)) if abs(product) <= 2**47 else None


def visible(events: list[Known], entity: str, window: int | None, t: int) -> list[Known]:
    """``t − w < event_time ≤ t AND available_at ≤ t``, in the order of (event time, sequence)."""
    chosen = [
        event
        for event in deduplicated(events)
        if event.entity == entity
        and event.event_time <= t
        and event.available_at <= t
        and (window is None or event.event_time > t - window)
    ]
    return sorted(chosen, key=lambda event: (event.event_time, seq(event.identity)))


def mean(values: list[int], scale: str) -> float | None:
    return float(Fraction(sum(values)) * Fraction(scale) / len(values)) if values else None


def deviation(values: list[int], scale: str) -> float | None:
    n = len(values)
    if n < 2:
        return None
    middle = Fraction(sum(values), n)
    spread = sum((value - middle) ** 2 for value in values) / (n - 1) * Fraction(scale) ** 2
    return math.sqrt(spread.numerator / spread.denominator)


def quantile(values: list[int], q: str, scale: str) -> float | None:
    """The middle of the log-linear bucket that the value at place ⌈q·n⌉ lies in: found by walking the buckets."""
    if not values:
        return None
    place = max(math.ceil(Fraction(q) * len(values)), 1)
    value = sorted(values)[place - 1]
    width = 1
    while abs(value) // width >= 256:
        width *= 2
    low = abs(value) // width * width
    middle = Fraction(2 * low + width - 1, 2) * Fraction(scale)
    return float(middle if value >= 0 else -middle)
