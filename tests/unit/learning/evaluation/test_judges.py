"""A judge's scores, and that people's few scores correct their mean as often as the interval says."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from scipy import stats
from tests.unit.catalog.examples import DEV, NOON

from antiphon.catalog.learning.annotations import Annotation
from antiphon.definitions.own_metrics import JudgeMetric
from antiphon.learning.evaluation.intervals import student
from antiphon.learning.evaluation.judges import ScoredAnswers, judged_mean, prediction_powered_mean
from antiphon.learning.evaluation.scores import RowResult

HELPFUL = JudgeMetric("helpful", "Does it help?", least=20)


def scored(number: int, score: float, name: str = "first") -> list[RowResult]:
    return [
        RowResult(f"e{at}", "-", prediction=f"{name}{at}", text=f"text {at}", own={"helpful": score})
        for at in range(number)
    ]


def world(draw: np.random.Generator, rows: int, bias: float, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """What people and a judge say of answers, from 1 to 5; the judge likes them by so much more."""
    quality = draw.normal(3.2, 0.9, rows)
    people = np.clip(np.round(quality + draw.normal(0, 0.3, rows)), 1, 5)
    return people, np.clip(np.round(quality + bias + draw.normal(0, noise, rows)), 1, 5)


@pytest.mark.parametrize(("bias", "noise"), [(0.0, 0.3), (1.0, 0.4), (-0.8, 1.0), (0.5, 3.0)])
def test_the_interval_covers_what_people_would_have_said_whatever_the_judge_is(bias: float, noise: float) -> None:
    draw = np.random.default_rng(7)
    everybody, _ = world(draw, 400_000, bias, noise)
    inside, alone, widths = 0, 0, []
    for _ in range(600):
        people, judge = world(draw, 60 + 400, bias, noise)
        found = prediction_powered_mean(people[:60], judge[:60], judge[60:])
        inside += found.low <= everybody.mean() <= found.high
        half = 1.96 * judge.std() / len(judge) ** 0.5
        alone += abs(judge.mean() - everybody.mean()) <= half
        widths.append((found.high - found.low) / (2 * 2.001 * people[:60].std(ddof=1) / 60**0.5))
    assert 0.92 <= inside / 600 <= 0.98
    assert np.mean(widths) < 1.02, "never much wider than without the judge"
    if noise < 0.5:
        assert np.mean(widths) < 0.75, "a good judge is worth many people"
    if bias and noise < 2:
        assert alone / 600 < 0.2, "the judge alone is wrong and sure of it"


def test_scores_of_one_user_are_one_piece_of_evidence() -> None:
    """Users who ask four times differ by themselves: the interval that counts them covers, that of rows does not."""
    draw = np.random.default_rng(3)
    covered = {"users": 0, "rows": 0}
    for _ in range(300):
        quality = np.repeat(draw.normal(3.0, 1.0, 100), 4)
        people, judge = quality + draw.normal(0, 0.2, 400), draw.normal(3.0, 1.0, 400)
        users = [f"u{n // 4}" for n in range(400)]
        for name, clusters in (("users", users), ("rows", None)):
            found = prediction_powered_mean(people[:80], judge[:80], judge[80:], clusters)
            covered[name] += found.low <= 3.0 <= found.high
    assert 270 <= covered["users"] <= 297
    assert covered["rows"] < 240


def teststudent_is_that_of_another_library() -> None:
    for freedom in (20, 29, 59, 400):
        assert student(0.95, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=2e-3)


def said(rows: list[RowResult], score: float) -> dict[tuple[str, str], float]:
    """The same score of people for each of these rows."""
    return {(row.example, row.text): score for row in rows}


def test_few_scores_of_people_leave_it_uncalibrated() -> None:
    rows = scored(50, 4.0)
    few = judged_mean(HELPFUL, rows, said(rows[:19], 2.0))
    assert few is not None
    assert (few.corrected, few.people, few.mean.value) == (False, 19, 4.0)
    enough = judged_mean(HELPFUL, rows, said(rows[:20], 2.0))
    assert enough is not None
    assert (enough.corrected, enough.mean.value, enough.judge.value) == (True, 2.0, 4.0)
    assert judged_mean(HELPFUL, [], {}) is None


def test_scores_of_one_user_of_many_correct_nothing() -> None:
    rows = [msgspec.structs.replace(row, user="e0" if at < 30 else "") for at, row in enumerate(scored(50, 4.0))]
    of_one = judged_mean(HELPFUL, rows, said(rows[:30], 2.0))
    assert of_one is not None
    assert (of_one.corrected, of_one.people, of_one.mean.value) == (False, 30, 4.0)
    of_two = judged_mean(HELPFUL, rows, said(rows[:31], 2.0))
    assert of_two is not None
    assert of_two.corrected
    alone = judged_mean(HELPFUL, rows[:30], said(rows[:20], 2.0))
    assert alone is not None
    assert alone.corrected, "there are no others that it could be wrong of"


def test_all_rows_scored_by_people_need_no_judge() -> None:
    rows = scored(20, 5.0)
    found = judged_mean(HELPFUL, rows, {(row.example, row.text): float(1 + at % 3) for at, row in enumerate(rows)})
    assert found is not None
    assert found.mean.value == pytest.approx(np.mean([1 + at % 3 for at in range(20)]))


def test_what_people_said_of_a_text_stands_where_it_is_written_again_and_of_no_other() -> None:
    before, again = scored(30, 4.0), scored(30, 4.0, name="again")
    other = msgspec.structs.replace(again[0], text="another answer")
    rated = [
        Annotation(f"n{at}", DEV, row.prediction or "", "desk", "ann", "rubric", "2", NOON, criterion="helpful")
        for at, row in enumerate(before)
    ]
    answers = ScoredAnswers((other, *again[1:]), (*before, other, *again[1:]), tuple(rated))
    found = judged_mean(HELPFUL, answers.rows, answers.people(HELPFUL))
    assert found is not None
    assert found.people == 29
    newer = msgspec.structs.replace(HELPFUL, version="2")
    assert answers.people(newer) == {}


def test_scores_of_few_users_correct_less_than_as_many_of_different_ones() -> None:
    """400 samples: sixty scores of people about fifteen users' answers, four of each, who are alike."""
    draw, by_user, by_row = np.random.default_rng(11), 0, 0
    names = [f"u{at // 4}" for at in range(60)] + [f"v{at // 4}" for at in range(400)]
    for _ in range(400):
        quality = np.concatenate([np.repeat(draw.normal(3, 1, 15), 4), np.repeat(draw.normal(3, 1, 100), 4)])
        judge = quality + draw.normal(0.5, 1.0, 460)
        people = quality[:60] + draw.normal(0, 0.2, 60)
        found = prediction_powered_mean(people, judge[:60], judge[60:], names)
        single = prediction_powered_mean(people, judge[:60], judge[60:])
        assert found.value == single.value
        by_user += found.low <= 3 <= found.high
        by_row += single.low <= 3 <= single.high
    assert by_user / 400 >= 0.91
    assert by_row / 400 < 0.80
    apart = prediction_powered_mean(people, judge[:60], judge[60:], [str(at) for at in range(460)])
    assert (apart.low, apart.high) == pytest.approx((single.low, single.high), abs=1e-12)
