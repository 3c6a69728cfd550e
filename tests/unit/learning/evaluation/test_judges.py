"""A judge's scores, and that people's few scores correct their mean as often as the interval says."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from antiphon.definitions.own_metrics import JudgeMetric
from antiphon.learning.evaluation.judges import _student, judged_mean, prediction_powered_mean
from antiphon.learning.evaluation.scores import RowResult

HELPFUL = JudgeMetric("helpful", "Does it help?", least=20)


def scored(number: int, score: float, first: int = 0) -> list[RowResult]:
    return [
        RowResult(f"e{at}", "-", prediction=f"p{at}", own={"helpful": score}) for at in range(first, first + number)
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


def test_student_is_that_of_another_library() -> None:
    for freedom in (20, 29, 59, 400):
        assert _student(0.95, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=2e-3)


def test_few_scores_of_people_leave_it_uncalibrated() -> None:
    rows = scored(50, 4.0)
    few = judged_mean(HELPFUL, rows, (), {f"p{at}": 2.0 for at in range(19)})
    assert few is not None
    assert (few.corrected, few.people, few.mean.value) == (False, 19, 4.0)
    enough = judged_mean(HELPFUL, rows, (), {f"p{at}": 2.0 for at in range(20)})
    assert enough is not None
    assert (enough.corrected, enough.mean.value, enough.judge.value) == (True, 2.0, 4.0)


def test_scores_of_the_live_release_correct_the_judge_as_well() -> None:
    found = judged_mean(HELPFUL, scored(30, 4.0), scored(30, 5.0, 100), {f"p{at}": 4.0 for at in range(100, 125)})
    assert found is not None
    assert (found.corrected, found.people) == (True, 25)
    assert judged_mean(HELPFUL, [], scored(3, 1.0), {}) is None


def test_all_rows_scored_by_people_need_no_judge() -> None:
    found = judged_mean(HELPFUL, scored(20, 5.0), (), {f"p{at}": float(1 + at % 3) for at in range(20)})
    assert found is not None
    assert found.mean.value == pytest.approx(np.mean([1 + at % 3 for at in range(20)]))
