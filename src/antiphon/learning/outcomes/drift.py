"""Drift: whether printed features and forecasts are distributed as they were.

The measure is the population stability index over a few bins, ``Σ (q − p) · ln(q / p)`` of the shares p then and
q now. Between two samples of n and m rows from one distribution it is about ``(1/n + 1/m) · χ²`` with one degree of
freedom less than there are bins (Yurdakul and Naranjo, "Statistical properties of the population stability index",
2020). So a shift is told only beyond the 99 % point of that, and beyond the 0.1 that practice calls small.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from antiphon.catalog.receipts import Receipt

Printed = str | float | None
Verdict = Literal["steady", "shifted", "too-few"]

LEAST_ROWS = 50
"""With fewer rows on either side nothing is said."""

SMALL = 0.1
_BINS = 10
_MOST_CATEGORIES = 20
_NORMAL_99 = 2.3263478740408408


class Drift(msgspec.Struct, frozen=True):
    """One feature, or the forecast, then and now.

    Attributes:
        index: population stability index; ``None`` with too few rows.
        noise: what the index stays below in 99 of 100 comparisons of one distribution with itself.
        reference, recent: rows.
    """

    name: str
    index: float | None
    noise: float | None
    reference: int
    recent: int
    verdict: Verdict


def drift_of(name: str, reference: Sequence[Printed], recent: Sequence[Printed]) -> Drift:
    """Compare two samples of one variable; absence is a value of its own."""
    n, m = len(reference), len(recent)
    if min(n, m) < LEAST_ROWS:
        return Drift(name, None, None, n, m, "too-few")
    binned = _Bins(reference)
    before, now = Counter(map(binned, reference)), Counter(map(binned, recent))
    bins = sorted(before | now)
    index = 0.0
    for place in bins:
        # Half a row in every bin: an empty one must not make the index infinite.
        p = (before[place] + 0.5) / (n + 0.5 * len(bins))
        q = (now[place] + 0.5) / (m + 0.5 * len(bins))
        index += (q - p) * math.log(q / p)
    noise = (1 / n + 1 / m) * _chi_squared_99(len(bins) - 1)
    return Drift(name, index, noise, n, m, "shifted" if index > max(SMALL, noise) else "steady")


def drifts(reference: Mapping[str, Sequence[Printed]], recent: Mapping[str, Sequence[Printed]]) -> tuple[Drift, ...]:
    """Every variable that both samples have, the most shifted first."""
    found = [drift_of(name, reference[name], recent[name]) for name in sorted(reference.keys() & recent.keys())]
    return tuple(sorted(found, key=lambda drift: -(drift.index or 0.0)))


def printed_features(receipts: Sequence[Receipt]) -> dict[str, list[Printed]]:
    """Feature to what each prompt saw of it; features that are not printed are left out."""
    names = sorted(
        {feature.name for receipt in receipts for feature in receipt.features if feature.printed is not None}
    )
    found: dict[str, list[Printed]] = {name: [] for name in names}
    for receipt in receipts:
        seen = {feature.name: feature.printed for feature in receipt.features}
        for name in names:
            if name in seen:
                found[name].append(seen[name])
    return found


def forecasts(receipts: Sequence[Receipt], property: str, positive: str) -> list[Printed]:
    """The probability that each prediction gave to the positive label."""
    found = [receipt.classes.get(property, {}).get(positive) for receipt in receipts]
    return [probability for probability in found if probability is not None]


class _Bins:
    """A value's bin: numbers by the reference's deciles, unless they are few; texts by themselves."""

    def __init__(self, reference: Sequence[Printed]) -> None:
        numbers = [number for number in map(_number, reference) if number is not None]
        present = [value for value in reference if value is not None]
        self._cuts: list[float] | None = None
        if numbers and len(numbers) == len(present) and len(set(numbers)) > _MOST_CATEGORIES:
            ordered = sorted(numbers)
            self._cuts = sorted({ordered[len(ordered) * tenth // _BINS] for tenth in range(1, _BINS)})
        common = Counter(str(value) for value in present).most_common(_MOST_CATEGORIES)
        self._common = {value for value, _ in common}

    def __call__(self, value: Printed) -> str:
        if value is None:
            return "absent"
        if self._cuts is not None:
            number = _number(value)
            return "other" if number is None else f"bin {bisect_right(self._cuts, number):02d}"
        return f"= {value}" if str(value) in self._common else "other"


def _number(value: Printed) -> float | None:
    try:
        return None if value is None else float(value)
    except ValueError:
        return None


def _chi_squared_99(degrees: int) -> float:
    """The 99 % point, by Wilson and Hilferty's cube (1931); within 2 % from one degree on."""
    if degrees < 1:
        return 0.0
    part = 2 / (9 * degrees)
    return float(degrees * (1 - part + _NORMAL_99 * math.sqrt(part)) ** 3)
