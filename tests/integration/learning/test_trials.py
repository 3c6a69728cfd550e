"""Trials of releases and drafts on production requests: the bytes of production, the values of then, nothing live."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.harness.assistant import ASSISTANT, ENTITY
from tests.harness.small_desk import ASKER, DESK, SCOPE, START, FeatureTable
from tests.integration.learning.tried_desk import TRIAGE, TriedDesk, sorting

from antiphon.catalog.serving.receipt import Receipt
from antiphon.core.errors import InvalidInputError, NotFoundError, UnavailableError
from antiphon.definitions.application import ApplicationSpec, Figure, Freshness
from antiphon.definitions.nodes import RequestInputNode
from antiphon.definitions.on_demand import OnDemandSpec
from antiphon.definitions.prompt import Prompt
from antiphon.engine.api.messages import Delta, GenerationRequest, GenerationResult
from antiphon.features.online.remedies import SubstituteValue
from antiphon.governance.policy.engine import Decision
from antiphon.learning.evaluation.asking import EvaluatedReleases
from antiphon.learning.workbench.trials import SampleQuery
from antiphon.serving.request import Answer
from antiphon.serving.services import Services
from antiphon.testing.scripted_engine import ScriptedEngine, ScriptedGeneration, echo


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[TriedDesk]:
    opened = TriedDesk(tmp_path)
    yield opened
    opened.close()


def saying_the_prompt(request: GenerationRequest) -> ScriptedGeneration:
    """A model whose text is a hash of all that it was sent: another byte of the prompt is another text."""
    return ScriptedGeneration(json.dumps({"outlook": "on_time", "notice": request.prompt[-120:]}))


def receipts(desk: TriedDesk, **only: Any) -> list[Receipt]:
    return desk.receipts.list(SCOPE, **only)


async def test_the_live_release_says_what_production_said_and_a_draft_what_it_would(desk: TriedDesk) -> None:
    asked = [await desk.ask(f"Ticket {number}: the coffee is cold") for number in range(12)]
    asked.append(await desk.ask("There is a fire"))
    before = receipts(desk)
    same = await desk.tried(desk.release, SampleQuery(size=13))
    assert {one.request for one in same.answers} == set(asked)
    assert same.identical == 13
    assert [one.draft.characters for one in same.answers] == [one.live.characters for one in same.answers]
    changed = await desk.tried(desk.told("Everything is urgent."), SampleQuery(size=13))
    assert changed.identical == 1, "the one ticket that was urgent before"
    assert changed.prompt != same.prompt
    assert all(one.draft.valid for one in changed.answers)
    texts = {json.loads(desk.text(one.draft.prediction or ""))["urgency"] for one in changed.answers}
    assert texts == {"urgent"}
    made = [one for one in receipts(desk) if one not in before]
    assert {(one.role, one.path) for one in made} == {("evaluation", "batch")}
    assert receipts(desk, roles=("live",)) == before
    assert {one.id for one in desk.trials.list(SCOPE)} == {same.id, changed.id}
    assert desk.trials.get(SCOPE, changed.id) == changed


async def test_values_are_those_of_then_also_after_they_have_changed(tmp_path: Path) -> None:
    desk = TriedDesk(tmp_path, ScriptedEngine(saying_the_prompt), msgspec.structs.replace(DESK, guards=()))
    try:
        await desk.ask("Late?")
        desk.features.set(START, congestion__delay=90.0, weather__wind=60.0)
        trial = await desk.tried(desk.release)
        assert trial.identical == 1
        # A view in another definition version is read as of then, from what is published now.
        changed = desk.draft(msgspec.structs.replace(desk.application, features={"congestion": "v1", "weather": "v2"}))
        moved = await desk.tried(changed)
        said = json.loads(desk.text(moved.answers[0].draft.prediction or ""))["notice"]
        assert "delay 25 minutes, wind 60 mph" in said
        assert desk.features.asked[-1][0] == {"weather": "v2"}
        assert desk.features.asked[-1][2] == START + timedelta(minutes=1)
    finally:
        desk.close()


STALE = msgspec.structs.replace(
    DESK,
    guards=(),
    freshness={
        "congestion": Freshness("10s", "previous", otherwise="reject"),
        "weather": Freshness("10s", "default"),
    },
)


async def test_what_stood_in_stands_in_again_and_what_was_withheld_stays_withheld(tmp_path: Path) -> None:
    desk = TriedDesk(tmp_path, ScriptedEngine(saying_the_prompt), STALE)
    stood_in = SubstituteValue("previous", 15.0, START - timedelta(hours=2), "snap_0", "v1")
    try:
        desk.services = msgspec.structs.replace(desk.services, remedies=lambda *_: [{"congestion.delay": stood_in}])
        desk.answerer = type(desk.answerer)(desk.services)
        await desk.ask("Late?")
        (receipt,) = receipts(desk)
        assert [one.contract for one in receipt.features] == ["previous", "defaulted"]

        def away(*_: Any) -> Any:
            raise AssertionError("what stood in then is in the receipt")

        desk.services = msgspec.structs.replace(desk.services, remedies=away)
        trial = await desk.tried(desk.release)
        assert trial.identical == 1
        again = desk.receipts.get(SCOPE, trial.answers[0].draft.prediction or "")
        assert [one.printed for one in again.features] == [one.printed for one in receipt.features]
        assert again.features[0].contract == "previous"
    finally:
        desk.close()


async def test_what_policy_had_masked_is_masked_for_the_trial_too(tmp_path: Path) -> None:
    desk = TriedDesk(tmp_path, ScriptedEngine(saying_the_prompt), msgspec.structs.replace(DESK, guards=()))

    def masking(*arguments: Any) -> Decision:
        said = desk.decider.decide(*arguments)
        return msgspec.structs.replace(said, masked=("weather.*",) if arguments[0] == ASKER else ())

    try:
        desk.services = msgspec.structs.replace(desk.services, decide=masking)
        desk.answerer = type(desk.answerer)(desk.services)
        await desk.ask("Late?")
        trial = await desk.tried(desk.release)
        assert trial.identical == 1
    finally:
        desk.close()


async def test_inputs_make_the_same_features_again(tmp_path: Path) -> None:
    application = msgspec.structs.replace(
        TRIAGE,
        prompt=Prompt("Ticket: {{ features.ticket.body }}"),
        figures=(Figure("ticket.body"),),
        on_demand=(OnDemandSpec("ticket", {"body": "text"}, {"body": RequestInputNode("body")}, "", "v1"),),
    )
    desk = TriedDesk(tmp_path, application=application)
    try:
        await desk.ask(None, inputs={"body": "a fire"})
        assert (await desk.tried(desk.release)).identical == 1
    finally:
        desk.close()


async def test_a_reused_answer_is_tried_as_the_request_it_was_made_for(desk: TriedDesk) -> None:
    first = await desk.ask("The lift is stuck")
    again = await desk.ask("The lift is stuck", as_of=START + timedelta(minutes=2))
    assert desk.receipts.get(SCOPE, again).cache.prediction == first
    trial = await desk.tried(desk.release)
    assert trial.identical == 2
    assert all(one.live.completion_tokens == one.draft.completion_tokens > 0 for one in trial.answers)


class LosingEngine(ScriptedEngine):
    """An engine that goes away after three generations, until it is mended."""

    def __init__(self) -> None:
        super().__init__(sorting)
        self.sent: list[str] = []
        self.mended = False

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta | GenerationResult, None]:
        if len(self.sent) == 3 and not self.mended:
            raise UnavailableError("The engine is away.", where="engine")
        self.sent.append(request.prompt)
        async for event in super().generate(request):
            yield event


async def test_an_interrupted_trial_goes_on_with_the_same_sample(desk: TriedDesk) -> None:
    for number in range(8):
        await desk.ask(f"Ticket {number}")
    release, engine = desk.told("Everything is urgent."), LosingEngine()

    def losing(releases: EvaluatedReleases) -> Services:
        return msgspec.structs.replace(desk.services_of(releases), engine=engine)

    runner = dataclasses.replace(desk.runner, services=losing, concurrency=1)
    with pytest.raises(UnavailableError):
        await runner.run(release, SampleQuery(size=5), author="ada")
    engine.mended, drawn = True, desk.runner.draw(SCOPE, "triage", SampleQuery(size=5)).predictions
    for number in range(8, 40):
        await desk.ask(f"Ticket {number}")
    assert desk.runner.draw(SCOPE, "triage", SampleQuery(size=5)).predictions != drawn, "another sample by now"
    trial = await runner.run(release, SampleQuery(size=5), author="ada")
    assert tuple(one.request for one in trial.answers) == drawn
    assert len(engine.sent) == 5, "none is asked twice"
    again = await runner.run(release, SampleQuery(size=5), author="ada")
    assert again.id != trial.id


async def test_answers_of_both_paths_are_tried_alike(desk: TriedDesk) -> None:
    online = await desk.ask("A flood")
    batch = await desk.ask("Cold coffee", path="batch")
    burning = desk.request(application="triage", entity={}, question="A fire")
    (*_, streamed) = [event async for event in desk.answerer.stream(burning)]
    assert isinstance(streamed, Answer)
    assert (await desk.tried(desk.release)).identical == 3
    trial = await desk.tried(desk.release, SampleQuery(path="batch"))
    assert [one.request for one in trial.answers] == [batch]
    assert {one.request for one in (await desk.tried(desk.release, SampleQuery(path="online"))).answers} == {
        online, streamed.prediction,
    }  # fmt: skip


async def test_what_was_erased_is_left_out_and_said(desk: TriedDesk) -> None:
    kept, gone = await desk.ask("Kept"), await desk.ask("Erased")
    receipt = desk.receipts.get(SCOPE, gone)
    desk.blobs.erase(SCOPE, receipt.question_blob or "")
    trial = await desk.tried(desk.release)
    assert ([one.request for one in trial.answers], trial.erased) == ([kept], 1)
    desk.blobs.erase(SCOPE, desk.receipts.get(SCOPE, kept).question_blob or "")
    with pytest.raises(InvalidInputError, match="the texts of 2 are erased"):
        await desk.tried(desk.release)


async def test_samples_are_what_was_asked_for(desk: TriedDesk) -> None:
    with pytest.raises(InvalidInputError, match="no request to triage"):
        desk.runner.draw(SCOPE, "triage", SampleQuery())
    asked = [await desk.ask(f"Ticket {number}") for number in range(10)]
    online = desk.runner.draw(SCOPE, "triage", SampleQuery(size=4, path="online")).predictions
    assert set(online) < set(asked)
    assert online == desk.runner.draw(SCOPE, "triage", SampleQuery(size=4, path="online")).predictions
    assert online != desk.runner.draw(SCOPE, "triage", SampleQuery(size=4, path="online", seed=1)).predictions
    assert desk.runner.draw(SCOPE, "triage", SampleQuery(predictions=tuple(asked[:2]))).predictions == tuple(asked[:2])
    with pytest.raises(NotFoundError):
        desk.runner.draw(SCOPE, "triage", SampleQuery(predictions=("pred_none",)))
    with pytest.raises(InvalidInputError, match="is of triage"):
        desk.runner.draw(SCOPE, "replies", SampleQuery(predictions=(asked[0],)))
    estimate = desk.runner.estimate(SCOPE, "triage", SampleQuery(size=4))
    assert (estimate.requests, estimate.prompt_tokens > 0, estimate.completion_tokens > 0) == (4, True, True)
    assert desk.trials.list(SCOPE) == []


async def test_an_error_of_one_request_is_its_result(tmp_path: Path) -> None:
    rejecting: ApplicationSpec = msgspec.structs.replace(DESK, guards=(), freshness={})
    desk = TriedDesk(tmp_path, ScriptedEngine(saying_the_prompt), rejecting)
    try:
        await desk.ask("Late?")
        stale = msgspec.structs.replace(rejecting, freshness={"congestion": Freshness("1s", "reject")})
        trial = await desk.tried(desk.draft(stale))
        (answer,) = trial.answers
        assert (answer.draft.error, answer.identical) == ("feature_unavailable", None)
        assert "60 s old" in answer.draft.reason
    finally:
        desk.close()


async def test_a_turn_of_a_conversation_is_tried_with_the_turns_before_it(tmp_path: Path) -> None:
    features = FeatureTable(account__open_tickets=2)
    desk = TriedDesk(tmp_path, ScriptedEngine(echo), ASSISTANT, features=features)
    try:
        conversation: str | None = None
        asked = []
        for number in range(3):
            desk.features.set(START, account__open_tickets=number)
            asked.append(await desk.ask(f"Turn {number}?", entity=ENTITY, conversation=conversation))
            said = desk.receipts.get(SCOPE, asked[-1]).conversation
            assert said is not None
            conversation = said.id
        trial = await desk.tried(desk.release)
        assert (len(trial.answers), trial.identical) == (3, 3)
        assert conversation is not None
        assert len(desk.conversations.turns(SCOPE, conversation)) == 3, "a trial is no turn"
        desk.conversations.delete(SCOPE, conversation)
        gone = await desk.tried(desk.release)
        assert ([one.request for one in gone.answers], gone.erased) == (asked[:1], 2)
    finally:
        desk.close()
