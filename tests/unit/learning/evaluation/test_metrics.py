"""Measures against scikit-learn, and intervals that hold what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score
from sklearn.metrics import log_loss as reference_log_loss

from antiphon.core.errors import InvalidInputError
from antiphon.learning.evaluation import metrics


def sample(seed: int, rows: int = 400, decimals: int = 2) -> tuple[metrics.Floats, metrics.Floats]:
    generator = np.random.default_rng(seed)
    forecast = np.round(generator.random(rows), decimals)
    return forecast, (generator.random(rows) < forecast).astype(float)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("decimals", [1, 3, 12])
def test_measures_are_those_of_scikit_learn(seed: int, decimals: int) -> None:
    forecast, truth = sample(seed, decimals=decimals)
    assert metrics.auc(forecast, truth) == pytest.approx(roc_auc_score(truth, forecast), abs=1e-12)
    assert metrics.brier(forecast, truth) == pytest.approx(brier_score_loss(truth, forecast), abs=1e-12)
    inside = np.clip(forecast, 1e-6, 1 - 1e-6)
    assert metrics.log_loss(inside, truth) == pytest.approx(reference_log_loss(truth, inside), abs=1e-9)


def test_ties_count_half() -> None:
    truth = np.array([1.0, 0.0, 1.0, 0.0])
    assert metrics.auc(np.full(4, 0.3), truth) == 0.5
    assert metrics.auc(np.array([0.5, 0.5, 0.9, 0.1]), truth) == 0.875


def test_a_single_class_has_no_auc_and_certain_errors_are_finite() -> None:
    assert math.isnan(metrics.auc(np.array([0.1, 0.2]), np.array([1.0, 1.0])))
    assert 30 < metrics.log_loss(np.array([0.0]), np.array([1.0])) < 40


def test_base_rate_is_what_a_constant_forecast_scores() -> None:
    _, truth = sample(1)
    assert metrics.base_rate_brier(truth) == pytest.approx(metrics.brier(np.full(len(truth), truth.mean()), truth))


def test_reliability_bins_hold_every_row_once() -> None:
    forecast, truth = np.array([0.0, 0.05, 0.1, 0.95, 1.0]), np.array([0.0, 1.0, 0.0, 1.0, 1.0])
    bins = metrics.reliability(forecast, truth)
    assert [(round(one.forecast, 3), one.observed, one.rows) for one in bins] == [
        (0.025, 0.5, 2),
        (0.1, 0.0, 1),
        (0.975, 1.0, 2),
    ]


def test_an_interval_is_repeatable_and_holds_the_truth_as_often_as_it_says() -> None:
    """By 200 samples of known Brier score: 95 % ± 4 standard errors of what is counted."""
    generator = np.random.default_rng(3)
    known = 0.7 * 0.3  # of a forecast that always says the true probability 0.3
    inside = 0
    for _ in range(200):
        truth = (generator.random(200) < 0.3).astype(float)
        found = metrics.interval(metrics.brier, np.full(200, 0.3), truth, resamples=300)
        inside += found.low <= known <= found.high
    assert 0.88 <= inside / 200 <= 0.99
    assert metrics.interval(metrics.auc, *sample(1), resamples=50) == metrics.interval(
        metrics.auc, *sample(1), resamples=50
    )
    assert metrics.interval(metrics.auc, *sample(1), seed=1, resamples=50) != metrics.interval(
        metrics.auc, *sample(1), seed=2, resamples=50
    )


def test_pairs_are_narrower_than_two_samples_apart() -> None:
    forecast, truth = sample(4)
    other = np.clip(forecast + 0.02, 0, 1)
    paired = metrics.difference(metrics.brier, forecast, other, truth)
    apart = metrics.interval(metrics.brier, forecast, truth)
    assert paired.value == pytest.approx(metrics.brier(forecast, truth) - metrics.brier(other, truth))
    assert paired.high - paired.low < (apart.high - apart.low) / 4
    assert metrics.difference(metrics.auc, forecast, forecast, truth) == metrics.IntervalEstimate(0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("forecast", "truth", "words"),
    [
        ([], [], "0 forecasts"),
        ([0.5], [0, 1], "1 forecasts"),
        ([1.2], [1], "from 0 to 1"),
        ([float("nan")], [1], "from 0 to 1"),
        ([0.5], [0.5], "0 or 1"),
    ],
)
def test_what_cannot_be_scored_is_refused(forecast: list[float], truth: list[float], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        metrics.interval(metrics.brier, forecast, truth)
