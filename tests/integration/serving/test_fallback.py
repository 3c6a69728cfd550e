"""What answers while a release's engine does not: other engines, answers in store, and an honest refusal."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.harness.small_desk import ASKER, DESK, SCOPE, SmallDesk

from antiphon.core.circuit_breaker import BreakerPolicy
from antiphon.core.errors import EngineError, InvalidInputError, OverloadedError, PromptTooLongError, UnavailableError
from antiphon.definitions.application import ApplicationSpec, Reuse
from antiphon.definitions.degradation import WhenUnavailable
from antiphon.definitions.learning import Rollout
from antiphon.governance.identity.principal import Principal
from antiphon.serving.fallback.engines import FailoverPolicy
from antiphon.serving.request import Answer, AnswerRequest, Message, TextDelta
from antiphon.testing.scripted_engine import MODEL, ScriptedEngine, ScriptedGeneration, echo

GOOD = json.dumps({"outlook": "delayed", "notice": "Delays now average 25 minutes."})
OTHER = json.dumps({"outlook": "on_time", "notice": "Delays now average 25 minutes."})
CHAIN = ("standby", "third/another")
ANOTHER = msgspec.structs.replace(MODEL, name="another", fingerprint="another-1")
PLAIN = AnswerRequest(SCOPE, ASKER, "scripted", messages=(Message("user", "Hello"),))

NOT_FOR_GUESTS = """
@id("all") permit(principal, action, resource);
@id("guests") forbid(principal, action == Action::"answer", resource)
  when { principal.name == "guest" && context.purpose == "passenger-information" };
