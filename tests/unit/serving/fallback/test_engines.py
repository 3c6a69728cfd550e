import asyncio
from pathlib import Path

import pytest

from antiphon.core.clock import SystemClock
from antiphon.definitions.degradation import MAIN
from antiphon.engine.api.client import EngineClient
from antiphon.engine.api.messages import EngineDescription
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
