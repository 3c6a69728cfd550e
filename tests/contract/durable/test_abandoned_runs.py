"""Runs of workers that are seen to have ended, on both databases."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from tests.unit.catalog.examples import DEV, OTHER

from antiphon.catalog.database import Database
from antiphon.catalog.doorbell import ring_name
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.core.clock import ManualClock
from antiphon.core.errors import CorruptionError, UnavailableError
from antiphon.core.scope import Scope
from antiphon.durable.abandoned_runs import AbandonedRuns
from antiphon.durable.claims import ServedRuns
from antiphon.durable.run import LeaseLostError
from antiphon.durable.runs import Runs

HOUR = timedelta(hours=1)


@pytest.fixture
def leases(database: Database) -> ProcessLeases:
    return ProcessLeases(database, "dev")


def held(database: Database, worker: str, scope: Scope = DEV) -> str:
    """A run that a worker has claimed."""
    runs = Runs(database)
    run = runs.submit(scope, "a", {})
    claimed = runs.claim(worker, ServedRuns(scope.environment), HOUR)
    assert claimed is not None
    assert claimed.id == run
    return run


def claimable(database: Database) -> set[str]:
    runs = Runs(database)
    return {run.id for run in iter(lambda: runs.claim("next", ServedRuns("dev"), HOUR), None)}


def test_runs_of_a_worker_that_has_ended_are_claimed_at_once(database: Database, leases: ProcessLeases) -> None:
    for number, name in enumerate(("desk", "desk-2", "far")):
        assert leases.acquire(f"worker/{name}", f"process-{number}", 60)
    assert ProcessLeases(database, "prod").acquire("worker/desk", "process-0", 60)
    assert leases.acquire("duties", "process-0", 60)
    dead = {held(database, "desk"), held(database, "desk/batches"), held(database, "desk", OTHER)}
    for name in ("desk-2", "far", "desktop"):
        held(database, name)
    held(database, "desk", Scope(environment="prod"))
    rings: list[str] = []
    database.doorbell.listen(lambda: rings.append("rang"), [ring_name("runs", "dev")])
    abandoned = AbandonedRuns(database, "dev", "process-0".__eq__)
    assert abandoned.free() == 3
    assert rings
    assert leases.find("worker/desk") is None
    assert leases.find("duties") is not None, "its successor takes it"
    assert claimable(database) == dead
    assert abandoned.free() == 0


def test_a_lease_that_is_over_says_as_well_who_has_ended(
    database: Database, leases: ProcessLeases, clock: ManualClock
) -> None:
    assert leases.acquire("worker/desk", "dead", 5)
    run = held(database, "desk")
    clock.advance(timedelta(seconds=6))
    assert AbandonedRuns(database, "dev", "dead".__eq__).free() == 1
    assert claimable(database) == {run}


def test_a_worker_that_was_started_again_keeps_its_runs(database: Database, leases: ProcessLeases) -> None:
    assert leases.acquire("worker/desk", "dead", 60)
    runs, successors = Runs(database), list[str]()

    def ended(holder: str) -> bool:
        """The successor comes right after the look."""
        assert leases.acquire("worker/desk", "successor", 60, gone="dead".__eq__)
        successors.append(held(database, "desk"))
        return holder == "dead"

    assert AbandonedRuns(database, "dev", ended).free() == 0
    assert claimable(database) == set()
    assert [run.id for run in runs.list(DEV, status="running")] == successors
    found = leases.find("worker/desk")
    assert found is not None
    assert found.holder == "successor"


def test_what_the_dead_worker_had_on_its_way_is_not_committed(database: Database, leases: ProcessLeases) -> None:
    assert leases.acquire("worker/desk", "dead", 60)
    runs = Runs(database)
    run = runs.get(DEV, held(database, "desk"))
    assert AbandonedRuns(database, "dev", "dead".__eq__).free() == 1
    assert claimable(database) == {run.id}
    with pytest.raises(LeaseLostError):
        runs.record(run, "late", 0, {}, run.created_at)


async def test_it_looks_until_it_is_stopped_whatever_a_look_meets(
    database: Database, leases: ProcessLeases, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert leases.acquire("worker/desk", "dead", 60)
    run, stop, listed = held(database, "desk"), asyncio.Event(), ProcessLeases.listed
    errors = [CorruptionError("It cannot be read."), UnavailableError("The catalog is away.")]

    def refused(*given: Any) -> Any:
        if errors:
            raise errors.pop()
        return listed(*given)

    monkeypatch.setattr(ProcessLeases, "listed", refused)
    looking = asyncio.create_task(AbandonedRuns(database, "dev", "dead".__eq__, every=0.01).run_until(stop))
    async with asyncio.timeout(10):
        while leases.find("worker/desk") is not None:
            await asyncio.sleep(0.005)
    stop.set()
    await looking
    assert not errors
    assert claimable(database) == {run}


async def test_a_known_worker_that_ends_is_seen_without_reading_the_catalog_again(
    database: Database, leases: ProcessLeases
) -> None:
    assert leases.acquire("worker/desk", "process", 60)
    run, stop, gone, looked = held(database, "desk"), asyncio.Event(), set[str](), list[str]()

    def has_ended(process: str) -> bool:
        looked.append(process)
        return process in gone

    abandoned = AbandonedRuns(database, "dev", has_ended, every=0.01, listed_every=60)
    looking = asyncio.create_task(abandoned.run_until(stop))
    async with asyncio.timeout(10):
        while len(looked) < 10:
            await asyncio.sleep(0.005)
        assert claimable(database) == set()
        gone.add("process")
        while leases.find("worker/desk") is not None:
            await asyncio.sleep(0.005)
    stop.set()
    await looking
    assert claimable(database) == {run}
