"""Requests in the arms of a rollout, against the real catalog: who is answered by what, and what is known of it."""

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.harness.small_desk import DESK, SCOPE, START, FeatureTable, SmallDesk

from antiphon.catalog.serving.receipt import Role
from antiphon.core.errors import (
    AntiphonError,
    EngineError,
    FeatureUnavailableError,
    ForbiddenError,
    InvalidOutputError,
    UnavailableError,
)
from antiphon.definitions.application import ApplicationSpec, Reuse
from antiphon.definitions.learning import Rollout
from antiphon.governance.identity.principal import Principal
from antiphon.serving import answerer
from antiphon.serving.answering import evidence
from antiphon.serving.answering.context import arrive
from antiphon.serving.request import Answer, AnswerRequest, Message, TextDelta
from antiphon.testing.scripted_engine import Script, ScriptedEngine, ScriptedGeneration

GOOD = json.dumps({"outlook": "delayed", "notice": "Delays now average 25 minutes."})
FALSE = json.dumps({"outlook": "delayed", "notice": "Delays now average 40 minutes."})
ALWAYS_GOOD = (ScriptedGeneration(GOOD),)
CUT = '{"outlook": "delayed", "noti'

EVERYBODY = Rollout(canary=(50,))
"""Half of the users in the canary, half in the control."""

Make = Callable[..., SmallDesk]


def changed(**fields: Any) -> ApplicationSpec:
    return msgspec.structs.replace(DESK, **fields)


CANDIDATE = changed(owner="the next one")
"""Another release with the same prompt, so that only a namespace keeps its answers apart."""


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    desks: list[SmallDesk] = []

    def made(script: Script = ALWAYS_GOOD, application: ApplicationSpec = DESK, **options: Any) -> SmallDesk:
        desks.append(SmallDesk(tmp_path, ScriptedEngine(script), application, **options))
        return desks[-1]

    yield made
    for desk in desks:
        desk.close()


def user_in(desk: SmallDesk, role: Role, start: int = 0) -> str:
    """A user whom the rollout under way puts into this role."""
    for number in range(start, start + 1_000):
        asked = desk.request(originating_user=f"user-{number}")
        if desk_role(desk, asked) == role:
            return f"user-{number}"
    raise AssertionError(f"nobody is in {role}")


def desk_role(desk: SmallDesk, request: AnswerRequest) -> Role:
    arrival = arrive(request, b"k" * 32, 0.0)
    assigned = desk.routing.assign(SCOPE, "desk", arrival.unit, arrival.request_id)
    assert assigned is not None
    return assigned.role


async def test_a_user_stays_in_its_arm_and_each_request_is_one_exposure(make: Make) -> None:
    desk = make(application=changed(reuse=Reuse(mode="never")))
    rollout = desk.roll_out(CANDIDATE, Rollout(canary=(30,)))
    answers: dict[str, list[Answer]] = {}
    for number in range(40):
        user = f"user-{number}"
        for flight in ("B6 1", "B6 2"):
            request = desk.request(originating_user=user, entity={"flight": flight, "origin": "JFK"})
            answers.setdefault(user, []).append(await desk.answerer.answer(request))
    receipts = [answer.receipt for each in answers.values() for answer in each]
    assert all(len({(a.receipt.role, a.receipt.release) for a in each}) == 1 for each in answers.values())
    assert {(r.role, r.release, r.rollout, r.assignment_probability) for r in receipts} == {
        ("live", desk.release.id, None, 1.0),
        ("control", desk.release.id, rollout.id, 0.3),
        ("canary", rollout.candidate, rollout.id, 0.3),
    }
    assert [desk.receipts.get(SCOPE, r.prediction) for r in receipts] == receipts
    exposures = desk.exposures.of(SCOPE, rollout.id)
    exposed = {r.prediction: r for r in receipts if r.role != "live"}
    assert Counter(e.prediction for e in exposures) == Counter(list(exposed))
    for exposure in exposures:
        receipt = exposed[str(exposure.prediction)]
        assert (exposure.arm, exposure.id, exposure.step) == (receipt.role, receipt.request, 0)
        assert (exposure.probability, exposure.publication) == (0.3, 1)
        assert (exposure.error, exposure.invalid) == (None, False)
        assert exposure.generated is (receipt.cache.origin == "generated")
        assert (exposure.first_byte, exposure.seconds) == (receipt.timing.first_byte, receipt.timing.total)
        assert receipt.exposure_unit not in exposure.unit, "evidence does not say who it was"
    units = {e.unit: exposed[str(e.prediction)].exposure_unit for e in exposures}
    assert len(units) == len(set(units.values())) == len(exposures) / 2


