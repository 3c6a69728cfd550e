import asyncio

import pytest

from antiphon.core.errors import UnavailableError
from antiphon.orchestration.streams import StreamPoller
from antiphon.orchestration.worker import HousekeepingTask, work


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
