from __future__ import annotations

import math
import random
from datetime import timedelta
from itertools import product

import pytest
from tests.contract.catalog.test_outcomes import outcome
from tests.unit.catalog.examples import NOON

from antiphon.learning.outcomes.performance import (
    ScoredForecast,
    Scores,
    by_day,
    by_release,
    by_slice,
    forecasts_of,
    score,
)


def forecast(probability: float, positive: bool, release: str = "r1", **entity: str) -> ScoredForecast:
    return ScoredForecast(probability, positive, release, "live", "2013-04-10", entity)


def scores(probabilities: list[float], positives: list[bool]) -> Scores | None:
    return score([forecast(*row) for row in zip(probabilities, positives, strict=True)])


def area_under_curve(probabilities: list[float], positives: list[bool]) -> float | None:
    found = scores(probabilities, positives)
    return None if found is None else found.auc


def test_the_area_under_the_curve_counts_pairs_and_ties_half() -> None:
    assert area_under_curve([0.1, 0.9], [False, True]) == 1.0
    assert area_under_curve([0.9, 0.1], [False, True]) == 0.0
    assert area_under_curve([0.5, 0.5], [False, True]) == 0.5
    assert area_under_curve([0.5], [True]) is None
    assert area_under_curve([], []) is None
    drawn = random.Random(7)
    for _ in range(50):
        rows = [(round(drawn.random(), 1), drawn.random() < 0.4) for _ in range(30)]
        pairs = [(p, q) for (p, yes), (q, no) in product(rows, rows) if yes and not no]
        by_hand = sum(1.0 if p > q else 0.5 if p == q else 0.0 for p, q in pairs) / len(pairs)
        assert area_under_curve([p for p, _ in rows], [yes for _, yes in rows]) == pytest.approx(by_hand, abs=1e-12)


def test_measures_agree_with_another_library() -> None:
    from sklearn import metrics

    drawn = random.Random(3)
    rows = [forecast(drawn.random(), drawn.random() < 0.3) for _ in range(500)]
    found = score(rows)
    assert found is not None
    probabilities, positives = [row.probability for row in rows], [row.positive for row in rows]
    assert found.auc == pytest.approx(metrics.roc_auc_score(positives, probabilities))
    assert found.brier == pytest.approx(metrics.brier_score_loss(positives, probabilities))
    assert found.log_loss == pytest.approx(metrics.log_loss(positives, probabilities))
    share = sum(positives) / 500
    assert found.base_rate_brier == pytest.approx(metrics.brier_score_loss(positives, [share] * 500))
    assert sum(each.rows for each in found.reliability) == 500


def test_a_certain_mistake_costs_much_and_not_everything() -> None:
    found = score([forecast(1.0, False), forecast(0.0, True)])
    assert found is not None
    assert found.log_loss == pytest.approx(-math.log(1e-6))
    assert (found.brier, found.auc) == (1.0, 0.0)
    assert score([]) is None


def test_reliability_bins_reach_from_zero_to_one() -> None:
    found = scores([0.0, 0.05, 0.95, 1.0], [False, True, True, True])
    assert found is not None
    assert [(each.forecast, each.observed, each.rows) for each in found.reliability] == [
        (0.025, 0.5, 2),
        (0.975, 1.0, 2),
    ]


def test_parts_add_up_to_the_whole() -> None:
    rows = [
        forecast(0.1 * number, number % 3 == 0, f"r{number % 2}", origin="EWR" if number < 7 else f"X{number}")
        for number in range(10)
    ]
    assert [(group.value, group.scores.rows) for group in by_release(rows)] == [("r0", 5), ("r1", 5)]
    assert [(group.value, group.scores.rows) for group in by_day(rows)] == [("2013-04-10", 10)]
    slices = by_slice(rows, ("origin", "gone"), most=2)
    assert [(group.key, group.value, group.scores.rows) for group in slices] == [
        ("origin", "EWR", 7),
        ("origin", "X7", 1),
    ]


def test_forecasts_are_of_joined_labels_with_a_probability() -> None:
    outcomes = [
        outcome("a", as_of=NOON.replace(hour=23) + timedelta(hours=1)),
        outcome("b", probability=None),
        outcome("c", kind="thumbs", value="up", positive=None),
    ]
    found, without = forecasts_of(outcomes)
    assert [(each.probability, each.positive, each.day) for each in found] == [(0.25, True, "2013-04-11")]
    assert without == 1
