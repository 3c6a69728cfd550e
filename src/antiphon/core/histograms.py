"""Histograms of seconds on one grid, fine enough for percentiles, shown to Prometheus with fewer buckets.

The bounds that Prometheus sees are bounds of the grid, so that both tell the same counts. Between two of them the grid
has :data:`PARTS` buckets of equal ratio, at most 12 % wide below a minute: a percentile read from it is off by no more.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

PARTS = 8

MAIN_BOUNDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0, 300.0,
    900.0, 3_600.0, 14_400.0, 86_400.0,
)  # fmt: skip
"""Seconds. A kept bucket is the number of its upper bound in :data:`GRID`, so none of these may move."""

GRID = (
    MAIN_BOUNDS[0],
    *(
        upper if part == PARTS else lower * (upper / lower) ** (part / PARTS)
        for lower, upper in pairwise(MAIN_BOUNDS)
        for part in range(1, PARTS + 1)
    ),
)


def bucket_of(seconds: float) -> int:
    """The bucket that a duration falls into: the first whose upper bound it does not exceed."""
    return bisect_left(GRID, seconds)


def quantile(buckets: Mapping[int, int], share: float) -> float | None:
    """The duration that a share of the observations do not exceed, interpolated by ratio within its bucket; ``None``
    without observations."""
    total = sum(buckets.values())
    if not total:
        return None
    rank, below = share * total, 0
    for bucket in sorted(buckets):
        inside = buckets[bucket]
        if inside and below + inside >= rank:
            if bucket >= len(GRID):
                return GRID[-1]
            upper = GRID[bucket]
            lower = GRID[bucket - 1] if bucket else upper / 2
            return float(lower * (upper / lower) ** ((rank - below) / inside))
        below += inside
    return GRID[-1]


def within(buckets: Mapping[int, int], seconds: float) -> float:
    """Counts the observations that did not exceed a duration; of its own bucket the part below it, by ratio."""
    inside = bucket_of(seconds)
    found = float(sum(count for bucket, count in buckets.items() if bucket < inside))
    if inside < len(GRID) and (count := buckets.get(inside)):
        upper = GRID[inside]
        lower = GRID[inside - 1] if inside else 0.0
        share = math.log(seconds / lower) / math.log(upper / lower) if lower else seconds / upper
        found += count * share
    return found


class FineHistogram(HistogramMetricFamily):
    """A histogram as Prometheus reads it.

    Attributes:
        names: of its labels; ``fine``: counts by bucket of the grid, and the sum of seconds, by the labels' values.
    """

    names: tuple[str, ...] = ()
    fine: dict[tuple[str, ...], tuple[dict[int, int], float]]


class _Observations:
    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.total = 0.0


class Histogram(Collector):
    """Counts durations by labels.

    Args:
        bounds: that Prometheus sees, a part of :data:`MAIN_BOUNDS`.
    """

    def __init__(
        self,
        name: str,
        text: str,
        labels: Sequence[str],
        *,
        registry: CollectorRegistry,
        bounds: Sequence[float],
    ) -> None:
        assert set(bounds) <= set(MAIN_BOUNDS), "Prometheus would be told other counts than the grid has."
        self._name, self._text, self._labels = name, text, tuple(labels)
        self._bounds = [(str(bound), bucket_of(bound)) for bound in bounds]
        self._observed: dict[tuple[str, ...], _Observations] = {}
        self._lock = threading.Lock()
        registry.register(self)

    def observe(self, labels: tuple[str, ...], seconds: float) -> None:
        """Count one duration."""
        bucket = bisect_left(GRID, seconds)
        with self._lock:
            found = self._observed.get(labels)
            if found is None:
                found = self._observed[labels] = _Observations()
            found.counts[bucket] = found.counts.get(bucket, 0) + 1
            found.total += seconds

    def describe(self) -> Iterator[Metric]:
        """The family without observations: registering asks for its name."""
        yield self._family()

    def collect(self) -> Iterator[Metric]:
        """All counts, cumulative from the least bound on as Prometheus has them."""
        family = self._family()
        with self._lock:
            family.fine = {labels: (dict(one.counts), one.total) for labels, one in self._observed.items()}
        for labels, (counts, total) in family.fine.items():
            buckets = [
                (bound, float(sum(count for bucket, count in counts.items() if bucket <= last)))
                for bound, last in self._bounds
            ]
            family.add_metric(labels, [*buckets, ("+Inf", float(sum(counts.values())))], total)
        yield family

    def _family(self) -> FineHistogram:
        family = FineHistogram(self._name, self._text, labels=self._labels)
        family.names, family.fine = self._labels, {}
        return family
