"""Metrics against scikit-learn, forecasters that know nothing, and intervals that hold what they promise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, brier_score_loss, f1_score, roc_auc_score
from sklearn.metrics import log_loss as reference_log_loss

from antiphon.core.errors import InvalidInputError
from antiphon.learning.evaluation import metrics
from antiphon.learning.evaluation.metrics import METRICS, LabelForecasts

LABELS = ("low", "normal", "high", "urgent")


def drawn(seed: int, rows: int = 400, decimals: int = 2) -> tuple[metrics.Floats, metrics.Floats]:
    generator = np.random.default_rng(seed)
    forecast = np.round(generator.random(rows), decimals)
    return forecast, (generator.random(rows) < forecast).astype(float)


def sample(seed: int, rows: int = 400, decimals: int = 2) -> LabelForecasts:
    return LabelForecasts.yes_or_no(*drawn(seed, rows, decimals))


def of_many(seed: int, rows: int = 400) -> LabelForecasts:
    """Labels drawn from forecasts, one of them rare."""
    generator = np.random.default_rng(seed)
    forecasts = generator.dirichlet([6.0, 3.0, 2.0, 0.3], rows)
    truths = [LABELS[int(generator.choice(4, p=forecast))] for forecast in forecasts]
    read = [
        (dict(zip(LABELS, map(float, one), strict=True)), truth) for one, truth in zip(forecasts, truths, strict=True)
    ]
    return LabelForecasts.read(read, LABELS)


def saying(forecast: dict[str, float], truths: list[str]) -> LabelForecasts:
    """A forecaster that always says the same."""
    return LabelForecasts.read([(forecast, truth) for truth in truths], LABELS)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("decimals", [1, 3, 12])
def test_metrics_are_those_of_scikit_learn(seed: int, decimals: int) -> None:
    forecast, truth = drawn(seed, decimals=decimals)
    found = metrics.measure(LabelForecasts.yes_or_no(forecast, truth))
    assert found["auc"] == pytest.approx(roc_auc_score(truth, forecast), abs=1e-12)
    assert found["brier"] == pytest.approx(brier_score_loss(truth, forecast), abs=1e-12)
    inside = np.clip(forecast, 1e-6, 1 - 1e-6)
    assert found["log_loss"] == pytest.approx(reference_log_loss(truth, inside), abs=1e-9)
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, forecast > 0.5), abs=1e-12)
    assert found["macro_f1"] == pytest.approx(f1_score(truth, forecast > 0.5, average="macro"), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_metrics_of_many_labels_are_those_of_scikit_learn(seed: int) -> None:
    forecasts = of_many(seed)
    truth, probabilities = forecasts.truth, forecasts.probabilities
    found = metrics.measure(forecasts)
    assert found["auc"] == pytest.approx(roc_auc_score(truth, probabilities, multi_class="ovr"), abs=1e-12)
    assert found["log_loss"] == pytest.approx(reference_log_loss(truth, probabilities), abs=1e-9)
    assert found["brier"] == pytest.approx(brier_score_loss(truth, probabilities, scale_by_half=True), abs=1e-12)
    said = probabilities.argmax(axis=1)
    assert found["accuracy"] == pytest.approx(accuracy_score(truth, said), abs=1e-12)
    assert found["macro_f1"] == pytest.approx(f1_score(truth, said, average="macro"), abs=1e-12)


def test_labels_that_are_said_and_those_that_are_said_where_they_came_true() -> None:
    rows = [
        ({"a": 0.7, "b": 0.2, "c": 0.1}, "a"),
        ({"a": 0.6, "b": 0.3, "c": 0.1}, "b"),
        ({"a": 0.1, "b": 0.8, "c": 0.1}, "b"),
    ]
    said, recall = metrics.said_labels(LabelForecasts.read(rows, ("a", "b", "c")))
    assert said == pytest.approx({"a": 2 / 3, "b": 1 / 3, "c": 0.0})
    assert recall == {"a": 1.0, "b": 0.5}
    yes = LabelForecasts.yes_or_no([0.9, 0.4, 0.6, 0.1], [1, 1, 0, 0], "late")
    assert metrics.said_labels(yes) == ({"late": 0.5}, {"late": 0.5})


def test_two_labels_score_alike_whether_one_is_yes_or_both_count() -> None:
    forecast, truth = drawn(3)
    one = LabelForecasts.yes_or_no(forecast, truth)
    both = LabelForecasts.read(
        [({"no": 1 - p, "yes": p}, "yes" if t else "no") for p, t in zip(forecast, truth, strict=True)], ("no", "yes")
    )
    of_two, of_yes = metrics.measure(both), metrics.measure(one)
    # Calibration is of the probability of yes, or of the more probable label.
    assert of_two.pop("calibration_error") != of_yes.pop("calibration_error")
    assert of_two == pytest.approx(of_yes, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_who_ignores_what_is_asked_has_no_advantage(seed: int) -> None:
    """Constant, majority, shares, and drawn at random: none is surely better by any metric that gates ask for."""
    generator = np.random.default_rng(seed)
    truths = [LABELS[int(one)] for one in generator.choice(4, 200, p=[0.5, 0.3, 0.17, 0.03])]
    shares = {label: truths.count(label) / 200 for label in LABELS}
    majority = {label: float(label == "low") for label in LABELS}
    constant = dict(zip(LABELS, (0.1, 0.2, 0.3, 0.4), strict=True))
    random = generator.dirichlet([1.0] * 4, 200)
    at_random = LabelForecasts.read(
        [(dict(zip(LABELS, map(float, p), strict=True)), t) for p, t in zip(random, truths, strict=True)], LABELS
    )
    for forecasts in (saying(majority, truths), saying(constant, truths), saying(shares, truths), at_random):
        found = metrics.advantages(forecasts)
        assert found["macro_f1"].low <= 0 or found["auc"].low <= 0
        assert found["auc"].low <= 0.05
        assert found["brier"].value <= 1e-12


def test_a_label_that_is_always_missed_costs_its_part_of_macro_f1() -> None:
    truths = ["low"] * 90 + ["urgent"] * 10
    found = metrics.measure(saying({label: float(label == "low") for label in LABELS}, truths))
    assert found["accuracy"] == 0.9
    assert found["macro_f1"] == pytest.approx(0.5 * 2 * 0.9 / 1.9)


def test_ties_count_half() -> None:
    truth = np.array([1.0, 0.0, 1.0, 0.0])
    assert METRICS["auc"].of(LabelForecasts.yes_or_no(np.full(4, 0.3), truth)) == 0.5
    assert METRICS["auc"].of(LabelForecasts.yes_or_no([0.5, 0.5, 0.9, 0.1], truth)) == 0.875


def test_a_single_class_has_no_auc_and_certain_errors_are_finite() -> None:
    single = LabelForecasts.yes_or_no([0.1, 0.2], [1.0, 1.0])
    assert math.isnan(METRICS["auc"].of(single))
    assert "auc" not in metrics.intervals(single, resamples=5)
    assert METRICS["log_loss"].of(LabelForecasts.yes_or_no([0.0], [1.0])) == pytest.approx(-math.log(1e-6))


def test_the_trivial_forecaster_says_the_shares() -> None:
    forecasts = of_many(1)
    trivial = metrics.measure_trivial(forecasts)
    assert trivial["brier"] == pytest.approx(0.5 * (1 - np.sum(forecasts.shares**2)))
    assert trivial["auc"] == 0.5
    assert trivial["accuracy"] == forecasts.shares.max()


def test_rows_that_are_weighed_are_rows_that_are_drawn() -> None:
    """The AUC, which does not add up over rows, and F1 of a label that some draws lack."""
    generator = np.random.default_rng(5)
    for forecasts in (of_many(3, 60), sample(4, 30, 1)):
        places = generator.integers(0, forecasts.rows, (40, forecasts.rows))
        weights = np.array([np.bincount(one, minlength=forecasts.rows) for one in places], float)
        trivial = forecasts.trivial(weights)
        for name, metric in forecasts.metrics.items():
            apart = [metric.of(forecasts.at(one)) for one in places]
            assert metric.weighted(forecasts, weights) == pytest.approx(apart, nan_ok=True)
            apart = [metric.of(shares_of(forecasts.at(one))) for one in places]
            if name != "calibration_error":  # of shares it is nothing, and no advantage is of it
                assert trivial[name] == pytest.approx(apart, nan_ok=True)


def shares_of(forecasts: LabelForecasts) -> LabelForecasts:
    """A forecaster that gives the shares of the same rows to each of them."""
    told = np.broadcast_to(forecasts.shares, forecasts.probabilities.shape)
    return LabelForecasts(forecasts.labels, told, forecasts.truth, forecasts.of_many)


def test_reliability_bins_hold_every_row_once() -> None:
    bins = metrics.reliability(LabelForecasts.yes_or_no([0.0, 0.05, 0.1, 0.95, 1.0], [0.0, 1.0, 0.0, 1.0, 1.0]))
    assert [(round(one.forecast, 3), one.observed, one.rows) for one in bins] == [
        (0.025, 0.5, 2),
        (0.1, 0.0, 1),
        (0.975, 1.0, 2),
    ]
    assert sum(one.rows for one in metrics.reliability(of_many(2))) == 400


def test_an_interval_is_repeatable_and_holds_the_truth_as_often_as_it_says() -> None:
    """By 200 samples of known Brier score: 95 % ± 4 standard errors of what is counted."""
    generator = np.random.default_rng(3)
    known = 0.7 * 0.3  # of a forecast that always says the true probability 0.3
    inside = 0
    for _ in range(200):
        truth = (generator.random(200) < 0.3).astype(float)
        found = metrics.intervals(LabelForecasts.yes_or_no(np.full(200, 0.3), truth), resamples=100)["brier"]
        inside += found.low <= known <= found.high
    assert 0.87 <= inside / 200 <= 0.99
    one, again, other = (metrics.intervals(sample(1), seed=seed, resamples=50) for seed in (1, 1, 2))
    assert one == again != other


def test_pairs_are_narrower_than_two_samples_apart() -> None:
    forecast, truth = drawn(4)
    ours, theirs = (LabelForecasts.yes_or_no(p, truth) for p in (forecast, np.clip(forecast + 0.02, 0, 1)))
    paired, apart = metrics.differences(ours, theirs)["brier"], metrics.intervals(ours)["brier"]
    assert paired.value == pytest.approx(METRICS["brier"].of(ours) - METRICS["brier"].of(theirs))
    assert paired.high - paired.low < (apart.high - apart.low) / 4
    assert metrics.differences(ours, ours)["auc"] == metrics.IntervalEstimate(0.0, 0.0, 0.0)
    with pytest.raises(InvalidInputError, match="different rows"):
        metrics.differences(ours, sample(5))


def test_rows_of_one_user_are_drawn_together() -> None:
    forecast, truth = drawn(4)
    ours, theirs = (LabelForecasts.yes_or_no(p, truth) for p in (forecast, np.clip(forecast + 0.2, 0, 1)))
    one_each = [f"u{n}" for n in range(ours.rows)]
    assert metrics.differences(ours, theirs, clusters=one_each) == metrics.differences(ours, theirs)
    twice = ours.at(np.repeat(np.arange(ours.rows), 2)), theirs.at(np.repeat(np.arange(ours.rows), 2))
    as_users = metrics.differences(*twice, clusters=[f"u{n // 2}" for n in range(2 * ours.rows)])["brier"]
    alone = metrics.differences(ours, theirs)["brier"]
    # Wider by what so many users lack of the normal distribution.
    assert (as_users.low, as_users.high) == pytest.approx((alone.low, alone.high), abs=1e-4)


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
        LabelForecasts.yes_or_no(forecast, truth)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "no forecast"),
        ([({"low": 0.6, "high": 0.6}, "low")], "add to 1"),
        ([({"low": 1.0}, "gone")], "gone came true"),
        ([({}, "low")], "add to 1"),
    ],
)
def test_what_is_no_forecast_of_the_labels_is_refused(rows: list[Any], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        LabelForecasts.read(rows, LABELS)


def test_calibration_is_the_distance_of_the_bins_of_reliability() -> None:
    for forecasts in (sample(1), of_many(1)):
        bins = metrics.reliability(forecasts)
        by_hand = sum(one.rows * abs(one.forecast - one.observed) for one in bins) / 400
        assert metrics.measure(forecasts)["calibration_error"] == pytest.approx(by_hand, abs=1e-12)
    sure = LabelForecasts.yes_or_no([0.9] * 100, [1] * 60 + [0] * 40)
    found = metrics.intervals(sure)["calibration_error"]
    assert found.value == pytest.approx(0.3)
    assert 0.19 < found.low < 0.3 < found.high < 0.41
    assert "calibration_error" not in metrics.advantages(sure)
