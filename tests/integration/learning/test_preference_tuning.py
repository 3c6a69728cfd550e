"""From thumbs and corrections to a draft that waits for its gates: what is learned, what is left out, and why."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.harness.small_desk import SCOPE
from tests.integration.learning.evaluated_desk import forecasting
from tests.integration.learning.learning_desk import ORDER, TRAINS, LearningDesk

from antiphon.catalog.learning.annotations import Annotation, annotation_id
from antiphon.catalog.learning.models import LearnedPreferences
from antiphon.catalog.learning.outcomes import OutcomeRecord
from antiphon.core.errors import CorruptionError, InvalidInputError, UnavailableError
from antiphon.definitions.application import ApplicationSpec, Decoding, Reuse
from antiphon.definitions.learning import Preferences
from antiphon.engine.api.messages import GenerationRequest
from antiphon.learning.retraining.orders import TrainingOrders
from antiphon.serving.request import Answer
from antiphon.testing.scripted_engine import ScriptedEngine, ScriptedGeneration
from antiphon.training.examples import read
from antiphon.training.preferences import Preference

PREFERS = msgspec.structs.replace(ORDER, preferences=True)
"""An order that learns preferences."""
SERVED: ApplicationSpec = msgspec.structs.replace(
    TRAINS,
    fine_tune=msgspec.structs.replace(TRAINS.fine_tune, prompt=None, preferences=Preferences(batch=2, beta=0.2)),
    reuse=Reuse("never"),
)
"""An application whose tuned model is told what the base model was."""


class MoodyModel:
    """Forecasts as the other desks' model does, with other words while it is short."""

    def __init__(self) -> None:
        self.short = False

    def __call__(self, request: GenerationRequest) -> ScriptedGeneration:
        says = forecasting(request)
        if not self.short:
            return says
        output = msgspec.json.decode(says.text) | {"notice": "It is late."}
        return msgspec.structs.replace(says, text=msgspec.json.encode(output).decode())


@pytest.fixture
def model() -> MoodyModel:
    return MoodyModel()


@pytest.fixture
def desk(tmp_path: Path, model: MoodyModel) -> Iterator[LearningDesk]:
    desk = LearningDesk(tmp_path, SERVED, engine=ScriptedEngine(model))
    yield desk
    desk.close()


async def ask(desk: LearningDesk, flight: str = "B6 1", **fields: Any) -> Answer:
    moment = desk.clock.now() - timedelta(hours=31)  # Before what is held out to be evaluated on.
    entity = {"flight": flight, "origin": "JFK"}
    return await desk.answerer.answer(desk.request(entity=entity, as_of=moment, **fields))


def told(desk: LearningDesk, kind: Any, value: str, answer: Answer) -> None:
    """A user's feedback, joined to its prediction."""
    now, prediction = desk.clock.now(), answer.receipt.prediction
    record = OutcomeRecord(f"{kind}-{prediction}", SCOPE, "desk", kind, "joined", value, now, now, prediction)
    desk.outcomes.add(record)


def annotated(desk: LearningDesk, kind: Any, value: str, answer: Answer, other: Answer | None = None) -> None:
    prediction, beside = answer.receipt.prediction, None if other is None else other.receipt.prediction
    name = annotation_id(prediction, "ann", kind, "", beside)
    desk.annotations.put(
        Annotation(name, SCOPE, prediction, "desk", "ann", kind, value, desk.clock.now(), other=beside)
    )


def learned(desk: LearningDesk) -> list[Preference]:
    """What the latest training was given; its folder is cleared when it ends, so this is read while it runs."""
    order = desk.trainer.orders[-1]
    return list(read(Path(order.examples_path), order.examples_sha256, Preference))


