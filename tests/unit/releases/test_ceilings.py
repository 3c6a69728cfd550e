"""The evidence that a mean is above its ceiling: how seldom it errs, how soon it is right, and when the rise began."""

from __future__ import annotations

import math

import numpy as np
import pytest

from antiphon.releases.ceilings import counted_gains, gains, likeliest_begin, log_evidence

ALPHA = 0.05


def highest(bad: np.ndarray, total: int, ceiling: float) -> float:
    """The highest evidence of any look, one after each block."""
    logs = counted_gains(bad, np.full(len(bad), total), ceiling)
    return max(log_evidence(logs[: n + 1]) for n in range(len(bad)))


def test_a_rate_at_its_ceiling_is_hardly_ever_decided_against_however_often_it_is_looked_at() -> None:
    draw = np.random.default_rng(3)
    runs = 400
    errors = sum(highest(draw.binomial(50, 0.04, 60), 50, 0.04) >= math.log(1 / ALPHA) for _ in range(runs))
    assert errors / runs <= ALPHA


def test_values_whose_mean_swings_below_the_ceiling_are_no_evidence() -> None:
    draw = np.random.default_rng(5)
    errors = 0
    for _ in range(200):
        means = 0.2 + 0.05 * np.sin(np.arange(28) * math.pi / 2)
        blocks = [gains(draw.beta(2, 2 / mean - 2, 40), 0.25) for mean in means]
        errors += any(log_evidence(blocks[: n + 1]) >= math.log(1 / ALPHA) for n in range(len(blocks)))
    assert errors / 200 <= ALPHA


def test_a_rise_after_a_long_good_time_is_found_soon_and_dated() -> None:
    draw = np.random.default_rng(7)
    good, bad = draw.binomial(200, 0.01, 100), draw.binomial(200, 0.12, 2)
    logs = counted_gains(np.concatenate([good, bad]), np.full(102, 200), 0.04)
    assert log_evidence(logs[:100]) < math.log(1 / ALPHA)
    assert log_evidence(logs) >= math.log(700)
    assert likeliest_begin(logs) == 100
    # Without bettors of later blocks the good time would have to be worn off first.
    alone = counted_gains(good.sum() + bad.sum(), 102 * 200, 0.04)
    assert np.exp(alone).mean() < 1


def test_counts_are_bet_on_as_the_values_they_stand_for() -> None:
    values = np.array([1.0, 0.0, 0.0, 1.0, 0.0])
    assert counted_gains(2, 5, 0.3) == pytest.approx(gains(values, 0.3))
    assert log_evidence(np.zeros((0, 5))) == 0.0
