import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from antiphon.core.clock import ManualClock
from antiphon.core.errors import ConflictError, UnavailableError
from antiphon.orchestration.refreshing import RefreshSchedule, RefreshSlot, due
from antiphon.orchestration.streams import StreamPoller
from antiphon.orchestration.worker import HousekeepingTask, work

MINUTE = 60_000_000


def view(name: str, refresh: int | None) -> Any:
    return SimpleNamespace(name=name, refresh=refresh)


VIEWS = {
    "a@1": view("a", 15 * MINUTE),
    "b@1": view("b", 15 * MINUTE),
    "c@1": view("c", 60 * MINUTE),
    "d@1": view("d", None),
}


def test_views_of_one_cadence_share_a_run_and_a_slot_names_it_once() -> None:
    at = datetime(2026, 1, 1, 10, 7, tzinfo=UTC)
    wanted = due(VIEWS, at)
    assert [slot.views for slot in wanted] == [("a@1", "b@1"), ("c@1",)]
    assert [slot.begins.minute for slot in wanted] == [0, 0]
    assert due(VIEWS, at + timedelta(minutes=7)) == wanted
    later = due(VIEWS, at + timedelta(minutes=8))
    assert len({slot.key for slot in later} & {slot.key for slot in wanted}) == 1


async def test_the_schedule_orders_each_slot_once() -> None:
    clock = ManualClock(datetime(2026, 1, 1, 10, 7, tzinfo=UTC))
    ordered: list[RefreshSlot] = []
    async with _scheduled(lambda: VIEWS, ordered.append, clock):
        await _until(lambda: len(ordered) == 2)
        clock.advance(timedelta(minutes=15))
        await _until(lambda: len(ordered) == 3)
    assert [slot.views for slot in ordered] == [("a@1", "b@1"), ("c@1",), ("a@1", "b@1")]
    assert len({slot.key for slot in ordered}) == 3


@pytest.mark.parametrize("error", [ConflictError("The key was used."), OverflowError("date value out of range")])
async def test_a_slot_that_cannot_be_ordered_keeps_no_other_waiting(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    ordered: list[RefreshSlot] = []
    tries: list[RefreshSlot] = []

    def order(slot: RefreshSlot) -> None:
        if slot.views[0] == "a@1":
            tries.append(slot)
            if len(tries) < 4:
                raise error
        ordered.append(slot)

    async with _scheduled(lambda: VIEWS, order, ManualClock(datetime(2026, 1, 1, 10, 7, tzinfo=UTC))):
        await _until(lambda: len(ordered) == 2)
    assert [slot.views[0] for slot in ordered] == ["c@1", "a@1"]
    assert sum("cannot be ordered" in record.message for record in caplog.records) == 1, "said once, not once a second"


async def test_views_that_are_applied_within_a_slot_are_ordered_in_it() -> None:
    views = dict(VIEWS)
    ordered: list[RefreshSlot] = []
    async with _scheduled(lambda: views, ordered.append, ManualClock(datetime(2026, 1, 1, 10, 7, tzinfo=UTC))):
        await _until(lambda: len(ordered) == 2)
        views["a@2"] = view("a", 15 * MINUTE)
        await _until(lambda: len(ordered) == 3)
    assert (ordered[2].key, ordered[2].views) == (ordered[0].key, ("a@1", "a@2", "b@1"))


async def test_a_project_without_a_schedule_orders_nothing_and_goes_on() -> None:
    looks = 0

    def views() -> dict[str, Any]:
        nonlocal looks
        looks += 1
        return {}

    async with _scheduled(views, lambda *_: None, ManualClock(datetime(2026, 1, 1, tzinfo=UTC))):
        await _until(lambda: looks >= 3)


@asynccontextmanager
async def _scheduled(views: Any, order: Any, clock: ManualClock) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(RefreshSchedule(views, order, clock, look_every=0.001, poll=0.001).run_until(stop))
    try:
        yield
    finally:
        stop.set()
        await task


async def _until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


async def test_streams_go_on_after_a_failure() -> None:
    polls: list[int] = []
    stop = asyncio.Event()

    def consume(limit: int) -> int:
        polls.append(limit)
        if len(polls) == 1:
            raise UnavailableError("The catalog is away.")
        if len(polls) == 3:
            asyncio.run_coroutine_threadsafe(_set(stop), loop)
        return 1 if len(polls) < 3 else 0

    loop = asyncio.get_running_loop()
    await asyncio.wait_for(StreamPoller(consume, poll=0.001, batch=7).run_until(stop), timeout=5)
    assert len(polls) >= 3
    assert set(polls) == {7}


async def _set(event: asyncio.Event) -> None:
    event.set()


async def test_one_part_that_fails_ends_the_worker() -> None:
    class Broken:
        async def run_until(self, stop: asyncio.Event) -> None:
            raise RuntimeError("broken")

    stop = asyncio.Event()
    with pytest.raises(ExceptionGroup):
        await asyncio.wait_for(work([Broken(), StreamPoller(lambda limit: 0, poll=0.001, batch=1)], stop), timeout=5)


@pytest.mark.parametrize(
    "failure", [UnavailableError("The catalog is away."), OSError(5, "Input/output error"), ValueError()]
)
async def test_housekeeping_waits_its_interval_and_survives_a_failure(failure: Exception) -> None:
    stop, calls = asyncio.Event(), []

    def collect() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise failure
        asyncio.run_coroutine_threadsafe(_set(stop), loop)

    loop = asyncio.get_running_loop()
    await asyncio.wait_for(HousekeepingTask(collect, every=0.001).run_until(stop), timeout=5)
    assert len(calls) >= 2
    stopped = asyncio.Event()
    stopped.set()
    await asyncio.wait_for(HousekeepingTask(collect, every=60).run_until(stopped), timeout=5)


async def test_batches_shrink_while_the_store_is_slow_and_grow_again() -> None:
    asked: list[int] = []
    stop = asyncio.Event()
    at = [0.0]
    took = iter([0.02, 0.02, 0.02, 0.02, *[0.0] * 20])

    def consume(limit: int) -> int:
        asked.append(limit)
        if len(asked) > 10:
            asyncio.run_coroutine_threadsafe(_set(stop), loop)
        at[0] += next(took)
        return 1

    loop = asyncio.get_running_loop()
    await asyncio.wait_for(
        StreamPoller(consume, poll=0.001, batch=800, budget=0.015, now=lambda: at[0]).run_until(stop), timeout=5
    )
    assert asked[:5] == [800, 400, 200, 100, 50]
    assert 800 in asked[5:]
    assert min(asked) >= 8
