"""Metrics of both sides of a trial: every form of outcome, functions and judges, clustered by user."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from tests.integration.learning.tried_desk import TRIAGE
from tests.unit.catalog.examples import DEV, NOON

from antiphon.catalog.learning.annotations import Annotation
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.learning import Outcome
from antiphon.definitions.own_metrics import JudgeMetric, OwnMetric
from antiphon.learning.evaluation.scores import RowOutcome, RowResult
from antiphon.learning.workbench.comparison import FigureDifference
from antiphon.learning.workbench.trial_metrics import ComparedAnswers, compare_metrics

SCHEMA = {
    "type": "object",
    "properties": {
        "urgency": {"enum": ["low", "urgent"]},
        "minutes": {"type": "number", "minimum": 0, "maximum": 60},
        "reply": {"type": "string"},
    },
}
POLITE = OwnMetric("politeness", "module:politeness", unit="share")
HELPFUL = JudgeMetric("helpful", "Does it help?", least=12)


def application(*outcomes: Outcome, **changes: Any) -> ApplicationSpec:
    first, *more = outcomes or (None,)
    return msgspec.structs.replace(
        TRIAGE, output_schema=json.dumps(SCHEMA), outcome=first, more_outcomes=tuple(more), **changes
    )


def rows(side: str, count: int, **fields: Any) -> dict[str, RowResult]:
    return {
        f"r{n}": RowResult(f"r{n}", "", prediction=f"{side}{n}", text=f"{side} {n}", **fields) for n in range(count)
    }


def compared(
    spec: ApplicationSpec, first: dict[str, RowResult], second: dict[str, RowResult],
    users: dict[str, str] | None = None, annotations: tuple[Annotation, ...] = (),
) -> dict[str, FigureDifference]:  # fmt: skip
    by_user = (
        {one: msgspec.structs.replace(row, user=(users or {}).get(one, "")) for one, row in side.items()}
        for side in (first, second)
    )
    answers = ComparedAnswers(("live", "draft"), *by_user, annotations)
    return {one.name: one for one in compare_metrics(spec, answers)}


def scores(side: str, count: int, score: str, criterion: str = "helpful") -> tuple[Annotation, ...]:
    return tuple(
        Annotation(f"{side}{n}", DEV, f"{side}{n}", "triage", "ann", "rubric", score, NOON, criterion=criterion)
        for n in range(count)
    )


@pytest.mark.parametrize(
    ("outcome", "worse", "better", "metric", "gap"),
    [
        (
            Outcome("urgency"),
            RowOutcome("low", {"low": 0.2, "urgent": 0.8}),
            RowOutcome("low", {"low": 0.9, "urgent": 0.1}),
            "accuracy",
            1.0,
        ),
        (Outcome("minutes"), RowOutcome("20", said="50"), RowOutcome("20", said="25"), "mae", -25.0),
        (Outcome("reply"), RowOutcome("Soon.", said="No."), RowOutcome("Soon.", said="Soon."), "exact_match", 1.0),
        (
            Outcome(None, name="output"),
            RowOutcome('{"reply":"a"}', said='{"reply":"b"}'),
            RowOutcome('{"reply":"a"}', said='{"reply":"a"}'),
            "field_f1",
            1.0,
        ),
    ],
)  # fmt: skip
def test_every_form_of_outcome_is_measured(
    outcome: Outcome, worse: RowOutcome, better: RowOutcome, metric: str, gap: float
) -> None:
    spec = application(outcome)
    name = spec.shapes[0].name
    sides = [rows(side, 12, further={name: said}) for side, said in (("a", worse), ("b", better))]
    found = compared(spec, *sides)[metric]
    assert found.difference is not None
    assert (found.difference.value, found.better, found.requests) == (pytest.approx(gap), "draft", 12)
    one_user = compared(spec, *sides, users=dict.fromkeys(sides[0], "often"))[metric]
    assert one_user.better == "", "however often one user asked"
    assert one_user.requests == 12


def test_an_interval_of_a_metric_is_of_users() -> None:
    """Nine requests of one user that got better and three of others that did not: no sure difference."""
    spec = application(Outcome("minutes"))
    off, right = ({"minutes": RowOutcome("20", said=said)} for said in ("50", "20"))
    first = rows("a", 22, further=off)
    second = {
        f"r{n}": msgspec.structs.replace(row, further=right if n < 11 else off)
        for n, row in enumerate(rows("b", 22).values())
    }
    often = {f"r{n}": "often" if n < 11 else f"u{n}" for n in range(22)}
    alone, together = (compared(spec, first, second, users)["mae"] for users in ({}, often))
    assert alone.better == "draft"
    assert together.better == ""
    assert together.difference is not None
    assert together.difference.high > 0.0


def test_outcomes_beside_the_first_have_their_names_and_unknown_ones_are_left_out() -> None:
    spec = application(Outcome("urgency"), Outcome("minutes"))
    known = {"minutes": RowOutcome("20", said="20")}
    found = compared(spec, rows("a", 3, further=known), rows("b", 3, further=known))
    assert set(found) == {"minutes.mae", "minutes.rmse"}
    assert compared(spec, rows("a", 1, further=known), rows("b", 1, further=known)) == {}, "one request says nothing"
    unsaid = {"minutes": RowOutcome("20")}
    assert compared(spec, rows("a", 3, further=known), rows("b", 3, further=unsaid)) == {}


def test_functions_are_compared_and_answers_without_a_value_are_counted() -> None:
    spec = application(own_metrics=(POLITE, msgspec.structs.replace(POLITE, name="curtness", direction="lower")))
    first, second = rows("a", 14, own={"politeness": 0.2}), rows("b", 14, own={"politeness": 0.9})
    for one in ("r12", "r13"):
        second[one] = msgspec.structs.replace(second[one], own={}, own_failed={"politeness": "raised ValueError: no"})
    found = compared(spec, first, second)
    polite = found["politeness"]
    assert (polite.requests, polite.better, polite.unit) == (12, "draft", "share")
    assert polite.difference is not None
    assert polite.difference.value == pytest.approx(0.7)
    assert polite.note == "no value of 2 answers: raised ValueError: no"
    assert (found["curtness"].difference, found["curtness"].requests) == (None, 0)


def test_a_judge_decides_once_people_have_scored_answers_of_both_sides() -> None:
    spec = application(judge_metrics=(HELPFUL,))
    first, second = rows("a", 30, own={"helpful": 2.0}), rows("b", 30, own={"helpful": 5.0})
    alone = compared(spec, first, second)["helpful"]
    assert (alone.first, alone.second, alone.better) == (2.0, 5.0, "")
    assert alone.note == "uncalibrated: 0 and 0 of 12 scores of people"
    one_side = compared(spec, first, second, annotations=scores("b", 12, "5"))["helpful"]
    assert (one_side.note, one_side.better) == ("uncalibrated: 0 and 12 of 12 scores of people", "")
    other_rubric = scores("a", 12, "1", "helpful@2") + scores("b", 12, "5", "helpful@2")
    assert compared(spec, first, second, annotations=other_rubric)["helpful"].better == ""
    both = scores("a", 12, "1") + scores("b", 12, "4")
    found = compared(spec, first, second, annotations=both)["helpful"]
    assert (found.first, found.second, found.better, found.note) == (1.0, 4.0, "draft", "")
    one_user = compared(spec, first, second, dict.fromkeys(first, "often"), both)["helpful"]
    assert one_user.better == ""
