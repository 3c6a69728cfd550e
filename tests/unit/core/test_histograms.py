"""Histograms on the grid: what Prometheus is told, and percentiles within a bucket of the truth."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from antiphon.core.histograms import GRID, MAIN_BOUNDS, FineHistogram, Histogram, bucket_of, quantile, within

DURATIONS = st.lists(st.floats(0.001, 50_000.0), min_size=1, max_size=200)


def counted(durations: list[float]) -> dict[int, int]:
    buckets: dict[int, int] = {}
    for one in durations:
        buckets[bucket_of(one)] = buckets.get(bucket_of(one), 0) + 1
    return buckets


def test_the_grid_goes_through_every_bound_and_is_fine_below_a_minute() -> None:
    assert set(MAIN_BOUNDS) <= set(GRID)
    assert list(GRID) == sorted(set(GRID))
    ratios = [upper / lower for lower, upper in pairwise(GRID) if upper <= 60]
    assert max(ratios) < 1.13


@given(DURATIONS, st.sampled_from([0.5, 0.9, 0.99]))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(durations: list[float], share: float) -> None:
    true = sorted(durations)[max(0, math.ceil(share * len(durations)) - 1)]
    found = quantile(counted(durations), share)
    assert found is not None
    bucket = bucket_of(true)
    assert GRID[bucket - 1] <= found * (1 + 1e-9)
    assert found <= GRID[bucket] * (1 + 1e-9)


@given(DURATIONS, st.floats(0.001, 50_000.0))
def test_observations_within_a_bound_are_counted_but_for_its_own_bucket(durations: list[float], bound: float) -> None:
    buckets = counted(durations)
    true = sum(one <= bound for one in durations)
    assert abs(within(buckets, bound) - true) <= buckets.get(bucket_of(bound), 0) + 1e-9
    exact = MAIN_BOUNDS[7]
    assert within(buckets, exact) == sum(one <= exact for one in durations)


def test_nothing_has_no_quantile_and_what_is_beyond_the_grid_its_end() -> None:
    assert quantile({}, 0.5) is None
    assert quantile({len(GRID): 3}, 0.99) == GRID[-1]
    assert within({len(GRID): 3}, GRID[-1]) == 0


def test_prometheus_is_told_the_same_counts() -> None:
    registry = CollectorRegistry()
    seconds = Histogram("t_seconds", "", ("path",), registry=registry, bounds=(0.1, 1.0))
    for duration in (0.05, 0.1, 0.7, 3.0):
        seconds.observe(("online",), duration)
    text = generate_latest(registry).decode()
    for line in (
        't_seconds_bucket{le="0.1",path="online"} 2.0',
        't_seconds_bucket{le="1.0",path="online"} 3.0',
        't_seconds_bucket{le="+Inf",path="online"} 4.0',
        't_seconds_count{path="online"} 4.0',
    ):
        assert line in text
    (family,) = registry.collect()
    assert isinstance(family, FineHistogram)
    buckets, total = family.fine["online",]
    assert (sum(buckets.values()), total) == (4, pytest.approx(3.85))