async def test_what_people_preferred_becomes_a_draft_that_waits_for_its_gates(
    desk: LearningDesk, model: MoodyModel
) -> None:
    answers = [await ask(desk, f"B6 {number}") for number in range(5)]
    told(desk, "thumbs", "up", answers[0])
    told(desk, "thumbs", "down", answers[1])
    told(desk, "thumbs", "down", answers[2])
    told(desk, "correction", '{"outlook": "on_time", "notice": "All is well."}', answers[2])
    annotated(desk, "preference", "other", answers[3], answers[4])  # Of two flights: there is nothing to compare.
    annotated(desk, "preference", "this", answers[3], await ask(desk, "B6 3"))  # Both say the same.
    model.short = True
    desk.publish(msgspec.structs.replace(SERVED, decoding=Decoding(max_tokens=65)))  # It is not answered as before.
    live = desk.live()
    short = await ask(desk, "B6 4")
    annotated(desk, "preference", "other", answers[4], short)
    seen: list[Preference] = []
    desk.trainer.before_step = lambda step: seen.extend(learned(desk) if not step else ())
    run = await desk.train(PREFERS, rollout=True, reason="people said so")
    assert run.status == "succeeded", run.error
    found = run.result
    assert (found["model"], found["stage"], found["checks"]) == ("desk.v1", "draft", "run_checks")
    assert found["preferences"] == msgspec.to_builtins(
        LearnedPreferences(
            found["preferences"]["sha256"], pairs=2, liked=1, disliked=1, dropped={"other-request": 1, "unwritten": 1}
        )
    )
    assert desk.ordered_checks == [(found["release"], True, "me", "people said so")]
    assert desk.live() == live
    by_id = {one.id: one for one in seen}
    first, corrected = (by_id[answers[place].receipt.prediction] for place in (0, 2))
    assert first.prompt == desk.blobs.get(SCOPE, answers[0].receipt.attempts[-1].prompt_blob).decode()
    written = "".join(part.text for part in corrected.liked)
    assert written == '{"outlook": "on_time", "notice": "All is well."}'
    assert "".join(part.text for part in corrected.disliked) == answers[2].text
    assert {part.text: part.weight for part in corrected.liked}['{"outlook": "'] == 0.0
    (chosen,) = [one for one in seen if "|" in one.id]
    for side, answer in ((chosen.liked, short), (chosen.disliked, answers[4])):
        assert msgspec.json.decode("".join(part.text for part in side)) == msgspec.json.decode(answer.text)
    version = desk.versions.get(SCOPE, "desk.v1")
    (order,) = desk.trainer.orders
    assert (order.recipe.method, order.recipe.beta, order.recipe.batch, order.recipe.steps) == (
        "preferences",
        0.2,
        2,
        2,
    )
    assert version.preferences == msgspec.convert(found["preferences"], LearnedPreferences)
    assert (version.dataset, version.replay_datasets, version.parent) == ("", (), None)
    assert version.learned_until == desk.clock.now() - timedelta(hours=30)
    assert not list((desk.directory / "training").glob("*")), "the working folder is cleared"


async def test_it_goes_on_from_the_live_version_and_learns_nothing_twice(desk: LearningDesk) -> None:
    told(desk, "thumbs", "down", await ask(desk))
    first = (await desk.train(PREFERS)).result
    desk.releases.activate(SCOPE, "desk", first["release"], "me", "it passed")
    await desk.retraining.serve(desk.live())
    desk.clock.advance(timedelta(hours=40))
    told(desk, "thumbs", "up", await ask(desk, "B6 2"))
    run = await desk.train(PREFERS)
    assert run.status == "succeeded", run.error
    parent, version = (desk.versions.get(SCOPE, f"desk.v{number}") for number in (1, 2))
    assert (version.parent, run.result["parent"]) == ("desk.v1", "desk.v1")
    assert version.preferences is not None
    assert (version.preferences.liked, version.preferences.disliked) == (1, 0)
    assert version.preferences.dropped == {"outside-window": 1}
    order = desk.trainer.orders[-1]
    assert order.parent is not None
    assert (order.parent.sha256, order.recipe.rank) == (parent.adapter.sha256, parent.recipe["rank"])
    with pytest.raises(InvalidInputError, match=r"desk.v1 learned preferences, and what it learned from is not here"):
        desk.orders.place(SCOPE, "me", msgspec.structs.replace(ORDER, delta=True))
    with pytest.raises(InvalidInputError, match=r"desk.v1 learned preferences.*gives the same training again"):
        desk.orders.rebuild(SCOPE, "me", "desk.v1")