async def test_batch_rows_and_named_releases_take_no_part(make: Make) -> None:
    desk = make()
    rollout = desk.roll_out(CANDIDATE, EVERYBODY)
    for fields in ({"path": "batch"}, {"release": desk.release.id}, {"release": rollout.candidate}):
        answer = await desk.answerer.answer(desk.request(originating_user="user-1", **fields))
        assert (answer.receipt.role, answer.receipt.rollout) == ("live", None)
        assert answer.receipt.release == fields.get("release", desk.release.id)
    plain = desk.request(application="scripted", entity={}, messages=(Message("user", "Hi"),))
    assert (await desk.answerer.answer(plain)).receipt.role == "live"
    assert desk.exposures.of(SCOPE, rollout.id) == []


@pytest.mark.parametrize("role", ["canary", "control"])
@pytest.mark.parametrize(
    ("says", "fields", "error", "code"),
    [
        (ScriptedGeneration(GOOD, error=EngineError("It died.")), {}, EngineError, "engine_failed"),
        (ScriptedGeneration(CUT, reason="length"), {}, InvalidOutputError, "output_invalid"),
        (ScriptedGeneration(GOOD), {"principal": Principal("v", "default", "viewer")}, ForbiddenError, "forbidden"),
        (ScriptedGeneration(GOOD, error=ZeroDivisionError("oops")), {}, ZeroDivisionError, "internal_error"),
    ],
)
async def test_a_request_that_fails_is_one_exposure_too(
    make: Make, role: Role, says: ScriptedGeneration, fields: dict[str, Any], error: type[Exception], code: str
) -> None:
    desk = make((says,), changed(guards=()))
    rollout = desk.roll_out(changed(guards=(), owner="the next one"), EVERYBODY)
    with pytest.raises(error):
        await desk.answerer.answer(desk.request(originating_user=user_in(desk, role), **fields))
    (exposure,) = desk.exposures.of(SCOPE, rollout.id)
    assert (exposure.arm, exposure.error, exposure.prediction) == (role, code, None)
    assert (exposure.invalid, exposure.generated) == (code == "output_invalid", False)
    assert exposure.seconds > 0
    assert exposure.publication == (None if code == "forbidden" else 1)
    assert desk.receipts.count(SCOPE) == 0


async def test_missing_features_are_an_exposure(make: Make) -> None:
    desk = make(features=FeatureTable(congestion__delay=None, weather__wind=None))
    rollout = desk.roll_out(CANDIDATE, EVERYBODY)
    with pytest.raises(FeatureUnavailableError):
        await desk.answerer.answer(desk.request())
    assert [exposure.error for exposure in desk.exposures.of(SCOPE, rollout.id)] == ["feature_unavailable"]


async def test_a_text_that_breaks_off_half_way_is_one_exposure(make: Make) -> None:
    free = changed(output_schema=None, guards=(), classes=())
    desk = make((ScriptedGeneration("half of", error=EngineError("It died.")),), free)
    rollout = desk.roll_out(msgspec.structs.replace(free, owner="the next one"), EVERYBODY)
    shown: list[TextDelta | Answer] = []

    async def show() -> None:
        async for event in desk.answerer.stream(desk.request()):
            shown.append(event)

    with pytest.raises(EngineError):
        await show()
    assert [event.text for event in shown] == ["half", " of"]
    assert [exposure.error for exposure in desk.exposures.of(SCOPE, rollout.id)] == ["engine_failed"]


async def test_a_failure_before_the_release_is_known_is_nobodys(make: Make) -> None:
    desk = make()
    rollout = desk.roll_out(CANDIDATE, EVERYBODY)
    with pytest.raises(AntiphonError):
        await desk.answerer.answer(desk.request(application="nope"))
    assert desk.exposures.of(SCOPE, rollout.id) == []


async def test_who_goes_away_is_no_exposure(make: Make) -> None:
    desk = make((ScriptedGeneration(GOOD, waits=asyncio.Event()),))
    rollout = desk.roll_out(CANDIDATE, EVERYBODY)
    task = asyncio.create_task(desk.answerer.answer(desk.request()))
    while not desk.scripted.asked:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert desk.exposures.of(SCOPE, rollout.id) == []
    free = changed(output_schema=None, guards=(), classes=(), owner="free")
    desk.rollouts.move(
        SCOPE, rollout.id, state="aborted", step=0, held=False, reason="", principal="", expected=("canary", 0)
    )
    desk.release = desk.publish(free)
    again = desk.roll_out(msgspec.structs.replace(free, owner="freer"), EVERYBODY)
    desk.scripted.follow((ScriptedGeneration("one two three"),))
    async with aclosing(desk.answerer.stream(desk.request())) as events:
        async for _ in events:
            break
    assert desk.exposures.of(SCOPE, again.id) == []


