from __future__ import annotations

import math
import random
from collections.abc import Sequence
from datetime import timedelta
from itertools import product

import msgspec
import pytest
from tests.contract.catalog.test_outcomes import outcome
from tests.unit.catalog.examples import NOON

from antiphon.catalog.learning.outcomes import OutcomeRecord
from antiphon.definitions.outcome_shape import OutcomeShape
from antiphon.learning.outcomes.performance import ScoredPredictions, Scores

LATE = OutcomeShape("outlook", "label", "outlook", "late", ("late", "on time"))


def forecast(probability: float, late: bool, release: str = "r1", **entity: str) -> OutcomeRecord:
    label = "late" if late else "on time"
    return outcome("a", probabilities={"late": probability}, value=label, release=release, entity=entity, as_of=NOON)


def scored(forecasts: Sequence[OutcomeRecord], shape: OutcomeShape = LATE) -> Scores | None:
    return ScoredPredictions.read(forecasts, shape).score()


def scores(probabilities: list[float], late: list[bool]) -> Scores | None:
    return scored([forecast(*row) for row in zip(probabilities, late, strict=True)])


def area_under_curve(probabilities: list[float], late: list[bool]) -> float | None:
    found = scores(probabilities, late)
    return None if found is None else found.metrics.get("auc")


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


def test_metrics_agree_with_another_library() -> None:
    from sklearn import metrics

    drawn = random.Random(3)
    rows = [forecast(drawn.random(), drawn.random() < 0.3) for _ in range(500)]
    found = scored(rows)
    assert found is not None
    probabilities, late = [row.probabilities["late"] for row in rows], [row.value == "late" for row in rows]
    assert found.metrics["auc"] == pytest.approx(metrics.roc_auc_score(late, probabilities))
    assert found.metrics["brier"] == pytest.approx(metrics.brier_score_loss(late, probabilities))
    assert found.metrics["log_loss"] == pytest.approx(metrics.log_loss(late, probabilities))
    share = sum(late) / 500
    assert found.trivial["brier"] == pytest.approx(metrics.brier_score_loss(late, [share] * 500))
    assert found.labels == {"late": sum(late), "on time": 500 - sum(late)}
    assert found.mean_forecast == {"late": pytest.approx(sum(probabilities) / 500)}
    assert sum(each.rows for each in found.reliability) == 500


def test_labels_of_many_are_all_scored() -> None:
    labels = ("low", "normal", "urgent")
    said = [(0.6, 0.3, 0.1), (0.2, 0.7, 0.1), (0.1, 0.2, 0.7), (0.5, 0.4, 0.1)]
    rows = [
        outcome("a", probabilities=dict(zip(labels, one, strict=True)), value=truth)
        for one, truth in zip(said, ("low", "normal", "urgent", "normal"), strict=True)
    ]
    found = scored(rows, OutcomeShape("outlook", "label", "outlook", None, labels))
    assert found is not None
    assert found.metrics["accuracy"] == 0.75
    assert found.trivial["accuracy"] == 0.5
    assert found.mean_forecast == pytest.approx({"low": 0.35, "normal": 0.4, "urgent": 0.25})


def test_a_certain_mistake_costs_much_and_not_everything() -> None:
    found = scored([forecast(1.0, False), forecast(0.0, True)])
    assert found is not None
    assert found.metrics["log_loss"] == pytest.approx(-math.log(1e-6))
    assert (found.metrics["brier"], found.metrics["auc"]) == (1.0, 0.0)
    assert scored([]) is None


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
    read = ScoredPredictions.read(rows, LATE)
    assert [(group.value, group.scores.rows) for group in read.by_release()] == [("r0", 5), ("r1", 5)]
    assert [(group.value, group.scores.rows) for group in read.by_day()] == [("2013-04-10", 10)]
    slices = read.by_slice(("origin", "gone"), most=2)
    assert [(group.key, group.value, group.scores.rows) for group in slices] == [
        ("origin", "EWR", 7),
        ("origin", "X7", 1),
    ]


def test_forecasts_are_of_joined_labels_with_a_probability() -> None:
    outcomes = [
        outcome("a", as_of=NOON.replace(hour=23) + timedelta(hours=1), value="late", probabilities={"late": 0.25}),
        outcome("b", probabilities={}),
        outcome("c", kind="thumbs", value="up"),
    ]
    read = ScoredPredictions.read(outcomes, LATE)
    assert [each.id for each in read.outcomes] == ["a"]
    assert [group.value for group in read.by_day()] == ["2013-04-11"]
    assert read.without == 1


def test_numbers_are_scored_beside_the_median_and_texts_by_what_was_written() -> None:
    minutes = OutcomeShape("minutes", "number", "minutes", low=0, high=120)
    pairs = [("10", "20"), ("30", "30"), ("50", "40")]
    rows = [
        outcome("a", outcome="minutes", kind="number", said=said, value=truth, probabilities={})
        for said, truth in pairs
    ]
    found = scored([*rows, outcome("b", outcome="minutes", kind="number", value="7", probabilities={})], minutes)
    assert found is not None
    assert (found.rows, found.metrics["mae"], found.trivial["mae"]) == (3, pytest.approx(20 / 3), pytest.approx(20 / 3))
    assert (found.labels, found.reliability, found.mean_forecast) == ({}, (), {})
    reply = OutcomeShape("text", "reference", None)
    scores = {"chrf": 1.0, "rouge_l": 1.0, "exact_match": 1.0, "length_gap": 0.0}
    texts = [outcome("a", outcome="text", kind="reference", scores=scores, value="Thank you.", probabilities={})]
    written = scored(texts, reply)
    assert written is not None
    assert written.metrics == scores
    assert written.trivial == {}


def test_what_came_before_the_outcome_was_declared_otherwise_is_left_out() -> None:
    minutes = OutcomeShape("outlook", "number", "outlook", low=0, high=120)
    assert (
        ScoredPredictions.read([outcome("a")], minutes).rows,
        ScoredPredictions.read([outcome("a")], minutes).without,
    ) == (None, 1)
    renamed = OutcomeShape("outlook", "label", "outlook", None, ("red", "green"))
    assert ScoredPredictions.read([outcome("a")], renamed).without == 1


def test_predictions_are_sliced_by_the_features_of_their_receipts() -> None:
    made = [
        msgspec.structs.replace(forecast(0.3, n % 2 == 0, shop="a"), prediction=f"p{n}") for n in range(40)
    ]  # fmt: skip
    features = {f"p{n}": {"shop.minutes": float(n)} for n in range(36)}
    found = ScoredPredictions.read(made, LATE).by_slice(("shop", "shop.minutes"), features)
    assert [(one.key, one.value, one.scores.rows) for one in found] == [
        ("shop", "a", 40),
        *(("shop.minutes", value, 9) for value in ("over 17 to 26", "over 26", "over 8 to 17", "up to 8")),
    ]
