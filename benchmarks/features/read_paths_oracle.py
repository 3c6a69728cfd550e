"""Features as the text of their definitions says them: plain Python over a list of events, exact fractions.

It imports nothing of ours: no tiles, no columns, no SQL, no finishing function.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from typing import Any, NamedTuple

DAY = 86_400_000_000
WINDOWS = {
    "1s": 1, "5s": 5, "1m": 60, "20m": 1_200, "2h": 7_200, "1d": 86_400, "2d": 172_800, "3d": 259_200, "30d": 2_592_000,
}  # fmt: skip
"""Seconds of each."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class SourceEvent(NamedTuple):
    """An event; its moments in microseconds since 1970."""

    id: str
    entity: str
    due: int
    available: int
    x: float | None
    flag: bool | None
    name: str | None

    def row(self) -> dict[str, Any]:
        """Its row in the source's file."""
        due, seen = (_EPOCH + timedelta(microseconds=at) for at in (self.due, self.available))
        return {"id": self.id, "stop": self.entity, "due": due, "seen": seen, "x": self.x, "flag": self.flag,
                "name": self.name}  # fmt: skip


Cells = dict[str, tuple[Any, int | None]]
"""Feature to value and time of its latest event."""


def expected(
    features: Mapping[str, Mapping[str, Any]],
    events: Sequence[SourceEvent],
    asked: Sequence[tuple[str, int]],
    known_by: int,
) -> list[Cells]:
    """Every feature of each entity and moment that is asked about.

    Args:
        known_by: the snapshot's moment; encodings are fitted no later than at the midnight before it.
    """
    ordered = sorted(events, key=lambda event: (event.due, hashlib.sha256(event.id.encode()).hexdigest()[:24]))
    of: dict[str, list[SourceEvent]] = {}
    for event in ordered:
        of.setdefault(event.entity, []).append(event)
    fitted: dict[tuple[str, int], list[tuple[Any, int]]] = {}
    found: list[Cells] = []
    for entity, moment in asked:
        cells: Cells = {}
        for name, one in features.items():
            if one["aggregate"] in ("frequency", "target"):
                midnight = (min(moment, known_by) - 1) // DAY * DAY
                if (name, midnight) not in fitted:
                    fitted[name, midnight] = list(_values(one, ordered, midnight))
                own = list(_values(one, of.get(entity, ()), midnight))
                cells[name] = _encoded(one, own, fitted[name, midnight])
            else:
                kept = list(_values(one, of.get(entity, ()), moment))
                cells[name] = _aggregate(one)([value for value, _ in kept]), kept[-1][1] if kept else None
        found.append(cells)
    return found


def _values(one: Mapping[str, Any], events: Sequence[SourceEvent], moment: int) -> Iterator[tuple[Any, int]]:
    """A value of each visible event, with its time; what is null or beyond the fixed-point range has none."""
    since = None if one["window"] is None else moment - WINDOWS[one["window"]] * 1_000_000
    for event in events:
        if event.due > moment or event.available > moment or (since is not None and event.due <= since):
            continue
        if one["flagged"] and event.flag is not True:
            continue
        value = _value(one, event)
        if value is not None:
            yield value, event.due


def _value(one: Mapping[str, Any], event: SourceEvent) -> Any:
    # There is one zero.
    x = None if event.x is None else event.x + 0.0
    match one["aggregate"]:
        case "count" | "frequency":
            return 1
        case "share":
            return None if x is None else int(x > 1)
        case "first" | "last" | "distinct":
            return x if one["of"] == "x" else getattr(event, one["of"])
        case "min" | "max" if not one["scaled"]:
            return x
        case _:
            return None if x is None else _quantized(x, one["scale"])


def _quantized(x: float, scale: str) -> int | None:
    """Nearest multiple, half to even, of the double product that the definition names; none beyond 2⁴⁷ steps."""
    step = Fraction(scale)
    product = x * float(step.denominator) / float(step.numerator)
    return int(Decimal(product).to_integral_value(ROUND_HALF_EVEN)) if abs(product) <= 2**47 else None


def _aggregate(one: Mapping[str, Any]) -> Callable[[list[Any]], Any]:
    step = Fraction(one["scale"])
    fixed = one["aggregate"] in ("min", "max") and one["scaled"]

    def scaled(value: Any) -> Any:
        return float(value * step) if fixed else value

    def deviation(values: list[int]) -> float | None:
        n = len(values)
        if n < 2:
            return None
        middle = Fraction(sum(values), n)
        spread = sum(((value - middle) ** 2 for value in values), Fraction()) / (n - 1) * step**2
        return math.sqrt(spread.numerator / spread.denominator)

    def quantile(values: list[int]) -> float | None:
        """The middle of the log-linear bucket that the value at place ⌈q·n⌉ lies in."""
        if not values:
            return None
        value = sorted(values)[max(math.ceil(Fraction(one["q"]) * len(values)), 1) - 1]
        width = 1
        while abs(value) // width >= 256:
            width *= 2
        middle = Fraction(2 * (abs(value) // width * width) + width - 1, 2) * step
        return float(middle if value >= 0 else -middle)

    return {
        "count": len,
        "sum": lambda values: float(sum(values) * step),
        "mean": lambda values: float(Fraction(sum(values), len(values)) * step) if values else None,
        "share": lambda values: float(Fraction(sum(values), len(values))) if values else None,
        "std": deviation,
        "min": lambda values: scaled(min(values)) if values else None,
        "max": lambda values: scaled(max(values)) if values else None,
        "first": lambda values: values[0] if values else None,
        "last": lambda values: values[-1] if values else None,
        "distinct": lambda values: len(set(values)),
        "quantile": quantile,
    }[one["aggregate"]]


def _encoded(
    one: Mapping[str, Any], own: list[tuple[Any, int]], every: list[tuple[Any, int]]
) -> tuple[float | None, int | None]:
    """An encoding: the category against all of them together, as of the midnight that it is fitted at."""
    if not every:
        return None, None
    latest = every[-1][1]
    if one["aggregate"] == "frequency":
        return len(own) / len(every), latest
    step, weight = Fraction(one["scale"]), Fraction(one["smoothing"])
    overall = Fraction(sum(value for value, _ in every), len(every)) * step
    if not own and not weight:
        return float(overall), latest
    total = sum(value for value, _ in own) * step
    return float((total + weight * overall) / (len(own) + weight)), latest
