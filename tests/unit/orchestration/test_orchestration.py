import asyncio
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from antiphon.core.clock import ManualClock
from antiphon.core.errors import Unavailable
from antiphon.core.scope import Scope
from antiphon.orchestration.housekeeping import Housekeeping
from antiphon.orchestration.refreshing import RefreshSchedule, due
from antiphon.orchestration.streams import Streams
from antiphon.orchestration.worker import work

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
    assert sorted(wanted.values()) == [("a", "b"), ("c",)]
    assert due(VIEWS, at + timedelta(minutes=7)) == wanted
    later = due(VIEWS, at + timedelta(minutes=8))
    assert len(set(later) & set(wanted)) == 1


async def test_the_schedule_starts_each_slot_once() -> None:
    clock = ManualClock(datetime(2026, 1, 1, 10, 7, tzinfo=UTC))
    started: list[tuple[tuple[str, ...], str]] = []
    stop = asyncio.Event()

    def refresh(scope: Scope, *, views: Any = (), reason: str = "", key: str | None = None) -> str:
        started.append((tuple(views), str(key)))
        return "run"

    schedule = RefreshSchedule(Scope(), lambda: VIEWS, refresh, clock, look_every=0.001)
    task = asyncio.create_task(schedule.run_until(stop))
    while len(started) < 2:
        await asyncio.sleep(0)
    clock.advance(timedelta(minutes=15))
    while len(started) < 3:
        await asyncio.sleep(0)
    stop.set()
    await task
    assert [views for views, _ in started] == [("a", "b"), ("c",), ("a", "b")]
    assert len({key for _, key in started}) == 3


async def test_streams_go_on_after_a_failure() -> None:
    polls: list[int] = []
    stop = asyncio.Event()

    def consume(limit: int) -> int:
        polls.append(limit)
        if len(polls) == 1:
            raise Unavailable("The catalog is away.")
        if len(polls) == 3:
            asyncio.run_coroutine_threadsafe(_set(stop), loop)
        return 1 if len(polls) < 3 else 0

    loop = asyncio.get_running_loop()
    await asyncio.wait_for(Streams(consume, poll=0.001, batch=7).run_until(stop), timeout=5)
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
        await asyncio.wait_for(work([Broken(), Streams(lambda limit: 0, poll=0.001, batch=1)], stop), timeout=5)


async def test_housekeeping_waits_its_interval_and_survives_a_failure() -> None:
    stop, calls = asyncio.Event(), []

    def collect() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise Unavailable("The catalog is away.")
        asyncio.run_coroutine_threadsafe(_set(stop), loop)

    loop = asyncio.get_running_loop()
    await asyncio.wait_for(Housekeeping(collect, every=0.001).run_until(stop), timeout=5)
    assert len(calls) >= 2
    stopped = asyncio.Event()
    stopped.set()
    await asyncio.wait_for(Housekeeping(collect, every=60).run_until(stopped), timeout=5)


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
        Streams(consume, poll=0.001, batch=800, budget=0.015, now=lambda: at[0]).run_until(stop), timeout=5
    )
    assert asked[:5] == [800, 400, 200, 100, 50]
    assert 800 in asked[5:]
    assert min(asked) >= 8
