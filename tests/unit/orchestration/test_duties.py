"""Duties are done by one holder of the lease at a time, and taken over when it goes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.unit.catalog.examples import open_database

from antiphon.catalog.process_leases import ProcessLeases
from antiphon.core.errors import UnavailableError
from antiphon.orchestration.duties import Duties, LeaseHolder

SECONDS = 0.3

now = [0.0]
"""Monotonic seconds of the tests that move them."""


class Part:
    """Tells whether it is being done."""

    def __init__(self) -> None:
        self.done = False
        self.times = 0

    async def run_until(self, stop: asyncio.Event) -> None:
        self.done, self.times = True, self.times + 1
        await stop.wait()
        self.done = False


class Worker:
    def __init__(
        self,
        leases: ProcessLeases,
        name: str,
        gone: tuple[str, ...] = (),
        conflict: str | None = None,
        seconds: float = SECONDS,
    ) -> None:
        self.part, self.stop, self.looks = Part(), asyncio.Event(), 0

        def has_ended(holder: str) -> bool:
            self.looks += 1
            return holder in gone

        holder = LeaseHolder(leases, name, has_ended, seconds=seconds)
        self.duties = Duties("duties", [self.part], holder, conflict=conflict)
        self.task = asyncio.create_task(self.duties.run_until(self.stop))

    async def end(self) -> None:
        self.stop.set()
        await self.task


async def until(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
def leases(tmp_path: Path) -> ProcessLeases:
    return ProcessLeases(open_database(tmp_path), "dev")


async def test_one_does_them_and_another_takes_over_when_it_stops(leases: ProcessLeases) -> None:
    one = Worker(leases, "one")
    await until(lambda: one.part.done)
    two = Worker(leases, "two")
    await until(lambda: two.looks >= 5)  # It has asked for longer than a lease lasts.
    assert (one.part.done, two.part.done, one.part.times) == (True, False, 1)
    assert (one.duties.held, two.duties.held) == (True, False)
    await one.end()
    assert not one.part.done
    await until(lambda: two.part.done)
    assert (one.duties.held, two.duties.held) == (False, True)
    await two.end()
    assert leases.find("duties") is None


async def test_who_is_cut_off_loses_them_and_one_that_is_gone_is_not_waited_for(leases: ProcessLeases) -> None:
    leases.acquire("duties", "dead", 1_000)
    one = Worker(leases, "one", gone=("dead",))
    await until(lambda: one.part.done)
    leases.release("duties", "one")
    leases.acquire("duties", "other", 1_000)  # As if this one had been paused for longer than the lease.
    await until(lambda: not one.part.done)
    leases.release("duties", "other")
    await until(lambda: one.part.done)
    assert one.part.times == 2
    await one.end()


async def test_while_the_catalog_is_away_they_go_on(leases: ProcessLeases, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Worker(leases, "one")
    await until(lambda: one.part.done)

    refused = 0

    def away(*_: object) -> frozenset[str]:
        nonlocal refused
        refused += 1
        raise UnavailableError("The catalog is away.")

    with monkeypatch.context() as patched:
        patched.setattr(leases, "acquire_all", away)  # By which it renews what it holds.
        await until(lambda: refused >= 5)
        assert one.part.done
    await one.end()
    assert one.part.times == 1


async def test_a_name_that_another_process_has_is_told_once_with_the_holder(
    leases: ProcessLeases, caplog: pytest.LogCaptureFixture
) -> None:
    lease = 9 * SECONDS  # Nobody takes it over because the machine is busy.
    one = Worker(leases, "one", seconds=lease)
    await until(lambda: one.part.done)
    two = Worker(leases, "two", conflict="choose another --name", seconds=lease)
    standby = Worker(leases, "three", seconds=lease)
    await until(lambda: any(record.levelname == "WARNING" for record in caplog.records))
    looks = two.looks
    await until(lambda: two.looks > looks + 4 and standby.looks > looks + 4)
    await one.end()
    await until(lambda: two.part.done or standby.part.done)
    for each in (two, standby):
        await each.end()
    # A machine that is busy for longer than so short a lease lets another one take it over, which is told as well.
    told = [record.getMessage() for record in caplog.records if "is held by another process" in record.getMessage()]
    assert told == ["duties is held by another process, one; choose another --name"]


class Counted:
    """Leases whose renewals are counted."""

    def __init__(self, leases: ProcessLeases) -> None:
        self.leases = leases
        self.renewed: list[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.leases, name)

    def acquire_all(self, details: Mapping[str, str | None], *others: Any) -> frozenset[str]:
        self.renewed.append(sorted(details))
        return self.leases.acquire_all(details, *others)


@pytest.fixture
def holder(leases: ProcessLeases) -> LeaseHolder:
    counted: Any = Counted(leases)
    return LeaseHolder(counted, "one", lambda _: False, seconds=15, monotonic=lambda: now[0])


def renewed(holder: LeaseHolder) -> list[list[str]]:
    counted: Any = holder._leases
    return counted.renewed


async def test_all_leases_of_a_process_are_renewed_at_once_whenever_each_was_taken(holder: LeaseHolder) -> None:
    now[0] = 0.0
    said = iter(["first", "second"])
    assert await holder.acquire("a", lambda: next(said))
    now[0] = 3.0
    await holder.acquire_all(["b", "c"])
    del renewed(holder)[:]
    for second in (4.5, 5.0, 5.2, 8.0):
        now[0] = second
        assert await asyncio.gather(*(holder.renew(name) for name in "abc")) == [True] * 3
    assert renewed(holder) == [["a", "b", "c"]], "a third of the time was over once"
    found = holder._leases.find("a")
    assert found is not None
    assert found.detail == "second"


async def test_a_lease_that_was_given_back_lost_or_left_is_not_taken_again(
    holder: LeaseHolder, leases: ProcessLeases
) -> None:
    now[0] = 0.0
    await holder.acquire_all(["given", "lost", "left", "kept"])
    await holder.release("given")
    holder.leave("left")
    for name in ("lost", "left"):
        leases.release(name, "one")
    leases.acquire("lost", "another", 60)
    now[0] = 5.0
    assert [await holder.renew(name) for name in ("given", "lost", "left", "kept")] == [False, False, False, True]
    leases.release("lost", "another")
    now[0] = 10.0
    assert await holder.renew("kept")
    assert renewed(holder)[-1] == ["kept"]
    assert {lease.name for lease in leases.listed("")} == {"kept"}


async def test_what_is_given_back_during_a_renewal_is_not_taken_again_by_it(
    holder: LeaseHolder, leases: ProcessLeases
) -> None:
    now[0] = 0.0
    await holder.acquire_all(["given", "kept"])
    now[0] = 5.0
    renewal = asyncio.create_task(holder.renew("kept"))
    await asyncio.sleep(0)
    await holder.release("given")
    assert await renewal
    assert {lease.name for lease in leases.listed("")} == {"kept"}


async def test_the_lease_of_a_part_that_broke_ends_while_others_of_its_process_are_renewed(
    holder: LeaseHolder, leases: ProcessLeases
) -> None:
    class Broken:
        async def run_until(self, stop: asyncio.Event) -> None:
            raise RuntimeError("broken")

    now[0] = 0.0
    await holder.acquire("kept")
    with pytest.raises(ExceptionGroup):
        await Duties("broken", [Broken()], holder).run_until(asyncio.Event())
    now[0] = 5.0
    assert await holder.renew("kept")
    assert renewed(holder)[-1] == ["kept"]
