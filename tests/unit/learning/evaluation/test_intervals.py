from __future__ import annotations

import numpy as np
import pytest

from antiphon.learning.evaluation.intervals import mean, mean_of_few, student
from antiphon.learning.evaluation.metrics import LabelForecasts, advantages, differences, intervals
from antiphon.learning.evaluation.numbers import NumberAnswers


def test_values_that_are_alike_are_no_proof() -> None:
    found = mean_of_few([1.0] * 12, 1.0)
    assert (found.value, found.low) == (1.0, pytest.approx(1.0 - 2.2 / 12, abs=0.005))
    alone = mean_of_few([0.2], 1.0)
    assert (alone.low, alone.high) == (pytest.approx(-0.8), pytest.approx(1.2))


@pytest.mark.parametrize("truth", [0.05, 0.3, 0.5, 0.9])
def test_the_interval_of_few_has_the_truth_in_it_nine_times_of_ten_and_more(truth: float) -> None:
    """Shares of twelve values, where a bootstrap of alike ones has no width."""
    drawn = np.random.default_rng(7)
    found = [mean_of_few((drawn.random(12) < truth).astype(float).tolist(), 1.0) for _ in range(1_000)]
    assert sum(one.low <= truth <= one.high for one in found) / 1_000 > 0.9


def test_few_values_of_users_who_ask_often_count_by_user() -> None:
    """Twelve requests of four users, each always content or never: over requests the interval is too sure."""
    draw = np.random.default_rng(11)
    names = [f"u{user}" for user in range(4) for _ in range(3)]
    samples = [np.repeat((draw.random(4) < 0.5).astype(float), 3).tolist() for _ in range(500)]
    by_user, by_row = ([mean_of_few(each, 1.0, of) for each in samples] for of in (names, None))
    assert [one.value for one in by_user] == [one.value for one in by_row]
    covered = [sum(one.low <= 0.5 <= one.high for one in found) / 500 for found in (by_user, by_row)]
    assert covered[0] > 0.99
    assert covered[1] < 0.9
    each = [str(place) for place in range(12)]
    assert mean_of_few(samples[0], 1.0, each) == mean_of_few(samples[0], 1.0)
    assert mean_of_few(samples[0], 1.0, ["one"] * 12) == mean_of_few(samples[0], 1.0)


@pytest.mark.parametrize(("freedom", "quantile"), [(3, 3.182), (11, 2.201), (39, 2.023)])
def test_students_quantiles(freedom: int, quantile: float) -> None:
    assert student(0.95, freedom) == pytest.approx(quantile, rel=0.02)


def users_who_ask_often(draw: np.random.Generator, users: int) -> tuple[NumberAnswers, list[str]]:
    """Errors of users who ask one to twenty times, and whose own mean differs from that of others; on the whole 0.5."""
    often = draw.integers(1, 21, users)
    names = [f"u{user}" for user, times in enumerate(often) for _ in range(times)]
    own = np.repeat(draw.uniform(0.1, 0.9, users), often)
    errors = own + draw.uniform(-0.1, 0.1, len(names))
    return NumberAnswers(errors, np.zeros(len(names)), 1.0), names


@pytest.mark.parametrize(("users", "seed"), [(15, 1), (25, 2), (60, 3)])
def test_intervals_over_users_cover_what_they_claim_and_those_over_rows_do_not(users: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    by_user, by_row = 0, 0
    for _ in range(100):
        rows, names = users_who_ask_often(draw, users)
        found, single = (intervals(rows, clusters, resamples=200)["mae"] for clusters in (names, None))
        assert found.value == single.value
        by_user += found.low <= 0.5 <= found.high
        by_row += single.low <= 0.5 <= single.high
    assert by_user >= 88
    assert by_row < 65


def test_metrics_and_differences_draw_whole_users() -> None:
    """Twenty rows of each of twelve users say as little as one row of each would."""
    draw = np.random.default_rng(4)
    said, truth = draw.random(12), np.array([0, 1] * 6)
    names = [f"u{user}" for user in range(12) for _ in range(20)]
    rows, others = (
        LabelForecasts.yes_or_no(np.repeat(forecast, 20), np.repeat(truth, 20)) for forecast in (said, said**2)
    )
    for by_user, by_row in (
        (intervals(rows, names), intervals(rows)),
        (advantages(rows, names), advantages(rows)),
        (differences(rows, others, names), differences(rows, others)),
    ):
        for name, found in by_user.items():
            if found.high > found.low:
                assert found.value == by_row[name].value
                assert found.high - found.low > 2 * (by_row[name].high - by_row[name].low), name


def test_rows_of_one_user_alone_count_by_themselves() -> None:
    assert mean([0.0, 1.0, 1.0], ["one"] * 3) == mean([0.0, 1.0, 1.0])
