"""The geometry of plots, and a rollout's steps."""

from __future__ import annotations

import math
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from tests.unit.catalog.examples import NOON

from antiphon.catalog.learning.evaluations import Bin
from antiphon.catalog.releases.rollouts import JudgedMetric, RolloutMove
from antiphon.gateway.admin.rollouts import JudgementLine
from antiphon.gateway.dashboard import plots
from antiphon.learning.outcomes.performance import Group, Scores
from antiphon.learning.registry.card import reliability_plot


def judgement(number: int, harm: float = 1.0, safe: float = 1.0, **fields: Any) -> JudgementLine:
    given: dict[str, Any] = {
        "sequence": number,
        "state": "canary",
        "step": 0,
        "decision": "hold",
        "sentence": f"sentence {number}",
        "metrics": (JudgedMetric("error", 10, 0, 10, 0, harm, safe, 0.5), JudgedMetric("quality", 1, 0, 1, 0, 1, 2, 1)),
        "harm": harm,
        "harm_bound": 100.0,
        "safe_bound": 20.0,
        "created_at": NOON + timedelta(seconds=number),
    }
    return JudgementLine(**(given | fields))


def test_nothing_is_drawn_before_a_judgement() -> None:
    assert plots.e_values((), ()) is None


def test_equal_ratios_are_equal_heights_and_the_bound_lies_between() -> None:
    drawn = plots.e_values([judgement(n, harm=10.0**n) for n in range(4)], ())
    assert drawn is not None
    heights = [mark.y for mark in drawn[0].lines[0].marks]
    steps = [a - b for a, b in pairwise(heights)]
    assert steps == pytest.approx([steps[0]] * 3, abs=0.11)
    assert steps[0] > 0
    assert drawn[0].bound == heights[2]
    assert "now 1e+03 of the 100" in drawn[0].label


@pytest.mark.parametrize(("value", "as_if"), [(0.0, 0.01), (math.inf, 1e6), (1e300, 1e6)])
def test_what_is_off_the_scale_is_drawn_at_its_edge(value: float, as_if: float) -> None:
    drawn, edge = (plots.e_values([judgement(1, harm=harm)], ()) for harm in (value, as_if))
    assert drawn is not None
    assert edge is not None
    assert drawn[0].lines[0].marks[0].y == edge[0].lines[0].marks[0].y


def test_a_decision_is_marked_where_it_was_made() -> None:
    made = [judgement(1), judgement(2, safe=30.0, decision="promote"), judgement(9, harm=150.0, decision="roll_back")]
    drawn = plots.e_values(made, [RolloutMove("r", 2, "canary", 1, False, "why", "judge", made[1].created_at)])
    assert drawn is not None
    harm, safe = drawn
    assert [(mark.words, mark.at, mark.y) for mark in harm.decisions] == [
        ("sentence 9", harm.lines[0].marks[-1].at, harm.lines[0].marks[-1].y)
    ]
    # The least of its metrics, quality with 2, is what promoted it.
    assert [mark.y for mark in safe.decisions] == [safe.lines[1].marks[1].y]
    assert [(mark.at, mark.words) for mark in harm.events] == [(harm.lines[0].marks[1].at, "canary: why")]
    assert [line.name for line in safe.lines] == ["error", "quality"]


def test_many_judgements_are_thinned_but_no_decision_is_lost() -> None:
    made = [judgement(n, decision="promote" if n == 1_001 else "hold") for n in range(2_000)]
    drawn = plots.e_values(made, ())
    assert drawn is not None
    words = [mark.words for mark in drawn[1].decisions]
    assert words == ["sentence 1001"]
    assert len(drawn[0].lines[0].marks) <= plots.POINTS + 3
    assert drawn[0].lines[0].marks[-1].at == plots.WIDTH - plots.RIGHT


def test_days_are_drawn_from_two_on_and_a_missing_score_is_left_out() -> None:
    def day(value: str, auc: float | None) -> Group:
        return Group("", value, Scores(9, {}, {"brier": 0.2} | ({} if auc is None else {"auc": auc}), {}, {}, ()))

    assert plots.by_day([day("2013-04-10", 0.7)], ("auc", "brier")) is None
    drawn = plots.by_day([day("2013-04-10", 0.7), day("2013-04-11", None), day("2013-04-12", 0.9)], ("auc", "brier"))
    assert drawn is not None
    assert [len(line.marks) for line in drawn.lines] == [2, 3]
    first, last = drawn.lines[0].marks
    assert (first.at, last.at) == (plots.LEFT, plots.WIDTH - plots.RIGHT)
    assert last.y < first.y
    assert [tick.words for tick in drawn.across] == ["04-10", "04-11", "04-12"]


def test_a_perfect_forecast_lies_on_the_line() -> None:
    dots = reliability_plot([Bin(0.25, 0.25, 100), Bin(0.75, 0.5, 25)])
    assert (dots[0].x, dots[0].y) == (75.0, 225.0)
    assert dots[1].y == 150.0
    assert dots[1].size - 3 == pytest.approx((dots[0].size - 3) / 2)
