"""Distances of histograms, against scipy on the samples themselves."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from antiphon.catalog.features.snapshot_facts import Statistics
from antiphon.features.monitoring.quality import distances
from antiphon.features.monitoring.quality.statistics import StatisticsBuilder


def histogram(values: object, before: Statistics | None = None) -> Statistics:
    builder = StatisticsBuilder(["x"], {"x": before} if before is not None else None)
    builder.add(pa.table({"x": values}))
    return builder.finish()["x"]


@pytest.mark.parametrize("shift", [0.0, 0.2, 1.0, 30.0])
def test_the_ks_distance_is_that_of_the_samples_but_for_one_bin(shift: float) -> None:
    dice = np.random.default_rng(5)
    a, b = dice.normal(0, 1, 4_000), dice.normal(shift, 1, 3_000)
    before = histogram(a)
    now = histogram(b, before)
    found = distances.distance("x", before, now)
    exact = stats.ks_2samp(a, b)
    assert found is not None
    widest = max(max(before.counts) / 4_000, max(now.counts) / 3_000)
    assert exact.statistic - widest <= found.effect <= exact.statistic + 1e-12
    if shift == 0.0:
        assert found.p_value > 0.01
    else:
        assert found.p_value < 1e-6


def test_p_values_are_those_of_scipy() -> None:
    for statistic in (0.01, 0.03, 0.05, 0.1):
        size = 3_000 * 2_000 / 5_000
        assert distances.ks_p_value(statistic, 3_000, 2_000) == pytest.approx(
            stats.kstwobign.sf((np.sqrt(size) + 0.12 + 0.11 / np.sqrt(size)) * statistic), abs=1e-9
        )
    for statistic, degrees in ((0.5, 1), (3.8, 1), (30.0, 4), (900.0, 20), (1e-3, 7), (12.0, 12)):
        assert distances.chi_squared_p_value(statistic, degrees) == pytest.approx(
            stats.chi2.sf(statistic, degrees), rel=1e-9, abs=1e-300
        )
    before, now = [500, 300, 200], [420, 330, 250]
    statistic, degrees, _ = distances.chi_squared(before, now)
    exact = stats.chi2_contingency([before, now], correction=False)
    assert (statistic, degrees) == (pytest.approx(exact.statistic), exact.dof)


def test_discoveries_are_those_of_benjamini_and_hochberg() -> None:
    dice = np.random.default_rng(9)
    for _ in range(50):
        p = {f"f{n}": float(value) for n, value in enumerate(dice.beta(0.3, 1, 12))}
        adjusted = stats.false_discovery_control(list(p.values()))
        expected = {name for name, q in zip(p, adjusted, strict=True) if q <= 0.05}
        assert distances.discoveries(p, 0.05) == expected
    assert distances.discoveries({}, 0.05) == frozenset()


def test_categories_that_are_renamed_are_far_from_what_they_were() -> None:
    before = histogram(["UA", "AA", "B6"] * 100)
    assert distances.distance("x", before, before) is not None
    renamed = distances.distance("x", before, histogram(["United", "AA", "B6"] * 100))
    assert renamed is not None
    assert renamed.effect > 0.5
    assert renamed.psi > 0.25


def test_little_and_unlike_things_are_not_compared() -> None:
    few, many = histogram(np.arange(50.0)), histogram(np.arange(500.0))
    assert distances.distance("x", many, histogram(np.arange(50.0), many)) is None
    assert distances.distance("x", few, many) is None
    assert distances.distance("x", many, histogram(["a"] * 500)) is None


def test_pooling_adds_histograms_of_the_same_edges() -> None:
    first = histogram(np.arange(500.0))
    pool = distances.pooled([first, histogram(np.arange(100.0), first), histogram(np.arange(100.0))])
    assert pool is not None
    assert pool.rows == 600
    assert sum(pool.counts) == 600


def test_the_population_stability_index_and_its_noise() -> None:
    assert distances.psi([50, 30, 0, 20], [40, 35, 5, 20]) == pytest.approx(0.1466198044119616, rel=1e-12)
    assert distances.psi_noise(100, 100, 4) == pytest.approx(0.43680661985840213, rel=1e-12)
    assert distances.psi_noise(100, 100, 1) == 0.0
    for normal, share in ((distances.NORMAL_99, 0.99), (distances.NORMAL_9999, 0.9999)):
        assert stats.norm.cdf(normal) == pytest.approx(share, abs=1e-12)
        assert distances.psi_noise(200, 200, 10, normal) == pytest.approx(0.01 * stats.chi2.ppf(share, 9), rel=0.02)
