"""Slices have names that many rows share, and every metric of the application."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from antiphon.features.values import FeatureValue, FeatureVector
from antiphon.learning.datasets.reader import DatasetRow
from antiphon.learning.evaluation.metrics import LabelForecasts
from antiphon.learning.evaluation.numbers import NumberAnswers
from antiphon.learning.evaluation.slices import MOST_VALUES, UNKNOWN, MeasuredRows, slice_names, slices

NOON = datetime(2013, 4, 1, 12, tzinfo=UTC)


def test_numbers_are_cut_into_quarters_and_few_of_them_are_not() -> None:
    names = slice_names([*(n / 2 for n in range(100)), None, float("nan")])
    assert [names.count(name) for name in dict.fromkeys(names)] == [25, 25, 25, 25, 2]
    assert list(dict.fromkeys(names)) == ["up to 12", "over 12 to 24.5", "over 24.5 to 37", "over 37", UNKNOWN]
    assert slice_names([1, 5, 3, True, "gold"]) == ["1", "5", "3", "True", "gold"]


@given(st.lists(st.one_of(st.none(), st.integers(-5, 40), st.floats(-1e6, 1e6)), min_size=1, max_size=80))
def test_each_row_has_a_slice_and_larger_numbers_are_in_no_lower_one(values: list[float | None]) -> None:
    names = slice_names(values)
    assert names == slice_names(values)
    numbers = sorted((one, name) for one, name in zip(values, names, strict=True) if one is not None)
    if len({one for one, _ in numbers}) > MOST_VALUES:
        runs = [name for place, (_, name) in enumerate(numbers) if place == 0 or numbers[place - 1][1] != name]
        assert 2 <= len(runs) == len(set(runs)) <= 4


def test_every_metric_has_slices() -> None:
    rows = [
        DatasetRow(
            f"e{n}", {"queue": "a" if n < 30 else "b"}, NOON, "late",
            FeatureVector(None, {"shop.minutes": FeatureValue(float(n), NOON, "v1")}),
        )
        for n in range(60)
    ]  # fmt: skip
    truth = [n % 2 for n in range(60)]
    labels = LabelForecasts.yes_or_no([0.5 + 0.4 * (one - 0.5) for one in truth], truth, "late")
    parts = [
        MeasuredRows(tuple(range(60)), labels),
        MeasuredRows(tuple(range(20)), NumberAnswers.read([("4", "5")] * 20, 10.0), prefix="minutes."),
        MeasuredRows(tuple(range(10, 60)), values=tuple(float(n) for n in range(10, 60)), prefix="words"),
    ]
    found = slices(("queue", "shop.minutes"), rows, ["late"] * 60, parts)
    assert [(one.key, one.rows) for one in found] == [("queue", 30)] * 2 + [("shop.minutes", 15)] * 4
    first, second = found[:2]
    assert (first.metrics["minutes.mae"], first.rows_of("minutes.mae"), first.rows_of("brier")) == (1.0, 20, 30)
    assert (first.metrics["words"], first.rows_of("words")) == (19.5, 20)
    assert "minutes.mae" not in second.metrics
    assert second.metrics["words"] == 44.5