class Refusing:
    """A commit that fails for the first few effects."""

    def __init__(self, refusals: int) -> None:
        self.left = refusals
        self.desk: SmallDesk | None = None

    def submit(self, effect: Callable[[Any], Any]) -> Awaitable[Any]:
        if self.left:
            self.left -= 1
            raise UnavailableError("The disk is full.", where="catalog")
        assert self.desk is not None
        return self.desk.commit.submit(effect)


async def test_an_answer_whose_commit_fails_is_a_failed_exposure(make: Make) -> None:
    commit = Refusing(1)
    desk = commit.desk = make(commit=commit)
    rollout = desk.roll_out(CANDIDATE, EVERYBODY)
    with pytest.raises(UnavailableError, match="disk is full"):
        await desk.answerer.answer(desk.request())
    (exposure,) = desk.exposures.of(SCOPE, rollout.id)
    assert (exposure.error, exposure.prediction) == ("unavailable", None)
    assert desk.receipts.count(SCOPE) == 0


class Doubtful:
    """A commit that says it failed when it did not, once."""

    def __init__(self) -> None:
        self.doubts = 1
        self.desk: SmallDesk | None = None

    async def submit(self, effect: Callable[[Any], Any]) -> Any:
        assert self.desk is not None
        done = await self.desk.commit.submit(effect)
        if self.doubts:
            self.doubts -= 1
            raise UnavailableError("The connection broke.", where="catalog")
        return done


async def test_a_commit_in_doubt_is_one_exposure(make: Make) -> None:
    commit = Doubtful()
    desk = commit.desk = make(commit=commit)
    rollout = desk.roll_out(CANDIDATE, EVERYBODY)
    with pytest.raises(UnavailableError, match="connection broke"):
        await desk.answerer.answer(desk.request())
    (exposure,) = desk.exposures.of(SCOPE, rollout.id)
    assert (exposure.error, exposure.prediction is None) == (None, False)
    assert desk.receipts.count(SCOPE) == 1


