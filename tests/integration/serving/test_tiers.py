"""Tiers and a request's own deadline, through ``answer()``."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from tests.harness.small_desk import DESK, SmallDesk

from antiphon.core.errors import DeadlineExceededError, OverloadedError, ResourceUnavailableError
from antiphon.serving.admission.limits import AdmissionController
from antiphon.serving.answering.context import arrive
from antiphon.testing.scripted_engine import ScriptedEngine, ScriptedGeneration

PLAIN = msgspec.structs.replace(DESK, output_schema=None, guards=(), classes=())


async def test_flex_is_batch_work_with_bounds_of_its_own(tmp_path: Path) -> None:
    held = asyncio.Event()
    engine = ScriptedEngine(
        [
            ScriptedGeneration("one", waits=held),
            ScriptedGeneration("two", waits=held),
            ScriptedGeneration("three", waits=held),
        ]
    )
    desk = SmallDesk(
        tmp_path, engine, PLAIN, admission=AdmissionController(online=2, batch=1, flex=1), online_seconds=0.3
    )
    waiting = asyncio.create_task(desk.answerer.answer(desk.request(tier="flex", question="1")))
    first = asyncio.create_task(desk.answerer.answer(desk.request(tier="priority", question="2")))
    async with asyncio.timeout(20):
        while len(engine.asked) < 2 and not waiting.done() and not first.done():
            await asyncio.sleep(0.001)
    assert [(sent.priority, sent.ahead, sent.level is None) for sent in engine.asked] == [
        ("batch", False, True),
        ("online", True, False),
    ]
    with pytest.raises(ResourceUnavailableError) as full:
        await desk.answerer.answer(desk.request(tier="flex", question="3"))
    assert (full.value.http_status, full.value.code, full.value.where) == (429, "resource_unavailable", "service_tier")
    with pytest.raises(DeadlineExceededError):  # the bound of online answers
        await first
    assert not waiting.done()
    held.set()
    answer = await waiting
    assert answer.receipt.path == "online"
    desk.close()


async def test_a_requests_own_deadline_holds_for_it_alone(tmp_path: Path) -> None:
    engine = ScriptedEngine([ScriptedGeneration("one", waits=asyncio.Event())])
    desk = SmallDesk(tmp_path, engine, PLAIN)
    with pytest.raises(DeadlineExceededError):
        await desk.answerer.answer(desk.request(timeout=0.05))
    assert (engine.in_flight, engine.cancelled) == (0, 1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):  # another waits on
            await desk.answerer.answer(desk.request())
    desk.close()


def test_flex_takes_no_part_in_rollouts(tmp_path: Path) -> None:
    desk = SmallDesk(tmp_path, ScriptedEngine([ScriptedGeneration("one")]), PLAIN)
    for tier, takes_part in (("default", True), ("priority", True), ("flex", False)):
        assert arrive(desk.request(tier=tier), b"k" * 32, 0.0).takes_part is takes_part
    desk.close()


async def test_a_full_path_says_when_a_place_comes_free() -> None:
    admission = AdmissionController(online=1, batch=1)
    async with admission.enter("online"):
        with pytest.raises(OverloadedError) as refused:
            async with admission.enter("online"):
                raise AssertionError
    assert refused.value.retry_after == 1.0  # nothing was measured yet
