"""Shadow answers against the real catalog: the same question behind the user's back, and nothing of it in front."""

import asyncio
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.harness.small_desk import DESK, SCOPE, START, SmallDesk

from antiphon.catalog.releases.rollouts import ShadowPair
from antiphon.core.errors import EngineError, UnavailableError
from antiphon.definitions.application import ApplicationSpec, Reuse
from antiphon.definitions.learning import Outcome, Rollout
from antiphon.definitions.prompt import Prompt
from antiphon.engine.api.messages import Alternative, Branch, GenerationRequest
from antiphon.serving.request import Answer, TextDelta
from antiphon.serving.shadow import ShadowLimits
from antiphon.testing.scripted_engine import ScriptedEngine, ScriptedGeneration

LIVE = json.dumps({"outlook": "delayed", "notice": "Delays now average 25 minutes."})
OTHER = json.dumps({"outlook": "on_time", "notice": "All quiet."})

EVERYTHING = Rollout(shadow=1.0, shadow_pairs=100)


def changed(**fields: Any) -> ApplicationSpec:
    given: dict[str, Any] = {"reuse": Reuse(mode="never"), "outcome": Outcome("outlook", "delayed")}
    return msgspec.structs.replace(DESK, **{**given, **fields})


CANDIDATE = changed(prompt=Prompt(template="Candidate: {{ features.congestion.delay }} {{ question }}"))


def sure(text: str, delayed: float) -> ScriptedGeneration:
    options = (Alternative("d", 1, math.log(delayed)), Alternative("o", 2, math.log(1 - delayed)))
    return ScriptedGeneration(text, branches=(Branch(13, options),))


class Scripted:
    """The live release says one thing and the candidate, known by its prompt, another."""

    def __init__(self, live: ScriptedGeneration, candidate: ScriptedGeneration) -> None:
        self.live = live
        self.candidate = candidate
        self.asked_of_candidate: list[GenerationRequest] = []

    def __call__(self, request: GenerationRequest) -> ScriptedGeneration:
        if "Candidate:" not in request.prompt:
            return self.live
        self.asked_of_candidate.append(request)
        return self.candidate


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., SmallDesk]]:
    desks: list[SmallDesk] = []

    def made(script: Scripted, application: ApplicationSpec | None = None, **options: Any) -> SmallDesk:
        desks.append(SmallDesk(tmp_path, ScriptedEngine(script), application or changed(), **options))
        return desks[-1]

    yield made
    for desk in desks:
        desk.close()


Make = Callable[..., SmallDesk]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5.0):
        while not condition():
            await asyncio.sleep(0)


async def the_pair(desk: SmallDesk, rollout: str) -> ShadowPair:
    await desk.answerer.close()
    (pair,) = desk.pairs.of(SCOPE, rollout)
    return pair


async def test_a_shadow_is_the_same_question_with_a_receipt_and_a_pair_of_its_own(make: Make) -> None:
    script = Scripted(sure(LIVE, 0.6), sure(OTHER, 0.2))
    desk = make(script)
    rollout = desk.roll_out(CANDIDATE, EVERYTHING)
    asked = desk.request(question="Late?", originating_user="user-7", as_of=START + timedelta(minutes=9))
    answer = await desk.answerer.answer(asked)
    assert (answer.text, answer.receipt.role, answer.receipt.release) == (LIVE, "live", desk.release.id)
    pair = await the_pair(desk, rollout.id)
    shadow = desk.receipts.get(SCOPE, str(pair.shadow))
    assert (shadow.role, shadow.rollout, shadow.path, shadow.release) == (
        "shadow", rollout.id, "batch", rollout.candidate,
    )  # fmt: skip
    assert (shadow.as_of, shadow.request) == (answer.receipt.as_of, answer.request)
    assert (shadow.originating_user, shadow.subject) == ("user-7", answer.receipt.subject)
    assert shadow.publication == answer.publication
    assert desk.blobs.get(SCOPE, shadow.text_blob).decode() == OTHER
    assert pair == ShadowPair(
        rollout=rollout.id,
        scope=SCOPE,
        prediction=answer.prediction,
        shadow=shadow.prediction,
        error=None,
        same_text=False,
        live_probabilities={"delayed": pytest.approx(0.6)},
        shadow_probabilities={"delayed": pytest.approx(0.2)},
        live_seconds=answer.receipt.timing.total,
        shadow_seconds=shadow.timing.total,
        created_at=shadow.created_at,
    )
    (sent,) = script.asked_of_candidate
    assert sent.priority == "batch"
    assert "Late?" in sent.prompt
    assert desk.exposures.of(SCOPE, rollout.id) == []
    assert (await desk.replay(shadow)).identical


