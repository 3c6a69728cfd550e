import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from antiphon.core.circuit_breaker import BreakerPolicy
from antiphon.core.clock import SystemClock
from antiphon.core.errors import EngineError, OverloadedError
from antiphon.definitions.degradation import MAIN
from antiphon.engine.api.client import EngineClient
from antiphon.engine.api.messages import Delta, EngineDescription, GenerationRequest, GenerationResult, StoppedEngine
from antiphon.serving.fallback import engines
from antiphon.serving.fallback.engines import EnginePassedOver, EngineRoute, FailoverPolicy
from antiphon.testing.scripted_engine import MODEL, ScriptedEngine, ScriptedGeneration


class Slow(ScriptedEngine):
    """Counts how often it is asked what it serves."""

    looks = 0
    silent = False

    async def describe(self) -> EngineDescription:
        self.looks += 1
        await asyncio.sleep(10.0 if self.silent else 0.02)
        return await super().describe()


async def test_many_that_come_at_once_look_once() -> None:
    engine = Slow([ScriptedGeneration("hello")])
    member = EngineRoute("main", engine, FailoverPolicy(), SystemClock())
    leaving = asyncio.create_task(member.model(MODEL.name))
    others = [asyncio.create_task(member.model(MODEL.name)) for _ in range(50)]
    await asyncio.sleep(0.005)
    leaving.cancel()
    found = await asyncio.gather(*others)
    assert {model.name for model in found if model is not None} == {MODEL.name}
    assert engine.looks == 1
    await member.model(MODEL.name)
    assert engine.looks == 1


async def test_a_look_that_fails_fails_for_all_who_wait_and_counts_once() -> None:
    engine = Slow([ScriptedGeneration("hello")])
    engine.silent = True
    member = EngineRoute("main", engine, FailoverPolicy(describe=0.05), SystemClock())
    told = await asyncio.gather(*(member.model(MODEL.name) for _ in range(20)), return_exceptions=True)
    assert all(isinstance(error, EnginePassedOver) for error in told)
    assert member.breaker.status.failed == 1
    assert {error.error.where for error in told if isinstance(error, EnginePassedOver)} == {"engine"}
    engine.silent = False
    model = await member.model(MODEL.name)
    assert model is not None


async def test_callers_are_not_told_where_an_engine_lies(tmp_path: Path) -> None:
    member = EngineRoute(MAIN, EngineClient(tmp_path / "engine.sock"), FailoverPolicy(), SystemClock())
    with pytest.raises(EnginePassedOver) as refused:
        await member.model(MODEL.name)
    assert refused.value.error.where == "engine"
    assert str(tmp_path) not in str(refused.value.error)


class Starting(ScriptedEngine):
    """One that is stopped: it tells how long its start takes, then is up or not."""

    tells: tuple[float, ...] = (2.0, 1.0)
    up_after = 0.0

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta | GenerationResult, None]:
        for seconds in self.tells:
            yield Delta(request.id, "", starting=seconds)
        await asyncio.sleep(self.up_after)
        yield Delta(request.id, "", starting=0.0)
        async for event in super().generate(request):
            yield event


async def test_a_start_is_waited_for_apart_from_the_first_token_and_told_to_nobody_behind() -> None:
    engine = Starting([ScriptedGeneration("hello there")])
    engine.up_after = 0.15
    member = EngineRoute(MAIN, engine, FailoverPolicy(first_token=0.05, start=30.0), SystemClock())
    events, told = [], []
    asking = member.generate(GenerationRequest("r", MODEL.name, "p", 8))
    first = asyncio.ensure_future(anext(asking))
    while not first.done():
        told.append(member.starting)
        await asyncio.sleep(0.01)
    events = [await first, *[event async for event in asking]]
    assert 1.0 in told
    assert member.starting is None
    assert all(not isinstance(event, Delta) or event.starting is None for event in events)
    assert "".join(event.text for event in events if isinstance(event, Delta)) == "hello there"


