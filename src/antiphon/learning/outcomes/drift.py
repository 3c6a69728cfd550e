"""Drift: whether printed features, forecasts and texts are distributed as they were.

The measure of features and forecasts is the population stability index over a few bins, by the functions that judge
snapshots too (``features.monitoring.quality.distances``). Texts are compared by their vectors: how well a classifier
that has seen some of both samples tells the rest apart, as the area under its ROC curve (classifier two-sample tests,
Lopez-Paz & Oquab, 2017). A shift is reported only beyond the 99 % quantile of the measure between two samples of one
distribution, and beyond what practice calls small.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from antiphon.catalog.serving.receipt import Receipt
from antiphon.features.monitoring.quality.distances import NORMAL_99, psi, psi_noise

if TYPE_CHECKING:
    from numpy.typing import NDArray

Printed = str | float | None
Verdict = Literal["steady", "shifted", "too-few"]

LEAST_ROWS = 50
"""With fewer rows on either side nothing is said."""

SMALL, SMALL_AREA = 0.1, 0.6
"""An index, and an area, up to which nothing is told however sure it is."""
_FOLDS, _PERMUTATIONS, _SEED = 5, 999, 20131129
_SCORE_DIGITS = 5
"""Products of single precision are right to about seven digits, and those of equal texts may differ in the last by
their places: without rounding, one text said over and over could be told from itself."""
_BINS = 10
_MOST_CATEGORIES = 20


class Drift(msgspec.Struct, frozen=True):
    """One feature, the forecast, or texts, then and now.

    Attributes:
        index: population stability index, or of texts the area under the curve, 0.5 where nothing tells them apart;
            ``None`` with too few rows.
        noise: 99 % quantile of the index between two samples of one distribution.
        reference, recent: rows.
        since: of one that has shifted, in a kept report, when the first of the reports in a row that say so was made.
    """

    name: str
    index: float | None
    noise: float | None
    reference: int
    recent: int
    verdict: Verdict
    since: datetime | None = None


def drift_of(name: str, reference: Sequence[Printed], recent: Sequence[Printed]) -> Drift:
    """Compare two samples of one variable; absence is a value of its own."""
    n, m = len(reference), len(recent)
    if min(n, m) < LEAST_ROWS:
        return Drift(name, None, None, n, m, "too-few")
    binned = ValueBins.of(reference)
    before, now = Counter(map(binned, reference)), Counter(map(binned, recent))
    bins = sorted(before | now)
    index = psi([before[place] for place in bins], [now[place] for place in bins])
    noise = psi_noise(n, m, len(bins), NORMAL_99)
    return Drift(name, index, noise, n, m, "shifted" if index > max(SMALL, noise) else "steady")


def text_drift(name: str, reference: NDArray[np.float32], recent: NDArray[np.float32]) -> Drift:
    """Compare two samples of texts by their vectors, one row a text, of length 1.

    The noise is that of the same texts with their sides permuted: folds share most of what they learn from, so their
    mean varies more than a formula for independent ones says.
    """
    n, m = len(reference), len(recent)
    if min(n, m) < LEAST_ROWS:
        return Drift(name, None, None, n, m, "too-few")
    both = np.concatenate([reference, recent])
    alike = both @ both.T
    later = np.arange(n + m) >= n
    index = _separation(alike, later)
    drawn = np.random.default_rng(_SEED)
    noise = sorted(_separation(alike, drawn.permutation(later)) for _ in range(_PERMUTATIONS))[
        _PERMUTATIONS * 99 // 100
    ]
    return Drift(name, index, noise, n, m, "shifted" if index > max(SMALL_AREA, noise) else "steady")


def _separation(alike: NDArray[np.float32], later: NDArray[np.bool_]) -> float:
    """Measures how well later texts are told from earlier ones by the direction from the mean of these to that of
    those: each fifth of either by the direction of all others, so that one that fits by chance tells nothing.

    Args:
        alike: products of all pairs of texts.
    """
    before, now = np.flatnonzero(~later), np.flatnonzero(later)
    areas = []
    for fold in range(_FOLDS):
        tried_before, tried_now = before[fold::_FOLDS], now[fold::_FOLDS]
        weights = np.where(later, 1 / (len(now) - len(tried_now)), -1 / (len(before) - len(tried_before)))
        weights[tried_before] = weights[tried_now] = 0.0
        scores = np.round(alike @ weights, _SCORE_DIGITS)
        areas.append(_area(scores[tried_before], scores[tried_now]))
    return float(np.mean(areas))


def _area(before: NDArray[np.floating[Any]], now: NDArray[np.floating[Any]]) -> float:
    """The chance that a later text scores above an earlier one, ties counting half."""
    ordered = np.sort(before)
    below, above = (np.searchsorted(ordered, now, side=side) for side in ("left", "right"))
    return float((below + above).mean() / 2 / len(before))


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


def forecasts(receipts: Sequence[Receipt], property: str, label: str) -> list[Printed]:
    """The probability that each prediction gave to a label."""
    found = [receipt.classes.get(property, {}).get(label) for receipt in receipts]
    return [probability for probability in found if probability is not None]


def answer_tokens(receipts: Sequence[Receipt]) -> list[Printed]:
    """The length of each answer that was generated, in tokens."""
    return [float(one.usage.completion_tokens) for one in receipts if one.cache.origin == "generated"]


def prompt_tokens(receipts: Sequence[Receipt]) -> list[Printed]:
    """The length of each prompt that was answered anew, in tokens."""
    return [float(one.usage.prompt_tokens) for one in receipts if one.cache.origin == "generated"]


class ValueBins:
    """The bins of a variable: numbers by the reference's deciles, unless they are few; texts by themselves."""

    def __init__(self, cuts: Sequence[float] | None, common: Iterable[str]) -> None:
        self.cuts = cuts
        self.common = frozenset(common)

    @classmethod
    def of(cls, reference: Sequence[Printed]) -> ValueBins:
        """Those of a reference."""
        numbers = [number for number in map(_number, reference) if number is not None]
        present = [value for value in reference if value is not None]
        cuts: list[float] | None = None
        if numbers and len(numbers) == len(present) and len(set(numbers)) > _MOST_CATEGORIES:
            ordered = sorted(numbers)
            cuts = sorted({ordered[len(ordered) * tenth // _BINS] for tenth in range(1, _BINS)})
        common = Counter(str(value) for value in present).most_common(_MOST_CATEGORIES)
        return cls(cuts, (value for value, _ in common))

    @property
    def names(self) -> tuple[str, ...]:
        """Every bin that a value may be in."""
        if self.cuts is not None:
            return (*(f"bin {place:02d}" for place in range(len(self.cuts) + 1)), "absent", "other")
        return (*sorted(f"= {value}" for value in self.common), "absent", "other")

    def __call__(self, value: Printed) -> str:
        if value is None:
            return "absent"
        if self.cuts is not None:
            number = _number(value)
            return "other" if number is None else f"bin {bisect_right(self.cuts, number):02d}"
        return f"= {value}" if str(value) in self.common else "other"


def _number(value: Printed) -> float | None:
    try:
        return None if value is None else float(value)
    except ValueError:
        return None