async def test_the_same_text_is_seen_to_be_the_same(make: Make) -> None:
    desk = make(Scripted(ScriptedGeneration(LIVE), ScriptedGeneration(LIVE)))
    rollout = desk.roll_out(CANDIDATE, EVERYTHING)
    await desk.answerer.answer(desk.request())
    pair = await the_pair(desk, rollout.id)
    assert (pair.same_text, pair.live_probabilities, pair.shadow_probabilities) == (True, {}, {})


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_slow_candidate_keeps_nobody_waiting(make: Make, streamed: bool) -> None:
    gate = asyncio.Event()
    script = Scripted(ScriptedGeneration(LIVE), ScriptedGeneration(OTHER, waits=gate))
    desk = make(script, shadow_limits=ShadowLimits(after=0.0, concurrency=1, waiting=2))
    rollout = desk.roll_out(CANDIDATE, EVERYTHING)
    for number in range(5):
        request = desk.request(entity={"flight": f"B6 {number}", "origin": "JFK"})
        async with asyncio.timeout(5.0):
            if streamed:
                events = [event async for event in desk.answerer.stream(request)]
                assert {type(event) for event in events[:-1]} == {TextDelta}
                assert isinstance(events[-1], Answer)
            else:
                assert (await desk.answerer.answer(request)).text == LIVE
        if number == 0:
            await until(lambda: len(script.asked_of_candidate) == 1)
    assert desk.pairs.of(SCOPE, rollout.id) == []
    assert desk.answerer.shadows == Counter(offered=5, dropped=2)
    gate.set()
    await desk.answerer.close()
    assert len(desk.pairs.of(SCOPE, rollout.id)) == 3
    assert desk.answerer.shadows == Counter(offered=5, dropped=2, paired=3)


async def test_the_shadow_begins_when_the_answer_has_left(make: Make) -> None:
    script = Scripted(ScriptedGeneration(LIVE), ScriptedGeneration(OTHER))
    desk = make(script)
    desk.roll_out(CANDIDATE, EVERYTHING)
    async for event in desk.answerer.stream(desk.request()):
        for _ in range(20):  # whoever reads slowly still has it to itself
            await asyncio.sleep(0)
        assert script.asked_of_candidate == [], event
    await desk.answerer.close()
    assert len(script.asked_of_candidate) == 1


@pytest.mark.parametrize(
    ("candidate", "says", "code"),
    [
        (CANDIDATE, ScriptedGeneration(OTHER, error=EngineError("It died.")), "engine_failed"),
        (
            msgspec.structs.replace(CANDIDATE, guards=()),
            ScriptedGeneration('{"outlook": "del', reason="length"),
            "output_invalid",
        ),
        (msgspec.structs.replace(CANDIDATE, entity_keys=("gate",)), ScriptedGeneration(OTHER), "invalid_input"),
        (msgspec.structs.replace(CANDIDATE, model="gone"), ScriptedGeneration(OTHER), "unavailable"),
    ],
)
async def test_a_candidate_that_fails_fails_alone(
    make: Make, candidate: ApplicationSpec, says: ScriptedGeneration, code: str
) -> None:
    desk = make(Scripted(ScriptedGeneration(LIVE), says))
    rollout = desk.roll_out(candidate, EVERYTHING)
    answer = await desk.answerer.answer(desk.request())
    assert answer.text == LIVE
    pair = await the_pair(desk, rollout.id)
    assert (pair.prediction, pair.shadow, pair.error, pair.same_text) == (answer.prediction, None, code, False)
    assert desk.receipts.count(SCOPE) == 1


