from __future__ import annotations

import random

import numpy as np
import pytest
from tests.unit.catalog.examples import receipt

from antiphon.catalog.serving.receipt import FeatureReceipt
from antiphon.learning.outcomes.drift import drift_of, drifts, forecasts, printed_features, text_drift


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


def texts(seed: int, count: int, *means: float) -> np.ndarray:
    """Vectors of length 1 around a mean in few of many dimensions."""
    drawn = np.random.default_rng(seed).normal(size=(count, 384))
    drawn[:, : len(means)] += means
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def test_texts_of_one_distribution_are_steady_in_99_of_100_comparisons() -> None:
    found = [text_drift("asked", texts(seed, 120), texts(10_000 + seed, 80)) for seed in range(60)]
    above = sum(one.index > one.noise for one in found if one.index is not None and one.noise is not None)
    assert above <= 4  # Fewer than one is expected, and 5 come once in 3,000 runs.
    assert sum(one.verdict == "shifted" for one in found) <= 4
    # Cross-validation leans to the low side.
    assert np.mean([one.index for one in found]) == pytest.approx(0.5, abs=0.03)


def test_other_texts_are_told() -> None:
    found = [text_drift("asked", texts(seed, 200), texts(10_000 + seed, 100, 1.5, 1.5, -1.5)) for seed in range(6)]
    assert {one.verdict for one in found} == {"shifted"}
    assert min(one.index or 0.0 for one in found) > 0.8


def test_the_same_texts_again_are_steady_and_few_say_nothing() -> None:
    again = text_drift("asked", texts(1, 100), texts(1, 100))
    assert again.verdict == "steady"
    assert text_drift("asked", texts(1, 49), texts(2, 200)).verdict == "too-few"


def test_one_text_over_and_over_is_not_told_from_itself() -> None:
    one = texts(3, 1)
    for before, now in ((97, 101), (300, 200), (63, 450)):
        found = text_drift("answer", one.repeat(before, axis=0), one.repeat(now, axis=0))
        assert (found.verdict, found.index) == ("steady", 0.5)
