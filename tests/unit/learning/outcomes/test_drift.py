from __future__ import annotations

import random

import pytest
from tests.unit.catalog.examples import receipt

from antiphon.catalog.serving.receipt import FeatureReceipt
from antiphon.learning.outcomes.drift import drift_of, drifts, forecasts, printed_features


def numbers(seed: int, count: int, mean: float = 0.0) -> list[float]:
    drawn = random.Random(seed)
    return [drawn.gauss(mean, 1.0) for _ in range(count)]


def test_one_distribution_is_steady_in_99_of_100_comparisons() -> None:
    shifted = above = 0
    for seed in range(400):
        found = drift_of("x", numbers(seed, 300), numbers(10_000 + seed, 200))
        assert found.index is not None
        assert found.noise is not None
        above += found.index > found.noise
        shifted += found.verdict == "shifted"
    assert shifted <= 8
    assert above <= 12


def test_a_shift_of_half_a_deviation_is_told() -> None:
    told = [drift_of("x", numbers(seed, 500), numbers(10_000 + seed, 300, 0.5)).verdict for seed in range(50)]
    assert told.count("shifted") >= 45


def test_printed_figures_are_categories_and_absence_is_one() -> None:
    before = ["5", "10", "10", "15", None] * 40
    assert drift_of("delay", before, before[:100]).verdict == "steady"
    gone = drift_of("delay", before, [None] * 100)
    assert (gone.verdict, gone.reference, gone.recent) == ("shifted", 200, 100)
    new = drift_of("delay", before, ["95"] * 100)
    assert new.verdict == "shifted"
    assert new.index == pytest.approx(new.index)


def test_with_few_rows_nothing_is_said() -> None:
    found = drift_of("x", numbers(1, 49), numbers(2, 500, 9.0))
    assert (found.verdict, found.index, found.noise) == ("too-few", None, None)


def test_the_most_shifted_comes_first() -> None:
    before = {"a": numbers(1, 300), "b": numbers(2, 300), "gone": numbers(3, 300)}
    found = drifts(before, {"a": numbers(4, 300), "b": numbers(5, 300, 2.0), "new": numbers(6, 300)})
    assert [(each.name, each.verdict) for each in found] == [("b", "shifted"), ("a", "steady")]


def test_receipts_give_prints_and_forecasts() -> None:
    def served(prediction: str, printed: str | None) -> FeatureReceipt:
        return FeatureReceipt("v.x", 1.0, printed, "1", None, None, None, "fresh")

    made = [
        receipt("p1", features=(served("p1", "5"), FeatureReceipt("v.y", 1.0, None, "1", None, None, None, "fresh"))),
        receipt("p2", features=(served("p2", None),), classes={"outlook": {"delayed": 0.5}}),
    ]
    assert printed_features(made) == {"v.x": ["5", None]}
    assert forecasts(made, "outlook", "delayed") == [0.5]


def test_figures_are_those_of_the_index_that_snapshots_are_judged_by() -> None:
    found = drift_of("x", numbers(1, 500), numbers(2, 300, 0.5))
    assert (found.index, found.noise) == pytest.approx((0.14693483895892284, 0.11571522833745833), rel=1e-12)
    found = drift_of("x", ["5", "10", "10", "15", None] * 40, ["5", "10", None, "20"] * 20)
    assert (found.index, found.noise) == pytest.approx((1.9036993936701907, 0.23285021622549767), rel=1e-12)
