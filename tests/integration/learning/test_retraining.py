"""The training workflow: what it makes, what it refuses, and that nothing is lost or done twice."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.harness.small_desk import SCOPE, START
from tests.integration.learning.learning_desk import ORDER, TRAINS, LearningDesk

from antiphon.core.errors import (
    ConflictError,
    CorruptionError,
    InvalidInputError,
    NotFoundError,
    SetupError,
    UnavailableError,
)
from antiphon.definitions.learning import GateExemption, MetricGate, TrainingWindow
from antiphon.durable.run import ENDED
from antiphon.learning.retraining import workflow as retraining
from antiphon.training.examples import Example, read
from antiphon.training.recipe import Arithmetic


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[LearningDesk]:
    desk = LearningDesk(tmp_path)
    yield desk
    desk.close()


def changed_tune(desk: LearningDesk, **changes: Any) -> None:
    tune = msgspec.structs.replace(TRAINS.fine_tune, **changes)
    desk.application = msgspec.structs.replace(desk.application, fine_tune=tune)


async def test_a_training_ends_in_a_validated_release_and_leaves_what_is_live(desk: LearningDesk) -> None:
    live = desk.live()
    run = await desk.train()
    assert run.status == "succeeded", run.error
    found = run.result
    assert (found["model"], found["stage"], found["reasons"]) == ("desk.v1", "validated", [])
    version = desk.versions.get(SCOPE, "desk.v1")
    release = desk.releases.get(SCOPE, found["release"])
    assert release.bundle.model == msgspec.structs.replace(
        release.bundle.model, name="desk.v1", version="desk.v1", weights_sha256=version.weights.sha256
    )
    assert release.bundle.application.prompt == TRAINS.fine_tune.prompt
    assert desk.versions.aliased(SCOPE, "desk", "latest") == version
    assert (desk.directory / "models" / version.weights.path).read_bytes().startswith(b"weights.gguf of ")
    training = desk.datasets.get(SCOPE, version.dataset)
    evaluation = desk.evaluations.get(SCOPE, found["evaluation"])
    held_out = desk.datasets.get(SCOPE, evaluation.dataset).spec
    assert training.spec.last <= held_out.first, "it is evaluated on what it was trained on"
    assert evaluation.against == live.id
    assert desk.live() == live
    assert not list((desk.directory / "training").glob("*")), "the working folder is cleared"
    assert [entry.action for entry in desk.audit.query(SCOPE)] == ["model.register"]


async def test_the_recipe_follows_from_the_declaration_and_the_number_of_examples(desk: LearningDesk) -> None:
    changed_tune(desk, epochs=2.0, rank=4, seed=7)
    assert (await desk.train(examples=20)).status == "succeeded"
    (order,) = desk.trainer.orders
    assert (order.recipe.steps, order.recipe.batch, order.recipe.rank) == (5, 8, 4)
    assert (order.recipe.seed, order.recipe.replay, order.parent) == (7, 0.0, None)
    assert desk.versions.get(SCOPE, "desk.v1").recipe == msgspec.to_builtins(order.recipe)


async def test_a_run_that_goes_on_keeps_the_number_format_it_began_with(desk: LearningDesk) -> None:
    desk.arithmetic, desk.trainer.waits_after = Arithmetic("fp32"), 1
    run = desk.orders.place(SCOPE, "me", ORDER)
    await desk.work(run, lambda _: bool(desk.trainer.steps))
    desk.arithmetic, desk.trainer.waits_after = Arithmetic("bf16"), None
    ended = await desk.work(run)
    assert ended.status == "succeeded", ended.error
    assert [order.recipe.dtype for order in desk.trainer.orders] == ["fp32", "fp32"]
    assert len({order.identity for order in desk.trainer.orders}) == 1
    assert desk.versions.get(SCOPE, "desk.v1").recipe["dtype"] == "fp32"


async def test_the_same_things_are_trained_once(desk: LearningDesk) -> None:
    cutoff = START + timedelta(minutes=1)
    first = await desk.train(cutoff=cutoff)
    second = await desk.train(cutoff=cutoff)
    assert len(desk.trainer.orders) == 1
    assert (second.result["model"], second.result["release"]) == (first.result["model"], first.result["release"])
    assert len(desk.versions.list(SCOPE)) == 1


async def test_a_release_that_fails_its_gates_stays_a_draft_and_is_not_rolled_out(desk: LearningDesk) -> None:
    harder = msgspec.structs.replace(desk.application.gates, metrics={"brier": MetricGate(advantage=0.99)})
    desk.application = msgspec.structs.replace(desk.application, gates=harder)
    run = await desk.train(rollout=True)
    assert run.status == "succeeded"
    assert run.result["stage"] == "draft"
    assert any("Brier" in reason for reason in run.result["reasons"]), run.result["reasons"]
    assert (run.result["rollout"], "not passed its gates" in run.result["no_rollout"]) == (None, True)
    assert desk.rollouts.list(SCOPE) == []


async def test_a_rollout_that_too_few_rows_rule_out_is_refused_before_anything_is_trained(desk: LearningDesk) -> None:
    tunes = desk.application
    desk.application = msgspec.structs.replace(tunes, gates=msgspec.structs.replace(tunes.gates, rows=21))
    wanted = msgspec.structs.replace(ORDER, rollout=True)
    with pytest.raises(InvalidInputError, match="would have 20 rows and the gates of desk ask for 21"):
        desk.orders.place(SCOPE, "me", wanted)
    (problem,) = desk.orders.foresee(SCOPE, "me", wanted).problems
    assert "Train without a rollout" in problem
    assert not desk.runs.list(SCOPE)
    desk.orders.place(SCOPE, "me", ORDER)  # A draft to look at.
    desk.application = msgspec.structs.replace(desk.application, ungated=GateExemption("it is tried out"))
    desk.orders.place(SCOPE, "me", wanted)


async def test_a_rollout_that_is_asked_for_begins_and_begins_once(desk: LearningDesk, monkeypatch: Any) -> None:
    record, crashed = desk.runs.record, []

    def crash_once(*arguments: Any) -> Any:
        if arguments[1] == "begin rollout" and not crashed:
            crashed.append(True)
            raise UnavailableError("killed between the effect and its record", where="a test")
        return record(*arguments)

    monkeypatch.setattr("antiphon.durable.runs.Runs.record", lambda self, *arguments: crash_once(*arguments))
    run = await desk.train(rollout=True)
    assert crashed
    (rollout,) = desk.rollouts.list(SCOPE)
    assert (run.result["rollout"], rollout.state) == (rollout.id, "canary")
    assert rollout.candidate == run.result["release"]
    assert desk.live().id == rollout.control


async def test_a_delta_goes_on_from_the_live_version_with_earlier_examples(desk: LearningDesk) -> None:
    first = (await desk.train()).result
    desk.releases.activate(SCOPE, "desk", first["release"], "me", "it passed")
    desk.clock.advance(timedelta(hours=72))
    kept: list[Any] = []
    desk.trainer.before_step = lambda step: kept.append(
        read(Path(desk.trainer.orders[-1].examples_path), desk.trainer.orders[-1].examples_sha256, Example)
    )
    run = await desk.train(delta=True)
    assert run.status == "succeeded", run.error
    parent, version = (desk.versions.get(SCOPE, f"desk.v{number}") for number in (1, 2))
    before, after = (desk.datasets.get(SCOPE, each.dataset) for each in (parent, version))
    assert after.spec.first == before.spec.cutoff, "what the first version was evaluated on is still held out"
    assert (version.parent, version.replay_datasets) == ("desk.v1", (before.id,))
    order = desk.trainer.orders[-1]
    assert (order.parent.sha256, order.recipe.replay) == (parent.adapter.sha256, 0.5)
    assert order.recipe.steps == -(-after.rows // 4), "half of each batch of 8 is new"
    assert {example.old for example in kept[0]} == {True, False}
    assert sum(not example.old for example in kept[0]) == after.rows
    forgetting = run.result["forgetting"]
    assert desk.evaluations.get(SCOPE, forgetting["evaluation"]).dataset == first["evaluation_set"]
    assert forgetting["before"]["brier"]["value"] == pytest.approx(forgetting["after"]["brier"]["value"])
    assert desk.evaluations.get(SCOPE, forgetting["evaluation"]).against == first["release"]


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"application": "nobody"}, "no application"),
        ({"delta": True}, "no version to go on from"),
        ({"examples": 0}, "at least 1 example"),
        ({"texts": -1}, "texts"),
    ],
)
def test_an_order_that_cannot_be_carried_out_makes_no_run(desk: LearningDesk, changes: Any, part: str) -> None:
    with pytest.raises((InvalidInputError, NotFoundError), match=part):
        desk.orders.place(SCOPE, "me", msgspec.structs.replace(ORDER, **changes))
    assert desk.runs.list(SCOPE) == []


async def test_a_delta_holds_out_what_its_own_window_says(desk: LearningDesk) -> None:
    first = (await desk.train()).result
    desk.releases.activate(SCOPE, "desk", first["release"], "me", "it passed")
    changed_tune(desk, delta_window=TrainingWindow(history="60h", maturity="1s", embargo="10h"))
    desk.clock.advance(timedelta(hours=72))
    run = await desk.train(delta=True)
    assert run.status == "succeeded", run.error
    trained, held_out = (desk.datasets.get(SCOPE, run.result[name]).spec for name in ("training_set", "evaluation_set"))
    assert trained.cutoff - trained.last == held_out.last - held_out.first == timedelta(hours=10)


def test_an_application_without_fine_tune_or_held_out_moments_is_refused(desk: LearningDesk) -> None:
    changed_tune(desk, window=TrainingWindow(history="60h", maturity="1s"))
    with pytest.raises(InvalidInputError, match="no embargo"):
        desk.orders.place(SCOPE, "me", ORDER)
    desk.application = msgspec.structs.replace(desk.application, fine_tune=None)
    with pytest.raises(InvalidInputError, match="does not declare how its model"):
        desk.orders.place(SCOPE, "me", ORDER)


def test_without_the_extra_it_says_how_to_install_it(desk: LearningDesk, monkeypatch: Any) -> None:
    monkeypatch.setattr("antiphon.training.recipe.libraries", lambda: {"torch": "absent", "peft": "0.21"})
    with pytest.raises(SetupError, match=r"torch.*pip install 'antiphon\[train\]'"):
        desk.orders.place(SCOPE, "me", ORDER)


async def test_a_single_class_is_refused_and_nothing_is_registered(desk: LearningDesk) -> None:
    desk.flights.label = lambda hour: True
    live = desk.live()
    run = await desk.train()
    assert run.status == "failed"
    assert "'delayed'" in run.error
    assert (run.attempts, desk.versions.list(SCOPE), desk.live()) == (1, [], live)


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (SetupError("The training ran out of memory.", where="x", next_step="Lower `batch`."), "out of memory"),
        (OSError(28, "No space left on device"), "disk is full"),
        (CorruptionError("The adapter does not match its hash.", where="x"), "does not match"),
    ],
)
async def test_what_trying_again_does_not_mend_ends_the_run_at_once(
    desk: LearningDesk, error: Exception, part: str
) -> None:
    def fail(step: int) -> None:
        raise error

    desk.trainer.before_step = fail
    live = desk.live()
    run = await desk.train()
    assert (run.status, run.attempts) == ("failed", 1)
    assert part in run.error
    assert (desk.versions.list(SCOPE), desk.live(), len(desk.releases.list(SCOPE))) == ([], live, 1)


async def test_a_worker_that_stops_gives_the_run_back_and_the_next_one_goes_on(desk: LearningDesk) -> None:
    changed_tune(desk, batch=1)
    run = desk.orders.place(SCOPE, "me", ORDER)
    desk.trainer.waits_after = 5
    half = await desk.work(run, until=lambda run: len(desk.trainer.steps) >= 5)
    assert (half.status, half.attempts) == ("queued", 0)
    ended = await desk.work(run)
    assert ended.status == "succeeded", ended.error
    steps = desk.trainer.orders[0].recipe.steps
    assert desk.trainer.steps == list(range(steps)), "a step was lost or done twice"
    assert desk.trainer.orders[0] == desk.trainer.orders[1]


async def test_a_cancelled_training_ends_and_registers_nothing(desk: LearningDesk) -> None:
    changed_tune(desk, batch=1, epochs=1_000.0)
    run = desk.orders.place(SCOPE, "me", ORDER)
    desk.trainer.before_step = lambda step: None if step else desk.runs.cancel(SCOPE, run) and None
    ended = await desk.work(run)
    assert (ended.status, desk.versions.list(SCOPE)) == ("cancelled", [])


async def test_an_engine_that_is_away_is_waited_for_without_training_again(desk: LearningDesk) -> None:
    desk.serving_fails = UnavailableError("The engine is away.", where="engine")
    run = desk.orders.place(SCOPE, "me", ORDER)
    waiting = await desk.work(run, until=lambda run: run.attempts >= 2)
    assert waiting.status not in ENDED
    desk.serving_fails = None
    assert (await desk.work(run)).status == "succeeded"
    assert len(desk.trainer.orders) == 1


async def test_examples_that_vanished_are_written_again_and_must_be_the_same(
    desk: LearningDesk, monkeypatch: Any
) -> None:
    run = desk.orders.place(SCOPE, "me", ORDER)

    def vanish(step: int) -> None:
        if len(desk.trainer.orders) == 1:
            Path(desk.trainer.orders[0].examples_path).unlink()
            raise UnavailableError("killed", where="a test")

    desk.trainer.before_step = vanish
    ended = await desk.work(run)
    assert ended.status == "succeeded", ended.error
    first, second = desk.trainer.orders
    assert first.examples_sha256 == second.examples_sha256


async def test_a_delta_is_refused_when_the_features_changed_or_the_adapter_is_gone(desk: LearningDesk) -> None:
    found = (await desk.train()).result
    desk.releases.activate(SCOPE, "desk", found["release"], "me", "it passed")
    desk.clock.advance(timedelta(hours=72))
    delta = msgspec.structs.replace(ORDER, delta=True)
    version = desk.versions.get(SCOPE, "desk.v1")
    adapter = desk.directory / "models" / version.adapter.path
    content = adapter.read_bytes()
    adapter.write_bytes(b"other")
    with pytest.raises(CorruptionError, match="not the one that was registered"):
        desk.orders.place(SCOPE, "me", delta)
    adapter.write_bytes(content)
    desk.application = msgspec.structs.replace(desk.application, features={"congestion": "v2", "weather": "v1"})
    with pytest.raises(InvalidInputError, match="the features changed"):
        desk.orders.place(SCOPE, "me", delta)


async def test_a_delta_with_nothing_new_is_refused(desk: LearningDesk) -> None:
    await desk.train()
    with pytest.raises(InvalidInputError, match="Nothing is new"):
        desk.orders.place(SCOPE, "me", msgspec.structs.replace(ORDER, delta=True))


async def test_an_evaluation_that_crashes_validates_nothing_and_goes_on_where_it_was(desk: LearningDesk) -> None:
    asked: list[str] = []

    def crash(request: Any) -> None:
        asked.append(request.release)
        if len(asked) == 12:
            raise ValueError("a defect in the middle of an evaluation")

    desk.before = crash
    run = desk.orders.place(SCOPE, "me", ORDER)
    ended = await desk.work(run)
    assert ended.status == "succeeded", ended.error
    assert ended.attempts == 2
    assert ended.result["stage"] == "validated"
    assert len(desk.trainer.orders) == 1
    # Each row once of the release and once of the live one, and again those that were in flight at the crash.
    assert len(asked) <= 2 * ORDER.rows + 12, "rows were asked again from the beginning"


async def test_a_version_comes_out_the_same_when_it_is_trained_again(desk: LearningDesk) -> None:
    await desk.train()
    version = desk.versions.get(SCOPE, "desk.v1")
    weights = desk.directory / "models" / version.weights.path
    weights.unlink()
    run = await desk.work(desk.orders.rebuild(SCOPE, "me", "desk.v1"))
    assert run.status == "succeeded", run.error
    assert (run.result["equal"], run.result["differences"]) == (True, [])
    assert run.result["restored"] == [version.weights.path]
    assert weights.exists()
    assert desk.versions.list(SCOPE) == [version]


async def test_a_version_that_comes_out_otherwise_is_told_with_the_input_that_differs(desk: LearningDesk) -> None:
    await desk.train()
    desk.trainer.salt = "!"
    run = await desk.work(desk.orders.rebuild(SCOPE, "me", "desk.v1"))
    assert not run.result["equal"]
    assert "the machine computes otherwise" in run.result["differences"][0]
    desk.flights.changed = "departures"
    run = await desk.work(desk.orders.rebuild(SCOPE, "me", "desk.v1", key="again"))
    assert (run.result["equal"], run.result["weights_sha256"]) == (False, None)
    assert "departures changed" in run.result["differences"][0]


def test_leftovers_of_ended_runs_are_swept_and_those_of_others_are_not(desk: LearningDesk) -> None:
    ended = desk.runs.submit(SCOPE, retraining.WORKFLOW, {"application": "desk"})
    desk.runs.cancel(SCOPE, ended)
    waiting = desk.runs.submit(SCOPE, retraining.WORKFLOW, {"application": "desk"})
    for run in (ended, waiting):
        (desk.directory / "training" / run / "training").mkdir(parents=True)
    retraining.Retraining(desk.retraining)._sweep(SCOPE, "run_another")
    assert [folder.name for folder in (desk.directory / "training").iterdir()] == [waiting]


def test_placing_the_same_key_twice_is_one_run(desk: LearningDesk) -> None:
    order = msgspec.structs.replace(ORDER, key="monday")
    assert desk.orders.place(SCOPE, "me", order) == desk.orders.place(SCOPE, "me", order)
    with pytest.raises(ConflictError):
        desk.orders.place(SCOPE, "me", msgspec.structs.replace(order, rows=21))