"""

Make = Callable[..., SmallDesk]


def changed(**fields: Any) -> ApplicationSpec:
    return msgspec.structs.replace(DESK, **{"reuse": Reuse("fingerprint", identical_prompts=False), **fields})


class Engines:
    """The main engine and two that stand in."""

    def __init__(self) -> None:
        self.main = ScriptedEngine([ScriptedGeneration(GOOD)])
        self.standby = ScriptedEngine([ScriptedGeneration(OTHER)])
        self.third = ScriptedEngine([ScriptedGeneration(OTHER)], (ANOTHER,))

    @property
    def standbys(self) -> dict[str, ScriptedEngine]:
        return {"standby": self.standby, "third": self.third}


@pytest.fixture
def engines() -> Engines:
    return Engines()


@pytest.fixture
def make(tmp_path: Path, engines: Engines) -> Iterator[Make]:
    desks: list[SmallDesk] = []

    def made(application: ApplicationSpec, **options: Any) -> SmallDesk:
        options = {"failover": FailoverPolicy(first_token=0.2, describe=0.2), **options}
        desks.append(SmallDesk(tmp_path, engines.main, application, standbys=engines.standbys, **options))
        return desks[-1]

    yield made
    for desk in desks:
        desk.close()


def passed(answer: Answer) -> list[tuple[str, str, str]]:
    return [(one.engine, one.model, one.reason) for one in answer.receipt.fallback]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (UnavailableError("away"), "unavailable"),
        (EngineError("died"), "engine_failed"),
        (OverloadedError("full", retry_after=7.0), "overloaded"),
        (None, "engine_failed"),
    ],
)
async def test_an_engine_that_fails_or_refuses_is_passed_over(make: Make, engines: Engines, error, reason) -> None:
    engines.main._script = [ScriptedGeneration(error=error, unfinished=True)]
    desk = make(changed(fallback=CHAIN))
    answer = await desk.answerer.answer(desk.request())
    assert (answer.text, answer.receipt.engine, answer.receipt.role) == (OTHER, "standby", "fallback")
    assert passed(answer) == [("main", "scripted", reason)]
    assert desk.receipts.get(SCOPE, answer.prediction) == answer.receipt
    kept = await desk.replay(answer.receipt, engines.main, engines.standbys)
    assert kept.identical, "replayed by the engine that wrote it"


async def test_the_chain_is_asked_in_order_to_its_end(make: Make, engines: Engines) -> None:
    engines.main.away = engines.standby.away = True
    desk = make(changed(fallback=CHAIN))
    answer = await desk.answerer.answer(desk.request())
    assert (answer.receipt.engine, engines.third.asked[0].model) == ("third", "another")
    assert passed(answer) == [("main", "scripted", "unavailable"), ("standby", "scripted", "unavailable")]
    engines.third.away = True
    with pytest.raises(UnavailableError) as refused:
        await desk.answerer.answer(desk.request())
    assert refused.value.retry_after is not None


async def test_an_engine_that_hangs_is_given_up_before_its_first_token(make: Make, engines: Engines) -> None:
    engines.main._script = [ScriptedGeneration(GOOD, waits=asyncio.Event())]
    desk = make(changed(fallback=CHAIN))
    answer = await desk.answerer.answer(desk.request())
    assert passed(answer) == [("main", "scripted", "late")]
    assert engines.main.in_flight == 0, "its slot is free again"


async def test_what_is_wrong_with_the_request_is_no_other_engines_matter(make: Make, engines: Engines) -> None:
    engines.main._script = [ScriptedGeneration(error=PromptTooLongError("too long"))]
    desk = make(changed(fallback=CHAIN, when_unavailable=WhenUnavailable("previous_release")))
    with pytest.raises(PromptTooLongError):
        await desk.answerer.answer(desk.request())
    assert engines.standby.asked == []


async def test_after_the_first_byte_nobody_else_is_asked(make: Make, engines: Engines) -> None:
    engines.main._script = [ScriptedGeneration("half a", error=EngineError("died"))]
    desk = make(changed(fallback=CHAIN), plain_fallback=("standby",))
    shown: list[str] = []

    async def show() -> None:
        async with aclosing(desk.answerer.stream(PLAIN)) as events:
            async for event in events:
                assert isinstance(event, TextDelta)
                shown.append(event.text)

    with pytest.raises(EngineError):
        await show()
    assert ("".join(shown), engines.standby.asked) == ("half a", [])


async def test_an_engine_that_dies_in_the_middle_is_replaced_while_nobody_has_seen_its_text(
    make: Make, engines: Engines
) -> None:
    engines.main._script = [ScriptedGeneration("half a", error=EngineError("died"))]
    desk = make(changed(fallback=CHAIN), plain_fallback=("standby",))
    answer = await desk.answerer.answer(PLAIN)
    assert (answer.text, answer.receipt.engine) == (OTHER, "standby")
    assert passed(answer) == [("main", "scripted", "engine_failed")]
    desk = make(changed())
    with pytest.raises(EngineError) as refused:
        await desk.answerer.answer(PLAIN)
    assert refused.value.retry_after is not None


async def test_a_plain_model_falls_back_as_the_settings_say(make: Make, engines: Engines) -> None:
    engines.main.away = True
    desk = make(changed(), plain_fallback=CHAIN)
    answer = await desk.answerer.answer(PLAIN)
    assert (answer.receipt.engine, answer.receipt.application) == ("standby", "scripted")
    assert passed(answer) == [("main", "scripted", "unavailable")]


async def test_batch_work_waits_for_its_own_engine(make: Make, engines: Engines) -> None:
    desk = make(changed(fallback=CHAIN, when_unavailable=WhenUnavailable("precomputed")))
    await desk.answerer.answer(desk.request())
    desk.features.set(None, congestion__delay=90.0)
    engines.main.away = True
    for _ in range(5):
        with pytest.raises(UnavailableError):
            await desk.answerer.answer(desk.request(path="batch"))
    assert engines.standby.asked == []
    engines.main.away = False
    assert (await desk.answerer.answer(desk.request(path="batch"))).receipt.role == "live"


async def test_a_fallbacks_answer_is_nobodys_stored_answer(make: Make, engines: Engines) -> None:
    desk = make(changed(fallback=CHAIN))
    engines.main.away = True
    assert (await desk.answerer.answer(desk.request())).text == OTHER
    engines.main.away = False
    own = await desk.answerer.answer(desk.request())
    assert (own.text, own.receipt.cache.origin, own.receipt.role) == (GOOD, "generated", "live")


async def test_the_breaker_stops_asking_and_one_probe_brings_the_engine_back(make: Make, engines: Engines) -> None:
    desk = make(changed(fallback=CHAIN), failover=FailoverPolicy())
    await desk.answerer.answer(desk.request(question="first"))
    engines.main._script = [ScriptedGeneration(error=EngineError("died"))]
    for number in range(3):
        await desk.answerer.answer(desk.request(question=str(number)))
    assert desk.answerer.breakers[0].state == "open"
    asked = len(engines.main.asked)
    answer = await desk.answerer.answer(desk.request(question="while open"))
    assert (len(engines.main.asked), passed(answer)) == (asked, [("main", "scripted", "open")])
    back = asyncio.Event()
    engines.main._script = [ScriptedGeneration(GOOD, waits=back)]
    desk.clock.advance(timedelta(seconds=2))
    probe = asyncio.create_task(desk.answerer.answer(desk.request(question="the probe")))
    while not engines.main.in_flight:
        await asyncio.sleep(0)
    meanwhile = await asyncio.gather(*(desk.answerer.answer(desk.request(question=f"at once {n}")) for n in range(3)))
    back.set()
    assert {one.receipt.engine for one in meanwhile} == {"standby"}
    assert (await probe).receipt.engine == "main"
    assert desk.answerer.breakers[0].state == "closed"


@pytest.mark.parametrize(("least", "asked"), [(3, 3), (1_000, 10)])
async def test_only_a_breaker_spares_the_wait(make: Make, engines: Engines, least: int, asked: int) -> None:
    failover = FailoverPolicy(first_token=0.05, breaker=BreakerPolicy(least=least))
    engines.main._script = [ScriptedGeneration(GOOD, waits=asyncio.Event())]
    desk = make(changed(fallback=CHAIN), failover=failover)
    for number in range(10):
        await desk.answerer.answer(desk.request(question=str(number)))
    assert len(engines.main.asked) == asked


async def test_a_refusal_says_when_the_engine_is_tried_next(make: Make, engines: Engines) -> None:
    failover = FailoverPolicy(breaker=BreakerPolicy(first_wait=20.0, jitter=0.0))
    desk = make(changed(when_unavailable=WhenUnavailable("refuse")), failover=failover)
    await desk.answerer.answer(desk.request())
    desk.features.set(None, congestion__delay=90.0)
    engines.main.away = True
    for _ in range(3):
        with pytest.raises(UnavailableError):
            await desk.answerer.answer(desk.request())
    desk.clock.advance(timedelta(seconds=5))
    with pytest.raises(UnavailableError, match="left alone") as refused:
        await desk.answerer.answer(desk.request())
    assert refused.value.retry_after == pytest.approx(15.0)
    assert desk.receipts.count(SCOPE) == 1, "no receipt without an answer"


async def test_a_stored_answer_stands_in_and_says_so(make: Make, engines: Engines) -> None:
    desk = make(changed(when_unavailable=WhenUnavailable("precomputed", max_age="1h")))
    made = await desk.answerer.answer(desk.request())
    desk.features.set(None, congestion__delay=90.0)
    engines.main.away = True
    later = desk.request(as_of=made.receipt.as_of + timedelta(minutes=30))
    answer = await desk.answerer.answer(later)
    receipt = answer.receipt
    assert (answer.text, receipt.role, receipt.engine) == (GOOD, "degraded", None)
    assert receipt.degraded is not None
    assert (receipt.degraded.policy, receipt.degraded.release) == ("precomputed", desk.release.id)
    assert receipt.degraded.age_seconds == 1_800.0
    assert receipt.cache.prediction == made.prediction
    with pytest.raises(UnavailableError):
        await desk.answerer.answer(desk.request(as_of=made.receipt.as_of + timedelta(hours=2)))
    with pytest.raises(UnavailableError):
        await desk.answerer.answer(desk.request(question="Another one?"))


async def test_the_previous_releases_answer_stands_in_only_where_declared(make: Make, engines: Engines) -> None:
    desk = make(changed(when_unavailable=WhenUnavailable("precomputed")))
    made = await desk.answerer.answer(desk.request())
    first = desk.release
    desk.publish(changed(when_unavailable=WhenUnavailable("precomputed"), owner="second"))
    engines.main.away = True
    with pytest.raises(UnavailableError):
        await desk.answerer.answer(desk.request())
    engines.main.away = False
    desk.releases.rollback(SCOPE, "desk", "author", "a test")
    third = desk.publish(changed(when_unavailable=WhenUnavailable("previous_release"), owner="third"))
    engines.main.away = True
    answer = await desk.answerer.answer(desk.request())
    assert answer.receipt.degraded is not None
    assert (answer.receipt.release, answer.receipt.degraded.release) == (third.id, first.id)
    assert (answer.receipt.degraded.policy, answer.receipt.cache.prediction) == ("previous_release", made.prediction)


async def test_another_releases_answer_is_served_only_to_whom_policy_lets_ask_it(make: Make, engines: Engines) -> None:
    rule = WhenUnavailable("previous_release")
    desk = make(changed(when_unavailable=rule), policies=NOT_FOR_GUESTS)
    await desk.answerer.answer(desk.request())
    desk.publish(changed(when_unavailable=rule, purpose="open-to-guests"))
    engines.main.away = True
    guest = Principal("guest", "default", "service")
    assert (await desk.answerer.answer(desk.request())).receipt.degraded is not None
    with pytest.raises(UnavailableError):
        await desk.answerer.answer(desk.request(principal=guest))


async def test_what_stands_in_is_an_error_of_its_arm_and_is_not_mirrored(make: Make, engines: Engines) -> None:
    desk = make(changed(when_unavailable=WhenUnavailable("precomputed"), fallback=("standby",)))
    plan = Rollout(shadow=1.0, canary=(50,))
    rollout = desk.roll_out(changed(owner="candidate", fallback=("standby",)), plan)
    engines.main.away = True
    for number in range(8):
        answer = await desk.answerer.answer(desk.request(exposure_unit=f"user-{number}"))
        assert answer.receipt.role == "fallback"
    await desk.answerer.close()
    exposures = desk.exposures.of(SCOPE, rollout.id)
    assert exposures
    assert {one.error for one in exposures} == {"fallback"}
    assert desk.answerer.shadows["offered"] == 0


async def test_an_identical_prompt_is_answered_without_an_engine(make: Make, engines: Engines) -> None:
    desk = make(changed(reuse=Reuse("never", identical_prompts=True)))
    made = await desk.answerer.answer(desk.request())
    engines.main.away = True
    desk.clock.advance(timedelta(seconds=60))
    again = await desk.answerer.answer(desk.request())
    assert (again.receipt.cache.origin, again.receipt.cache.prediction) == ("identical-prompt", made.prediction)
    assert again.receipt.role == "live", "the same prompt's own text is no stand-in"
    (own, reused) = sorted(desk.receipts.reuse(SCOPE, made.receipt.created_at), key=lambda one: one.origin)
    assert (own.origin, own.saved_tokens, reused.origin) == ("generated", 0, "identical-prompt")
    assert reused.saved_tokens == made.usage.prompt_tokens + made.usage.completion_tokens > 0


async def test_a_stand_in_cannot_be_asked_for(make: Make) -> None:
    desk = make(changed())
    with pytest.raises(InvalidInputError, match="cannot be requested"):
        await desk.answerer.answer(desk.request(role="degraded", release=desk.release.id))


async def test_text_of_a_stand_in_depends_on_its_own_model(make: Make, engines: Engines) -> None:
    engines.main.away = True
    engines.standby._script = echo
    desk = make(
        changed(guards=(), output_schema=None, classes=(), fallback=CHAIN),
    )
    answer = await desk.answerer.answer(desk.request())
    assert answer.text.startswith("echo ")
    assert answer.receipt.attempts[0].model == "scripted"
