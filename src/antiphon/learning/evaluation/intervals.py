"""Intervals: of metrics by the bootstrap, over rows or over clusters of rows, and of means of few values.

Percentile bootstrap intervals (Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993, section 13.3): rows are
drawn again with replacement by a seeded generator, so that the same input gives the same interval. Rows of one cluster
(a user who asks often, say) depend on each other, so that whole clusters are drawn (Davison and Hinkley, *Bootstrap
Methods and their Application*, 1997, section 3.8). Few clusters spread less than what they are drawn from: intervals
over them are widened as Student's t is (Cameron, Gelbach and Miller, Review of Economics and Statistics 90, 2008).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from antiphon.catalog.learning.evaluations import IntervalEstimate
from antiphon.learning.evaluation.metric import Floats, ScoredRows, all_of, means

RESAMPLES = 2_000
"""Draws of a bootstrap: the 2.5th percentile is then the 50th smallest, known to a few per cent of its own distance."""
SEED = 20_130_401

Clusters: TypeAlias = Sequence[str] | None
"""The cluster of each row, by name; ``None``: each row is one by itself."""

_CELLS = 500_000
"""Draws × rows that are weighed at once, which bounds the memory."""


def drawn_again(
    rows: ScoredRows,
    values: Callable[[Floats], Mapping[str, Floats]],
    clusters: Clusters = None,
    *,
    seed: int = SEED,
    resamples: int = RESAMPLES,
) -> dict[str, IntervalEstimate]:
    """A value of each metric, of all rows and with its 95 % interval over what is drawn again.

    Args:
        values: of draws, from their weights.
    """
    return _bootstrap(rows.rows, values, values(all_of(rows)), clusters, seed, resamples)


def mean(values: Sequence[float], clusters: Clusters = None) -> IntervalEstimate:
    """The mean of values with its 95 % interval."""
    found = np.asarray(values, np.float64)
    whole = {"mean": np.array([found.mean()])}
    drawn = _bootstrap(len(found), lambda weights: {"mean": means(weights, found)}, whole, clusters, SEED, RESAMPLES)
    return drawn["mean"]


def cluster_places(clusters: Clusters, rows: int) -> tuple[NDArray[np.intp], int]:
    """The number of each row's cluster, and how many there are. Where all rows are of one cluster nothing is known of
    others, so that each row counts by itself."""
    places = {name: place for place, name in enumerate(dict.fromkeys(clusters or ()))}
    if clusters is None or len(places) < 2:
        return np.arange(rows), rows
    return np.array([places[one] for one in clusters], np.intp), len(places)


def _bootstrap(
    rows: int,
    values: Callable[[Floats], Mapping[str, Floats]],
    whole: Mapping[str, Floats],
    clusters: Clusters,
    seed: int,
    resamples: int,
) -> dict[str, IntervalEstimate]:
    places, count = cluster_places(clusters, rows)
    generator = np.random.default_rng(seed)
    drawn: dict[str, list[Floats]] = {name: [] for name in whole}
    at_once = max(1, _CELLS // rows)
    for first in range(0, resamples, at_once):
        draws = [generator.integers(0, count, count) for _ in range(min(at_once, resamples - first))]
        weights = np.array([np.bincount(one, minlength=count) for one in draws], np.float64)[:, places]
        for name, each in values(weights).items():
            drawn[name].append(each)
    wider = 1.0 if count == rows else student(0.95, count - 1) / student(0.95, rows) * math.sqrt(count / (count - 1))
    found: dict[str, IntervalEstimate] = {}
    for name, (value,) in whole.items():
        if np.isnan(value):
            continue
        # A draw without one of the classes has no area under the curve; it says nothing, so it is left out.
        every = np.concatenate(drawn[name])
        known = every[~np.isnan(every)]
        low, high = np.percentile(known, [2.5, 97.5]) if known.size else (value, value)
        # Draws of a metric that chance can only raise may all be above its value.
        low, high = min(low, value), max(high, value)
        found[name] = IntervalEstimate(
            float(value), float(value - wider * (value - low)), float(value + wider * (high - value))
        )
    return found


def mean_of_few(values: Sequence[float], span: float, clusters: Clusters = None) -> IntervalEstimate:
    """The mean of a few values that lie within a span, with its 95 % interval by Student's t over clusters.

    Errors of a cluster are added up before they are squared (Liang and Zeger, Biometrika 73, 1986). The interval is
    never narrower than if one cluster were off by the whole span: values that happen to be alike are no proof that all
    are.
    """
    found, rows = np.asarray(values, np.float64), len(values)
    places, count = cluster_places(clusters, rows)
    value = float(found.mean())
    if count < 2:
        return IntervalEstimate(value, value - span, value + span)
    together = np.bincount(places, weights=found - value)
    spread = math.sqrt(count / (count - 1) * float(together @ together)) / rows
    half = student(0.95, count - 1) * max(spread, span * int(np.bincount(places).max()) / rows)
    return IntervalEstimate(value, value - half, value + half)


def student(level: float, freedom: int) -> float:
    """The half width of Student's interval in standard errors, from the normal one (Abramowitz & Stegun, 26.7.5): to
    two digits of 3 degrees of freedom, to three of 20."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
