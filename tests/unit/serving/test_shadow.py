"""The queue behind the user's back: bounded in number and time, and silent whatever happens."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from tests.harness.fakes import make_receipt
from tests.harness.small_desk import ASKER, DESK, SCOPE, START
from tests.unit.serving.examples import release_of

from antiphon.catalog.releases.rollouts import Assignment, ShadowPair
from antiphon.core.clock import ManualClock
from antiphon.core.errors import EngineError
from antiphon.definitions.learning import Outcome
from antiphon.serving.answering.context import Arrival, arrive
from antiphon.serving.request import Answer, AnswerRequest, DecodingOverrides, MirroredAnswer
from antiphon.serving.shadow import ShadowLimits, Shadows, mirrored

CLOCK = ManualClock(START)
APPLICATION = msgspec.structs.replace(DESK, outcome=Outcome("outlook", "delayed"))
ASSIGNED = Assignment(release_of(APPLICATION, "rel_1"), "live", "roll_1", mirror=release_of(APPLICATION, "rel_2"))


def asked(name: str = "req_1", **fields: Any) -> Arrival:
    request = AnswerRequest(
        SCOPE, ASKER, "desk", {"flight": "B6 1", "origin": "JFK"}, request_id=name, question="Late?", **fields
    )
    return arrive(request, b"k" * 32, 0.0)


def answer_to(arrival: Arrival) -> Answer:
    receipt, _ = make_receipt(arrival.request, "a text", CLOCK)
    return Answer(receipt.prediction, receipt.request, "a text", "stop", receipt.usage, receipt, receipt.publication)


class Candidate:
    """Answers when it is let; remembers what it was asked and what was recorded."""

    def __init__(self, error: Exception | None = None) -> None:
        self.asked: list[str] = []
        self.running = self.most = 0
        self.let = asyncio.Event()
        self.error = error
        self.pairs: list[ShadowPair] = []

    async def answer(self, request: AnswerRequest) -> None:
        self.asked.append(request.request_id or "")
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.let.wait()
        finally:
            self.running -= 1
        if self.error is not None:
            raise self.error

    async def record(self, pair: ShadowPair) -> None:
        self.pairs.append(pair)


def shadows(
    candidate: Candidate, record: Callable[[ShadowPair], Awaitable[None]] | None = None, **bounds: Any
) -> Shadows:
    return Shadows(candidate.answer, record or candidate.record, CLOCK, ShadowLimits(**{"after": 0.0, **bounds}))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5.0):
        while not condition():
            await asyncio.sleep(0)


def test_the_candidate_is_asked_the_same_at_the_same_moment() -> None:
    own = DecodingOverrides(max_tokens=500)
    arrival = asked(originating_user="user-7", overrides=own, minimum_publication=3, tier="priority")
    answer = answer_to(arrival)
    request = mirrored(arrival, ASSIGNED, answer)
    assert request == msgspec.structs.replace(
        arrival.request,
        path="batch",
        tier="default",
        role="shadow",
        release="rel_2",
        as_of=answer.receipt.as_of,
        minimum_publication=answer.publication,
        overrides=DecodingOverrides(),
        mirrors=MirroredAnswer(
            "roll_1", answer.prediction, answer.receipt.text_blob, {"delayed": 0.18}, answer.receipt.timing.total
        ),
        spare=True,
    )
    assert arrive(request, b"k" * 32, 0.0).unit == arrival.unit


def test_without_a_candidate_nothing_is_mirrored() -> None:
    arrival = asked()
    assert mirrored(arrival, Assignment(ASSIGNED.release), answer_to(arrival)) is None


async def test_the_newest_is_dropped_when_too_many_wait(caplog: pytest.LogCaptureFixture) -> None:
    candidate = Candidate()
    behind = shadows(candidate, concurrency=1, waiting=3)
    behind.offer(first := asked("first"), ASSIGNED, answer_to(first))
    await until(lambda: candidate.running == 1)
    for number in range(5):
        arrival = asked(f"req_{number}")
        behind.offer(arrival, ASSIGNED, answer_to(arrival))
    assert behind.counts == Counter(offered=6, dropped=2)
    assert [record.levelname for record in caplog.records] == ["WARNING"], "said once"
    candidate.let.set()
    await behind.close()
    assert candidate.asked == ["first", "req_0", "req_1", "req_2"]
    assert behind.counts == Counter(offered=6, dropped=2, paired=4)
    assert candidate.pairs == [], "the pair of an answer is committed with it"


async def test_only_so_many_run_at_once() -> None:
    candidate = Candidate()
    behind = shadows(candidate, concurrency=2)
    for number in range(6):
        arrival = asked(f"req_{number}")
        behind.offer(arrival, ASSIGNED, answer_to(arrival))
    await until(lambda: candidate.running == 2)
    candidate.let.set()
    await behind.close()
    assert (candidate.most, behind.counts["paired"]) == (2, 6)


@pytest.mark.parametrize(
    ("error", "code"), [(EngineError("It died."), "engine_failed"), (ZeroDivisionError("oops"), "internal_error")]
)
async def test_a_shadow_that_fails_is_a_pair_without_an_answer(error: Exception, code: str) -> None:
    candidate = Candidate(error)
    candidate.let.set()
    behind = shadows(candidate)
    arrival = asked()
    answer = answer_to(arrival)
    behind.offer(arrival, ASSIGNED, answer)
    await behind.close()
    (pair,) = candidate.pairs
    assert (pair.rollout, pair.prediction, pair.shadow, pair.error) == ("roll_1", answer.prediction, None, code)
    assert (pair.live_probabilities, pair.shadow_probabilities, pair.same_text) == ({"delayed": 0.18}, {}, False)
    assert pair.live_seconds == answer.receipt.timing.total
    assert pair.created_at == START
    assert behind.counts == Counter(offered=1, failed=1)


async def test_a_shadow_that_takes_too_long_is_given_up() -> None:
    candidate = Candidate()
    behind = shadows(candidate, seconds=0.02)
    arrival = asked()
    behind.offer(arrival, ASSIGNED, answer_to(arrival))
    await until(lambda: len(candidate.pairs) == 1)
    assert candidate.pairs[0].error == "deadline_exceeded"
    assert candidate.pairs[0].shadow_seconds >= 0.02
    assert candidate.running == 0
    await behind.close()


async def test_a_pair_that_cannot_be_recorded_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    candidate = Candidate(EngineError("It died."))
    candidate.let.set()

    async def record(pair: ShadowPair) -> None:
        raise OSError("disk full")

    behind = shadows(candidate, record, concurrency=1)
    for name in ("one", "two"):
        arrival = asked(name)
        behind.offer(arrival, ASSIGNED, answer_to(arrival))
    await behind.close()
    assert candidate.asked == ["one", "two"]
    assert sum("is not recorded" in record.message for record in caplog.records) == 2


def test_offering_never_raises(caplog: pytest.LogCaptureFixture) -> None:
    behind = shadows(Candidate())
    arrival = asked()
    with caplog.at_level(logging.ERROR):
        behind.offer(arrival, ASSIGNED, answer_to(arrival))  # no event loop runs here
    assert "cannot be mirrored" in caplog.text


async def test_closing_waits_so_long_and_drops_the_rest() -> None:
    candidate = Candidate()
    behind = shadows(candidate, concurrency=1)
    for number in range(3):
        arrival = asked(f"req_{number}")
        behind.offer(arrival, ASSIGNED, answer_to(arrival))
    await until(lambda: candidate.running == 1)
    await behind.close(0.01)
    assert candidate.running == 0
    assert candidate.pairs == [], "one that was broken off says nothing about the candidate"
    assert behind.counts == Counter(offered=3, dropped=3)
    arrival = asked("late")
    behind.offer(arrival, ASSIGNED, answer_to(arrival))
    assert behind.counts["offered"] == 3


async def test_the_answer_leaves_first() -> None:
    candidate = Candidate()
    candidate.let.set()
    behind = shadows(candidate, after=0.02)
    arrival = asked()
    offered = asyncio.get_running_loop().time()
    behind.offer(arrival, ASSIGNED, answer_to(arrival))
    assert candidate.asked == []
    await until(lambda: candidate.asked == ["req_1"])
    assert asyncio.get_running_loop().time() - offered >= 0.02
    await behind.close()
