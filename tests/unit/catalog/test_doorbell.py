from __future__ import annotations

import asyncio
import time

import pytest
from tests.harness.silence import Silence

from antiphon.catalog import doorbell as module
from antiphon.catalog.doorbell import Doorbell, Wakeup


def test_listeners_are_woken_for_their_names_alone_and_until_they_end() -> None:
    doorbell, woken = Doorbell(Silence()), list[str]()
    end = doorbell.listen(lambda: woken.append("runs"), ["runs:dev"])
    doorbell.listen(lambda: woken.append("events"), ["events:dev", "releases:dev"])
    doorbell.committed({"runs:dev", "runs:prod"})
    doorbell.committed({"releases:dev"})
    assert woken == ["runs", "events"]
    end()
    doorbell.deliver(None)
    assert woken == ["runs", "events", "events"]


def test_a_listener_that_fails_keeps_no_other_from_being_woken(caplog: pytest.LogCaptureFixture) -> None:
    doorbell, woken = Doorbell(Silence()), list[str]()

    def broken() -> None:
        raise RuntimeError("broken")

    doorbell.listen(broken, ["runs:dev"])
    doorbell.listen(lambda: woken.append("second"), ["runs:dev"])
    doorbell.committed({"runs:dev"})
    assert woken == ["second"]
    assert "A listener of the doorbell failed" in caplog.text


def test_other_processes_are_heard_from_the_first_listener_on() -> None:
    channel = Silence()
    doorbell = Doorbell(channel)
    doorbell.committed({"runs:dev"})
    doorbell.close()
    assert (channel.opened, channel.closed) == (0, 0)
    doorbell.listen(print, ["runs:dev"])
    doorbell.listen(print, ["runs:dev"])
    doorbell.close()
    doorbell.close()
    assert (channel.opened, channel.closed) == (1, 1)
    doorbell.listen(print, ["runs:dev"])
    assert channel.opened == 2


async def test_a_ring_between_two_waits_makes_the_second_return_at_once() -> None:
    doorbell = Doorbell(Silence())
    with doorbell.wakeup("dev", "runs") as wakeup:
        await asyncio.to_thread(doorbell.committed, {"runs:dev"})
        async with asyncio.timeout(5):
            await wakeup.wait(60)
        before = time.monotonic()
        await wakeup.wait(0.05)
        assert time.monotonic() - before >= 0.04, "one ring woke two waits"


async def test_looks_for_nothing_rest_however_often_it_rings_and_useful_ones_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "REST_SECONDS", 0.1)
    doorbell = Doorbell(Silence())
    took = {}
    for found in (False, True):
        with doorbell.wakeup("dev", "runs") as wakeup:
            before = time.monotonic()
            for _ in range(4):
                doorbell.committed({"runs:dev"})
                await wakeup.wait(60, found=found)
            took[found] = time.monotonic() - before
    assert took[False] >= 0.3
    assert took[True] < 0.3


async def test_a_wait_ends_with_what_else_is_waited_for_also_while_it_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REST_SECONDS", 60.0)
    doorbell, stop = Doorbell(Silence()), asyncio.Event()
    with doorbell.wakeup("dev", "runs") as wakeup:
        doorbell.committed({"runs:dev"})
        await wakeup.wait(60)
        doorbell.committed({"runs:dev"})
        resting = asyncio.create_task(wakeup.wait_until(stop, 60, found=False))
        await asyncio.wait({resting}, timeout=0.05)
        assert not resting.done()
        stop.set()
        async with asyncio.timeout(5):
            await resting


async def test_without_a_doorbell_a_wait_is_for_time_alone() -> None:
    with Wakeup() as wakeup:
        before = time.monotonic()
        await wakeup.wait_until(asyncio.Event(), 0.03)
        assert time.monotonic() - before >= 0.02


class Time:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_at_rest_the_first_ring_wakes_every_listener_and_ends_the_rest() -> None:
    time, woken = Time(), list[str]()
    doorbell = Doorbell(Silence(), time)
    doorbell.listen(lambda: woken.append("runs"), ["runs:dev"])
    doorbell.listen(lambda: woken.append("nothing"), [])
    time.now += module.REST_AFTER - 1
    doorbell.committed({"events:dev"})
    assert woken == [], "it is no rest yet"
    time.now += module.REST_AFTER
    assert doorbell.is_at_rest
    doorbell.committed({"events:dev"})
    assert (woken, doorbell.is_at_rest) == (["runs", "nothing"], False)
    doorbell.committed({"events:dev"})
    assert woken == ["runs", "nothing"]
    time.now += module.REST_AFTER
    doorbell.end_rest()
    assert woken == ["runs", "nothing"] * 2, "work of this process ends the rest without a ring"


def test_looks_come_less_often_at_rest_and_those_at_long_intervals_do_not() -> None:
    time = Time()
    doorbell = Doorbell(Silence(), time)
    wakeup = doorbell.wakeup("dev")
    assert [wakeup.rested(seconds) for seconds in (2.0, 10.0, 60.0)] == [2.0, 10.0, 60.0]
    time.now += module.REST_AFTER
    assert [wakeup.rested(seconds) for seconds in (0.05, 2.0, 10.0, 60.0)] == [0.05, 12.0, 30.0, 60.0]
    assert Wakeup().rested(2.0) == 2.0, "nothing would end the rest of one without a doorbell"


async def test_a_wait_that_began_at_rest_ends_with_the_rest() -> None:
    time = Time()
    doorbell = Doorbell(Silence(), time)
    with doorbell.wakeup("dev") as wakeup:
        time.now += module.REST_AFTER
        waiting = asyncio.create_task(wakeup.wait(wakeup.rested(60.0)))
        await asyncio.sleep(0)
        await asyncio.to_thread(doorbell.committed, {"moves:prod"})
        async with asyncio.timeout(5):
            await waiting
