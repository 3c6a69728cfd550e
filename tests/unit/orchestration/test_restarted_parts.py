"""A part that fails is begun again by itself; what no part can mend ends the process as before."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest
from tests.unit.orchestration.test_duties import until

from antiphon.core.errors import (
    ConflictError,
    CorruptionError,
    NotFoundError,
    ProjectMovedError,
    SetupError,
    UnavailableError,
)
from antiphon.durable.run import LeaseLostError
from antiphon.orchestration.restarted_parts import BrokenPart, BrokenParts, RestartedPart, broken_parts
from antiphon.orchestration.worker import WorkerPart, work


class FailingPart:
    """Fails as often as it is told, then runs."""

    def __init__(self, error: BaseException, times: int = 10**6) -> None:
        self.error, self.times, self.begun, self.done = error, times, 0, False

    async def run_until(self, stop: asyncio.Event) -> None:
        self.begun += 1
        if self.begun <= self.times:
            raise self.error
        await stop.wait()
        self.done = True


class SoundPart:
    def __init__(self) -> None:
        self.rounds = 0

    async def run_until(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self.rounds += 1
            await asyncio.sleep(0.001)


async def ended(parts: list[WorkerPart], condition: Callable[[], bool]) -> None:
    stop = asyncio.Event()
    working = asyncio.create_task(work(parts, stop))
    try:
        await until(condition)
    finally:
        stop.set()
        await asyncio.wait_for(working, 20)


@pytest.mark.parametrize(
    "error", [ValueError("by value"), NotFoundError("There is none."), ConflictError("Taken."), KeyError("x")]
)
async def test_a_part_that_fails_again_and_again_ends_no_other(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    failing, sound, broken = FailingPart(error), SoundPart(), BrokenParts()
    parts: list[WorkerPart] = [RestartedPart(one, broken, first=0.001) for one in (failing, sound)]
    await ended(parts, lambda: failing.begun > 3 and sound.rounds > 10)
    (shown,) = broken_parts(broken.detail())
    assert (shown.name, shown.failures >= 3) == ("FailingPart", True)
    assert shown.error.startswith((type(error).__name__, "antiphon.core.errors"))
    assert "by value" not in shown.error
    assert any("FailingPart failed" in record.message for record in caplog.records if record.levelno == logging.ERROR)


async def test_a_part_that_runs_again_is_broken_no_more() -> None:
    failing, broken = FailingPart(ValueError(), times=2), BrokenParts()
    part = RestartedPart(failing, broken, first=0.001, steady=0.05)
    await ended([part], lambda: failing.begun == 3 and broken.detail() is None)
    assert failing.done


async def test_failures_that_are_far_apart_do_not_add_up() -> None:
    class Rare:
        begun = 0

        async def run_until(self, stop: asyncio.Event) -> None:
            self.begun += 1
            await asyncio.sleep(0.03)
            raise ValueError

    rare, broken = Rare(), BrokenParts()
    seen = set[int]()

    def look() -> bool:
        seen.update(one.failures for one in broken_parts(broken.detail()))
        return rare.begun > 3

    await ended([RestartedPart(rare, broken, first=0.001, steady=0.01)], look)
    assert seen <= {1}


@pytest.mark.parametrize(
    "error",
    [
        UnavailableError("The catalog is away."),
        ProjectMovedError("It was moved."),
        CorruptionError("The catalog is damaged."),
        SetupError("No disk."),
        LeaseLostError("Epoch 1 is over."),
        MemoryError(),
        ExceptionGroup("parts", [ValueError(), UnavailableError("The catalog is away.")]),
    ],
)
async def test_what_no_part_can_mend_ends_them_all(error: Exception) -> None:
    failing, sound, broken = FailingPart(error), SoundPart(), BrokenParts()
    with pytest.raises(ExceptionGroup) as raised:
        await work([RestartedPart(one, broken, first=0.001) for one in (failing, sound)], asyncio.Event())
    assert raised.value.exceptions == (error,)
    assert failing.begun == 1
    assert broken.detail() is None


async def test_a_part_that_ends_by_itself_stays_ended() -> None:
    class Short:
        begun = 0

        async def run_until(self, stop: asyncio.Event) -> None:
            self.begun += 1

    short = Short()
    await RestartedPart(short, BrokenParts(), first=0.001).run_until(asyncio.Event())
    assert short.begun == 1


async def test_a_part_that_waits_to_begin_again_ends_at_once() -> None:
    failing, broken = FailingPart(ValueError()), BrokenParts()
    async with asyncio.timeout(20):
        await ended([RestartedPart(failing, broken, first=3_600.0)], lambda: failing.begun == 1)


def test_broken_parts_are_read_from_a_leases_detail() -> None:
    broken = BrokenParts()
    assert broken_parts(None) == ()
    for name in ("b", "a"):
        broken.note(BrokenPart(name, "ValueError", 1))
    assert [one.name for one in broken_parts(broken.detail())] == ["a", "b"]
    broken.clear("b")
    broken.clear("none")
    assert [one.name for one in broken_parts(broken.detail())] == ["a"]