async def test_what_is_not_the_models_or_not_to_be_learned_is_left_out_by_its_reason(desk: LearningDesk) -> None:
    answers = [await ask(desk, f"B6 {number}") for number in range(4)]
    for answer in answers:
        told(desk, "thumbs", "down", answer)
    annotated(desk, "thumbs", "up", answers[0])
    desk.blobs.erase(SCOPE, answers[1].receipt.attempts[-1].prompt_blob)
    recent = await desk.answerer.answer(desk.request(entity={"flight": "B6 9", "origin": "JFK"}))
    told(desk, "thumbs", "down", recent)
    other = msgspec.structs.replace(SERVED.prompt, system="You write otherwise.")
    desk.publish(msgspec.structs.replace(SERVED, prompt=other))
    told(desk, "thumbs", "down", await ask(desk, "B6 8"))
    desk.withheld = lambda scope, name, keys, rows: (
        "digest", ["no consent" if entity[0] == "B6 2" else None for entity, _ in rows],
    )  # fmt: skip
    preview = desk.orders.foresee(SCOPE, "me", PREFERS)
    assert preview.preferences == LearnedPreferences(
        "", disliked=1,
        dropped={
            "contradictory": 1, "other-prompt": 1, "outside-window": 1, "policy: no consent": 1, "text-erased": 1,
        },
    )  # fmt: skip
    assert (preview.steps, preview.batch, preview.problems) == (1, 1, ())
    run = await desk.train(PREFERS)
    assert run.result["preferences"]["dropped"] == preview.preferences.dropped


async def test_what_was_said_after_the_cutoff_or_by_another_model_is_not_learned(desk: LearningDesk) -> None:
    told(desk, "thumbs", "down", await ask(desk))
    cutoff = desk.clock.now()
    desk.clock.advance(timedelta(minutes=5))
    later = await desk.answerer.answer(
        desk.request(entity={"flight": "B6 2", "origin": "JFK"}, as_of=cutoff - timedelta(hours=32))
    )
    told(desk, "thumbs", "up", later)
    assert desk.orders.foresee(SCOPE, "me", msgspec.structs.replace(PREFERS, cutoff=cutoff)).preferences.count == 1
    assert desk.orders.foresee(SCOPE, "me", PREFERS).preferences.count == 2
    tune = msgspec.structs.replace(SERVED.fine_tune, base="larger")
    desk.application = msgspec.structs.replace(SERVED, fine_tune=tune)
    assert desk.orders.foresee(SCOPE, "me", PREFERS).preferences.dropped == {"other-model": 2}


async def test_a_text_that_a_guard_wrote_is_not_the_models_however_it_is_served(tmp_path: Path) -> None:
    guarded = msgspec.structs.replace(SERVED, reuse=Reuse("always"))

    def false(request: GenerationRequest) -> ScriptedGeneration:
        output = msgspec.json.decode(forecasting(request).text) | {"notice": "Delays average 93 minutes."}
        return msgspec.structs.replace(forecasting(request), text=msgspec.json.encode(output).decode())

    desk = LearningDesk(tmp_path, guarded, engine=ScriptedEngine(false))
    first, again = await ask(desk), await ask(desk)
    assert (first.receipt.cache.origin, again.receipt.cache.origin) == ("generated", "stored")
    told(desk, "thumbs", "up", first)
    told(desk, "thumbs", "up", again)
    assert desk.orders.foresee(SCOPE, "me", PREFERS).preferences == LearnedPreferences("", dropped={"template": 2})
    # What somebody writes in its place is learned all the same.
    told(desk, "correction", '{"outlook": "on_time", "notice": "All is well."}', again)
    known = desk.orders.foresee(SCOPE, "me", PREFERS).preferences
    assert known == LearnedPreferences("", liked=1, dropped={"template": 1})
    desk.close()


async def test_a_killed_training_learns_what_was_said_when_it_began(desk: LearningDesk, tmp_path: Path) -> None:
    told(desk, "thumbs", "down", await ask(desk))
    killed: list[int] = []

    def kill(step: int) -> None:
        if not killed:
            killed.append(step)
            shutil.rmtree(tmp_path / "training")  # As on another host.
            desk.clock.advance(timedelta(minutes=5))
            raise UnavailableError("killed", where="a test")

    desk.trainer.before_step = kill
    first = desk.orders.place(SCOPE, "me", PREFERS)
    second = await ask(desk, "B6 2")
    desk.clock.advance(timedelta(minutes=5))
    told(desk, "thumbs", "up", second)
    run = await desk.work(first)
    assert (run.status, len(killed)) == ("succeeded", 1), run.error
    assert len({order.examples_sha256 for order in desk.trainer.orders}) == 1