async def test_an_exposure_that_cannot_be_committed_hides_no_error(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    commit = Refusing(1)
    desk = commit.desk = make((ScriptedGeneration(GOOD, error=EngineError("It died.")),), commit=commit)
    rollout = desk.roll_out(CANDIDATE, EVERYBODY)
    with caplog.at_level(logging.ERROR), pytest.raises(EngineError, match=r"It died\."):
        await desk.answerer.answer(desk.request(request_id="req_7"))
    assert "the exposure of request req_7 is not recorded" in caplog.text
    assert desk.exposures.of(SCOPE, rollout.id) == []


async def test_an_answer_and_its_exposure_are_committed_together(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = make()
    rollout = desk.roll_out(CANDIDATE, EVERYBODY)

    def fail(*_: Any, **__: Any) -> None:
        raise UnavailableError("No room.", where="catalog")

    monkeypatch.setattr(desk.exposures, "add", fail)
    with pytest.raises(UnavailableError):
        await desk.answerer.answer(desk.request())
    assert desk.receipts.count(SCOPE) == 0
    assert desk.exposures.of(SCOPE, rollout.id) == []


async def test_a_fallback_is_an_invalid_output_each_time_it_is_served(make: Make) -> None:
    desk = make((ScriptedGeneration(FALSE),))
    rollout = desk.roll_out(CANDIDATE, EVERYBODY)
    for question in ("Late?", "Late?"):
        await desk.answerer.answer(desk.request(originating_user="user-1", question=question))
    exposures = desk.exposures.of(SCOPE, rollout.id)
    assert sorted((e.generated, e.invalid, e.error) for e in exposures) == [(False, True, None), (True, True, None)]


# Equal warmth


async def warm_then_rolled_out(desk: SmallDesk) -> None:
    await desk.answerer.answer(desk.request(path="batch", refresh=True))
    desk.roll_out(CANDIDATE, EVERYBODY)


async def origins(desk: SmallDesk, role: Role) -> list[str]:
    users = [user_in(desk, role), user_in(desk, role, 500)]
    requests = [desk.request(originating_user=user) for user in users]
    return [(await desk.answerer.answer(request)).receipt.cache.origin for request in requests]


@pytest.mark.parametrize("mode", ["fingerprint", "always", "never"])
async def test_both_arms_begin_without_a_stored_answer(make: Make, mode: Any) -> None:
    rule = Reuse(mode=mode)
    desk = make(application=changed(reuse=rule))
    await desk.answerer.answer(desk.request(path="batch", refresh=True))
    desk.roll_out(changed(reuse=rule, owner="the next one"), EVERYBODY)
    second = "identical-prompt" if mode == "never" else "stored"
    assert await origins(desk, "control") == ["generated", second]
    assert await origins(desk, "canary") == ["generated", second]
    assert len(desk.scripted.asked) == 3
    # Whoever is outside of the arms is answered as before.
    outside = await desk.answerer.answer(desk.request(path="batch"))
    assert outside.receipt.cache.origin == second


@pytest.mark.parametrize("role", ["control", "canary"])
async def test_without_the_namespace_an_arm_would_profit_from_the_live_answers(
    make: Make, monkeypatch: pytest.MonkeyPatch, role: Role
) -> None:
    monkeypatch.setattr(answerer, "cache_namespace", lambda request, assigned, history: assigned.release.id)
    desk = make()
    await warm_then_rolled_out(desk)
    assert "generated" not in await origins(desk, role)


async def test_identical_prompts_in_flight_are_generated_once_in_each_arm(make: Make) -> None:
    gate = asyncio.Event()
    desk = make((ScriptedGeneration(GOOD, waits=gate),), changed(reuse=Reuse(mode="never")))
    desk.roll_out(changed(reuse=Reuse(mode="never"), owner="the next one"), EVERYBODY)
    users = [user_in(desk, role, start) for role in ("canary", "control") for start in (0, 500)]
    asking = [asyncio.create_task(desk.answerer.answer(desk.request(originating_user=user))) for user in users]
    while len(desk.scripted.asked) < 2:
        await asyncio.sleep(0)
    gate.set()
    answers = await asyncio.gather(*asking)
    generated = [a.receipt.role for a in answers if a.receipt.cache.origin == "generated"]
    assert sorted(generated) == ["canary", "control"]


# A request ends with the release it began with


@pytest.mark.parametrize("free", [False, True])
async def test_a_flip_during_a_request_changes_nothing_for_it(make: Make, free: bool) -> None:
    shape: dict[str, Any] = {"output_schema": None, "guards": (), "classes": ()} if free else {}
    gate = asyncio.Event()
    desk = make((ScriptedGeneration(FALSE, waits=gate), ScriptedGeneration(GOOD)), changed(**shape))
    old = desk.release
    task = asyncio.create_task(desk.answerer.answer(desk.request()))
    while not desk.scripted.asked:
        await asyncio.sleep(0)
    new = desk.publish(changed(**shape, owner="the next one"))
    gate.set()
    answer = await task  # with a retry of the guard after the flip
    assert (answer.receipt.release, answer.receipt.role) == (old.id, "live")
    assert (await desk.answerer.answer(desk.request())).receipt.release == new.id


async def test_a_rollout_that_ends_during_a_request_still_hears_of_it(make: Make) -> None:
    gate = asyncio.Event()
    desk = make((ScriptedGeneration(GOOD, waits=gate),))
    rollout = desk.roll_out(CANDIDATE, EVERYBODY)
    user = user_in(desk, "canary")
    task = asyncio.create_task(desk.answerer.answer(desk.request(originating_user=user)))
    while not desk.scripted.asked:
        await asyncio.sleep(0)
    desk.rollouts.move(
        SCOPE, rollout.id, state="rolled_back", step=0, held=False, reason="bad", principal="judge",
        expected=("canary", 0),
    )  # fmt: skip
    gate.set()
    answer = await task
    assert (answer.receipt.release, answer.receipt.role) == (rollout.candidate, "canary")
    assert [e.arm for e in desk.exposures.of(SCOPE, rollout.id)] == ["canary"]
    after = await desk.answerer.answer(desk.request(originating_user=user))
    assert (after.receipt.release, after.receipt.role) == (desk.release.id, "live")


@pytest.mark.parametrize("role", ["canary", "control"])
async def test_an_answer_of_an_arm_is_replayed(make: Make, role: Role) -> None:
    desk = make((ScriptedGeneration(FALSE),))
    desk.roll_out(CANDIDATE, EVERYBODY)
    user = user_in(desk, role)
    for _ in range(2):
        answer = await desk.answerer.answer(desk.request(originating_user=user, as_of=START + timedelta(minutes=3)))
        again = await desk.replay(answer.receipt)
        assert again.identical
    assert evidence.uses_template(desk.receipts.get(SCOPE, again.origin))