async def test_an_answer_that_failed_is_not_mirrored(make: Make) -> None:
    script = Scripted(ScriptedGeneration(LIVE, error=EngineError("It died.")), ScriptedGeneration(OTHER))
    desk = make(script)
    rollout = desk.roll_out(CANDIDATE, EVERYTHING)
    with pytest.raises(EngineError):
        await desk.answerer.answer(desk.request())
    await desk.answerer.close()
    assert (script.asked_of_candidate, desk.pairs.of(SCOPE, rollout.id)) == ([], [])


async def test_a_shadow_and_its_pair_are_committed_together(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = make(Scripted(ScriptedGeneration(LIVE), ScriptedGeneration(OTHER)))
    rollout = desk.roll_out(CANDIDATE, EVERYTHING)
    add, failures = desk.pairs.add, [UnavailableError("No room.", where="catalog")]

    def once(pair: ShadowPair, *, within: Any = None) -> None:
        if failures:
            raise failures.pop()
        add(pair, within=within)

    monkeypatch.setattr(desk.pairs, "add", once)
    answer = await desk.answerer.answer(desk.request())
    pair = await the_pair(desk, rollout.id)
    assert (pair.prediction, pair.shadow, pair.error) == (answer.prediction, None, "unavailable")
    assert desk.receipts.count(SCOPE) == 1, "no receipt of a shadow without its pair"


async def test_a_shadow_neither_takes_nor_leaves_a_stored_answer(make: Make) -> None:
    script = Scripted(ScriptedGeneration(LIVE), ScriptedGeneration(OTHER))
    reusing = changed(reuse=Reuse(mode="always"))
    desk = make(script, reusing)
    candidate = msgspec.structs.replace(reusing, prompt=CANDIDATE.prompt)
    rollout = desk.roll_out(candidate, EVERYTHING)
    stored = desk.request(release=rollout.candidate)
    await desk.answerer.answer(stored)
    for expected in ("generated", "stored"):
        answer = await desk.answerer.answer(desk.request())
        assert answer.receipt.cache.origin == expected
    await desk.answerer.close()
    pairs = desk.pairs.of(SCOPE, rollout.id)
    assert [desk.receipts.get(SCOPE, str(pair.shadow)).cache.origin for pair in pairs] == ["generated"] * 2
    with desk.database.read() as connection:
        kept = connection.exec_driver_sql("SELECT DISTINCT release FROM answers ORDER BY release").scalars().all()
        assert connection.exec_driver_sql("SELECT count(*) FROM answers").scalar() == 2
    assert kept == sorted([desk.release.id, rollout.candidate])


async def test_the_control_is_mirrored_and_the_canary_is_not(make: Make) -> None:
    script = Scripted(ScriptedGeneration(LIVE), ScriptedGeneration(OTHER))
    desk = make(script)
    rollout = desk.roll_out(CANDIDATE, msgspec.structs.replace(EVERYTHING, canary=(50,)))
    roles: dict[str, str] = {}
    for number in range(12):
        answer = await desk.answerer.answer(desk.request(originating_user=f"user-{number}"))
        roles[answer.prediction] = answer.receipt.role
    await desk.answerer.close()
    mirrored = {pair.prediction for pair in desk.pairs.of(SCOPE, rollout.id)}
    assert mirrored == {prediction for prediction, role in roles.items() if role == "control"}
    assert {exposure.prediction for exposure in desk.exposures.of(SCOPE, rollout.id)} == set(roles)