async def test_a_release_that_is_validated_already_is_sent_on_its_way(desk: LearningDesk) -> None:
    told(desk, "thumbs", "down", await ask(desk))
    cutoff = desk.clock.now()
    first = (await desk.train(PREFERS, cutoff=cutoff)).result
    desk.releases.set_stage(SCOPE, first["release"], "validated", principal="me", reason="it passed")
    again = (await desk.train(PREFERS, cutoff=cutoff, rollout=True)).result
    assert (again["release"], again["stage"], again["checks"]) == (first["release"], "validated", "run_checks")
    assert [order[1] for order in desk.ordered_checks] == [False, True]
    assert len(desk.trainer.orders) == 1, "the same preferences are learned once"


async def test_a_live_version_of_another_base_is_not_gone_on_from(desk: LearningDesk) -> None:
    told(desk, "thumbs", "down", await ask(desk))
    first = (await desk.train(PREFERS)).result
    desk.releases.activate(SCOPE, "desk", first["release"], "me", "it passed")
    version = desk.versions.get(SCOPE, "desk.v1")
    other = replace(desk.retraining, base_weights=lambda name: (desk.directory / "base.gguf", "c" * 64))
    with pytest.raises(InvalidInputError, match="of another base model than is declared"):
        TrainingOrders(other, desk.runs).foresee(SCOPE, "me", PREFERS)
    (desk.directory / "models" / version.adapter.path).unlink()
    with pytest.raises(CorruptionError):
        desk.orders.foresee(SCOPE, "me", PREFERS)


async def test_an_application_without_an_outcome_learns_what_people_preferred(desk: LearningDesk) -> None:
    served = msgspec.structs.replace(SERVED, outcome=None)
    desk.application = served
    desk.publish(served)
    answer = await desk.answerer.answer(desk.request(entity={"flight": "B6 1", "origin": "JFK"}))
    told(desk, "thumbs", "down", answer)
    run = await desk.train(PREFERS)
    assert (run.status, run.result["preferences"]["disliked"]) == ("succeeded", 1), run.error
    with pytest.raises(InvalidInputError, match="has no outcome to learn from") as refused:
        desk.orders.place(SCOPE, "me", ORDER)
    assert "--preferences" in str(refused.value.next_step)


async def test_nothing_to_learn_from_and_options_that_do_not_fit_are_refused_at_once(desk: LearningDesk) -> None:
    with pytest.raises(InvalidInputError, match="Nobody has said anything"):
        desk.orders.place(SCOPE, "me", PREFERS)
    for changes in ({"delta": True}, {"candidates": {"rank": (4.0, 8.0)}}, {"budget": "5m"}):
        with pytest.raises(InvalidInputError, match="one recipe"):
            desk.orders.place(SCOPE, "me", msgspec.structs.replace(PREFERS, **changes))
    desk.application = msgspec.structs.replace(SERVED, fine_tune=None)
    with pytest.raises(InvalidInputError, match="does not declare how its model is fine-tuned"):
        desk.orders.place(SCOPE, "me", PREFERS)


async def test_a_crash_registers_one_version_and_orders_its_gates_once(desk: LearningDesk, monkeypatch: Any) -> None:
    told(desk, "thumbs", "down", await ask(desk))
    record, crashed = desk.runs.record, []

    def crash_once(*arguments: Any) -> Any:
        if arguments[1] == "fine-tune" and not crashed:
            crashed.append(True)
            told_later = OutcomeRecord(
                "late", SCOPE, "desk", "thumbs", "joined", "up", desk.clock.now(), desk.clock.now(), "pred_unknown"
            )
            desk.outcomes.add(told_later)
            raise UnavailableError("killed between the effect and its record", where="a test")
        return record(*arguments)

    monkeypatch.setattr("antiphon.durable.runs.Runs.record", lambda self, *arguments: crash_once(*arguments))
    run = await desk.train(PREFERS)
    assert run.status == "succeeded", run.error
    assert crashed
    assert [version.id for version in desk.versions.list(SCOPE)] == ["desk.v1"]
    assert len(desk.ordered_checks) == 1
    assert len({order.examples_sha256 for order in desk.trainer.orders}) == 1