@pytest.mark.parametrize(("tells", "patience"), [((90.0,), 60.0), ((0.04,), 0.05)])
async def test_a_start_that_takes_too_long_is_passed_over_and_breaks_nothing(
    tells: tuple[float, ...], patience: float
) -> None:
    engine = Starting([ScriptedGeneration("hello")])
    engine.tells, engine.up_after = tells, 30.0
    member = EngineRoute(MAIN, engine, FailoverPolicy(start=patience), SystemClock())
    for _ in range(4):
        with pytest.raises(EnginePassedOver) as passed:
            await anext(member.generate(GenerationRequest("r", MODEL.name, "p", 8)))
        assert passed.value.passed.reason == "starting"
        assert passed.value.error.retry_after == tells[0]
    assert member.breaker.status.state == "closed"


async def test_what_may_wait_is_not_begun_before_the_engine_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "START_NOTICE_SECONDS", 0.01)
    engine = Stopped([ScriptedGeneration("hello")])
    member = EngineRoute(MAIN, engine, FailoverPolicy(), SystemClock())
    waiting = asyncio.create_task(member.up())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    engine.stopped = None
    async with asyncio.timeout(5):
        await waiting


class Stopped(ScriptedEngine):
    """One that is stopped until it is told otherwise."""

    stopped: StoppedEngine | None = StoppedEngine(datetime(2026, 1, 1, tzinfo=UTC), 2.0)

    async def describe(self) -> EngineDescription:
        return msgspec.structs.replace(await super().describe(), stopped=self.stopped)


QUICK = FailoverPolicy(first_token=0.1, describe=0.1, breaker=BreakerPolicy(first_wait=0.02, longest_wait=0.04))


@asynccontextmanager
async def probed(engine: ScriptedEngine) -> AsyncIterator[EngineRoute]:
    """A route whose breaker three requests opened, and which is probed."""
    member = EngineRoute(MAIN, engine, QUICK, SystemClock())
    probing = asyncio.create_task(member.probe_until_cancelled())
    for _ in range(3):
        with pytest.raises(EnginePassedOver):
            await anext(member.generate(GenerationRequest("r", MODEL.name, "p", 8)))
    assert member.breaker.status.state == "open"
    yield member
    probing.cancel()
    with suppress(asyncio.CancelledError):
        await probing


async def closed(member: EngineRoute) -> None:
    async with asyncio.timeout(5):
        while not member.breaker.is_closed:
            await asyncio.sleep(0.005)


async def test_a_breaker_closes_by_a_probe_of_one_token_while_nobody_asks() -> None:
    engine = ScriptedEngine([ScriptedGeneration(error=EngineError("died"))])
    async with probed(engine) as member:
        asked = len(engine.asked)
        async with asyncio.timeout(5):
            while len(engine.asked) < asked + 2:
                await asyncio.sleep(0.005)
        assert not member.breaker.is_closed, "probes fail as requests do"
        engine._script = [ScriptedGeneration("hello")]
        await closed(member)
        probe = engine.asked[-1]
        assert (probe.model, probe.max_tokens, probe.spare) == (MODEL.name, 1, True)
        assert (member.breaker.status.calls, member.breaker.status.failed) == (3, 3), "probes are no requests"
        probes = len(engine.asked)
        await asyncio.sleep(0.1)
        assert len(engine.asked) == probes, "a closed one is not probed"


@pytest.mark.parametrize("said", [OverloadedError("full", retry_after=1.0), None])
async def test_an_engine_that_describes_itself_and_makes_no_token_stays_left_alone(
    said: OverloadedError | None,
) -> None:
    engine = ScriptedEngine([ScriptedGeneration(error=EngineError("died"))])
    async with probed(engine) as member:
        full = ScriptedGeneration(error=said) if said is not None else ScriptedGeneration("late", waits=asyncio.Event())
        engine._script = [full]
        asked = len(engine.asked)
        async with asyncio.timeout(5):
            while len(engine.asked) < asked + 2:
                await asyncio.sleep(0.005)
        assert not member.breaker.is_closed
        assert len(engine.asked) <= asked + 3, "and not over and over"


async def test_a_stopped_engine_is_not_started_by_a_probe() -> None:
    engine = Stopped([ScriptedGeneration(error=EngineError("died"))])
    async with probed(engine) as member:
        engine.asked.clear()
        await closed(member)
        assert engine.asked == []
