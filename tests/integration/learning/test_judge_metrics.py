"""Metrics of a judge model in an evaluation: asked through an engine, corrected by annotations, and gated only then."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.harness.small_desk import SCOPE, START
from tests.integration.learning.evaluated_desk import LEARNS, EvaluatedDesk, forecasting

from antiphon.catalog.learning.annotations import Annotation, Annotations, annotation_id
from antiphon.catalog.learning.evaluations import Evaluation
from antiphon.definitions.learning import Gates, MetricGate
from antiphon.definitions.own_metrics import JudgeMetric
from antiphon.engine.api.messages import GenerationRequest
from antiphon.serving.fallback.engines import Engines
from antiphon.testing.scripted_engine import ScriptedEngine, ScriptedGeneration

RUBRIC = "Does the notice tell how long it takes?"
CLEAR = JudgeMetric("clear", RUBRIC, property="notice", least=12)
BOUNDS = Gates(slices=("origin",), rows=10, metrics={"clear": MetricGate(value=2.0, behind_live=1.5)})
JUDGED = msgspec.structs.replace(LEARNS, judge_metrics=(CLEAR,), gates=BOUNDS)


def kind(request: GenerationRequest) -> ScriptedGeneration:
    """The desk's model, which also judges: it likes everything."""
    if RUBRIC not in request.prompt:
        return forecasting(request)
    assert "Delays average" in request.prompt
    assert (request.priority, request.temperature) == ("batch", 0.0)
    return ScriptedGeneration('{"score": 5}')


class JudgedDesk(EvaluatedDesk):
    def __init__(self, folder: Path, judge: Callable[[GenerationRequest], Any] = kind, **options: Any) -> None:
        super().__init__(folder, ScriptedEngine(judge), JUDGED, **options)
        self.annotations = Annotations(self.database)
        services = self.services
        engines = Engines(services.engine, services.standbys, services.failover, services.clock)
        scorer = replace(self.evaluator.scorer, engines=engines)
        self.evaluator = replace(self.evaluator, scorer=scorer, annotations=self.annotations.of_predictions)

    async def evaluate(self, **options: Any) -> Evaluation:
        return await self.evaluator.evaluate(self.release, self.dataset, with_safety=False, **options)

    def say(self, evaluation: Evaluation, number: int, score: str, criterion: str = "clear") -> None:
        """People score the first answers."""
        for row in self.evaluator.rows_of(evaluation).rows[:number]:
            assert row.prediction is not None
            name = annotation_id(row.prediction, "ann", "rubric", criterion)
            self.annotations.put(
                Annotation(name, SCOPE, row.prediction, "desk", "ann", "rubric", score, START, criterion=criterion)
            )


def gate(evaluation: Evaluation, name: str) -> Any:
    return next(one for one in evaluation.gates if one.name == name)


async def test_a_judge_gates_once_enough_people_have_scored(tmp_path: Path) -> None:
    desk = JudgedDesk(tmp_path)
    try:
        alone = await desk.evaluate()
        assert alone.judged["clear"].corrected is False
        assert alone.metrics["clear"].value == 5.0
        refused = gate(alone, "clear_value")
        assert (refused.passed, refused.reason) == (
            False, "Clear is uncalibrated: people scored 0 answers by its rubric, 12 are needed.",
        )  # fmt: skip
        desk.say(alone, 12, "1", "clear@2")
        desk.say(alone, 11, "3")
        few = await desk.evaluate()
        assert (few.judged["clear"].people, few.judged["clear"].corrected) == (11, False)
        desk.say(few, 12, "3")
        found = await desk.evaluate()
        assert found.id != few.id, "it was asked anew, and what people said of its texts stands"
        assert (found.judged["clear"].people, found.judged["clear"].corrected) == (12, True)
        assert found.metrics["clear"].value == pytest.approx(3.0)
        assert found.judged["clear"].judge.value == 5.0
        assert gate(found, "clear_value").passed is True
        # What people said of the live release's answers says nothing of a candidate's.
        candidate = desk.candidate(judge_metrics=JUDGED.judge_metrics, gates=BOUNDS)
        against = {"with_safety": False, "against": desk.release.id}
        unknown = await desk.evaluator.evaluate(candidate, desk.dataset, **against)
        assert (unknown.judged["clear"].people, unknown.difference.get("clear")) == (0, None)
        desk.say(unknown, 15, "4")
        compared = await desk.evaluator.evaluate(candidate, desk.dataset, **against)
        assert compared.difference["clear"].value == pytest.approx(1.0)
        other = msgspec.structs.replace(CLEAR, rubric=f"{RUBRIC} Briefly?", version="2")
        reworded = desk.candidate(judge_metrics=(other,), gates=BOUNDS, owner="reworded")
        first = await desk.evaluator.evaluate(reworded, desk.dataset, **against)
        assert "clear" not in first.difference
        # The live release's answers are judged by the new rubric too, and people may score them by it.
        desk.say(first, 12, "2", "clear@2")
        listed = desk.evaluations.list(SCOPE, release=desk.release.id)
        live = next(one for one in listed if one.id != alone.id)
        desk.say(live, 12, "5", "clear@2")  # and the ones of before, where the text is the same
        compared = await desk.evaluator.evaluate(reworded, desk.dataset, **against)
        assert compared.difference["clear"].value == pytest.approx(-1.0)
        behind = gate(compared, "clear_behind_live")
        assert (behind.passed, behind.measured) == (True, pytest.approx(1.0))
    finally:
        desk.close()


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        ('{"score": 9}', "the judge gives no score"),
        ("it is fine", "the judge gives no score"),
        (None, "the judge did not answer"),
    ],
)
async def test_a_judge_that_is_away_or_answers_nonsense_gives_no_score(
    tmp_path: Path, says: str | None, reason: str
) -> None:
    def judge(request: GenerationRequest) -> ScriptedGeneration:
        if RUBRIC not in request.prompt:
            return forecasting(request)
        if says is None:
            raise ConnectionError("away")
        return ScriptedGeneration(says)

    desk = JudgedDesk(tmp_path, judge)
    try:
        if says is None:
            metric = msgspec.structs.replace(CLEAR, engine="elsewhere")
            desk.release = desk.publish(msgspec.structs.replace(JUDGED, judge_metrics=(metric,)))
        found = await desk.evaluate()
        rows = desk.evaluator.rows_of(found).rows
        assert all(reason in row.own_failed["clear"] for row in rows)
        assert found.own_failures == {"clear": len(rows)}
        assert "clear" not in found.metrics
        assert gate(found, "clear_failures").passed is False
        assert gate(found, "clear_value").passed is False
    finally:
        desk.close()


async def test_several_trials_are_sampled_and_their_mean_counts(tmp_path: Path) -> None:
    def judge(request: GenerationRequest) -> ScriptedGeneration:
        if RUBRIC not in request.prompt:
            return forecasting(request)
        assert request.temperature == 1.0
        return ScriptedGeneration(json.dumps({"score": request.seed}))

    desk = JudgedDesk(tmp_path, judge)
    try:
        metric = msgspec.structs.replace(CLEAR, trials=3)
        desk.release = desk.publish(msgspec.structs.replace(JUDGED, judge_metrics=(metric,)))
        assert (await desk.evaluate()).metrics["clear"].value == 2.0
    finally:
        desk.close()
