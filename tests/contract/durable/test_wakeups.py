"""Rings of one process's commits in another, and executors that live by them, on both databases."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.catalogs import KINDS, catalog_url, drop, opened_again
from tests.unit.catalog.examples import DEV

from antiphon.catalog.database import Database
from antiphon.catalog.doorbell import Topic, ring_name
from antiphon.catalog.features.events import Event, EventLog
from antiphon.core.errors import AntiphonError
from antiphon.core.scope import Scope
from antiphon.durable.claims import ServedRuns
from antiphon.durable.context import RunContext
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.run import Run
from antiphon.durable.runs import Runs

NEVER = 60.0
"""A poll that no test waits for."""

AT_ONCE = 0.1


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """By the wall clock: what is due becomes due by itself."""
    opened = Database.open(catalog_url(tmp_path, request.param))
    opened.migrate()
    yield opened
    drop(opened)


@pytest.fixture
def other(database: Database) -> Iterator[Database]:
    """The catalog as another process has it."""
    opened = opened_again(database)
    yield opened
    opened.close()


class Rings:
    """Counts the rings of one topic that a process hears."""

    def __init__(self, database: Database, topic: Topic, environment: str = "dev") -> None:
        self._rung = threading.Condition()
        self._count = 0
        database.doorbell.listen(self._add, [ring_name(topic, environment)])

    def _add(self) -> None:
        with self._rung:
            self._count += 1
            self._rung.notify_all()

    def heard(self, seconds: float = 5.0) -> bool:
        """Whether it rang since the last call, at the latest after so many seconds."""
        with self._rung:
            rang = self._rung.wait_for(lambda: self._count > 0, seconds)
            self._count = 0
        return rang


def hears(database: Database, other: Database, topic: Topic, environment: str = "dev") -> Rings:
    """Rings that ``database`` hears, once ``other`` is heard by it."""
    rings = Rings(database, topic, environment)
    deadline = time.monotonic() + 10
    while not rings.heard(0.02):
        assert time.monotonic() < deadline, "it never rang"
        with other.transaction():
            other.ring(topic, Scope(environment=environment))
    while rings.heard(0.2):
        pass
    return rings


def test_a_ring_is_heard_after_the_commit_and_not_without_one(database: Database, other: Database) -> None:
    rings, runs = hears(database, other, "runs"), Runs(other)
    with other.transaction() as connection:
        run = runs.submit(DEV, "w", {}, within=connection)
        assert not rings.heard(0.1)
    assert rings.heard()
    assert Runs(database).get(DEV, run).status == "queued"

    def undone() -> None:
        with other.transaction() as connection:
            runs.submit(DEV, "w", {}, within=connection)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        undone()
    assert not rings.heard(0.1)
    with other.transaction():
        pass
    assert not rings.heard(0.1), "a transaction that rang nothing was heard"


def test_the_end_of_a_schedules_run_is_heard_also_where_it_was_faster_than_its_note(
    database: Database, other: Database
) -> None:
    rings, runs = hears(database, other, "features"), Runs(other)

    def ended(noted: bool) -> str:
        run = runs.submit(DEV, "w", {})
        if noted:
            with other.transaction() as connection:
                runs.attribute(DEV, run, "nightly", "why", None, within=connection)
        claimed = runs.claim("worker", ServedRuns("dev"), timedelta(seconds=10))
        assert claimed is not None
        runs.end(claimed, {})
        return run

    ended(noted=True)
    assert rings.heard()
    run = ended(noted=False)
    assert not rings.heard(0.1), "the end of a run of no schedule was heard"
    with other.transaction() as connection:
        runs.attribute(DEV, run, "nightly", "why", None, within=connection)
    assert rings.heard()


def test_nobody_is_woken_for_another_environment_or_topic(database: Database, other: Database) -> None:
    rings = hears(database, other, "runs")
    Runs(other).submit(Scope(environment="prod"), "w", {})
    moment = other.clock.now()
    EventLog(other).append(DEV, "stream", [Event("1", moment, moment, {})])
    assert not rings.heard(0.2)


def test_what_others_wait_for_rings(database: Database, other: Database) -> None:
    events, cancellations = hears(database, other, "events"), hears(database, other, "cancellations")
    moment = other.clock.now()
    EventLog(other).append(DEV, "stream", [Event("1", moment, moment, {})])
    assert events.heard()
    runs = Runs(other)
    runs.cancel(DEV, runs.submit(DEV, "w", {}))
    assert cancellations.heard()


def test_a_ring_needs_a_transaction(database: Database) -> None:
    with pytest.raises(AntiphonError, match="No write transaction"):
        database.ring("runs", DEV)


@asynccontextmanager
async def executor(database: Database, body: Any = None, **options: Any) -> AsyncIterator[Callable[[str], float]]:
    """An executor over a catalog; yields what tells when a run began (monotonic seconds)."""
    began: dict[str, float] = {}

    async def workflow(run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        began[run.id] = time.monotonic()
        if body is not None:
            await body(run)
        return {}

    registry, stop = WorkflowRegistry(), asyncio.Event()
    registry.add("w", workflow)
    working = asyncio.create_task(Executor(database, registry, "w1", Scope(), **options).run_until(stop))
    try:
        yield lambda run: began.get(run, 0.0)
    finally:
        stop.set()
        await working


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


async def first_claimed(began: Callable[[str], float], runs: Runs) -> None:
    """Return once the executor listens and has nothing to do."""
    run = runs.submit(DEV, "w", {})
    await until(lambda: runs.get(DEV, run).status == "succeeded")


async def test_a_run_that_another_process_submits_begins_at_once(database: Database, other: Database) -> None:
    runs, waits = Runs(other), list[float]()
    async with executor(database, poll=NEVER) as began:
        await first_claimed(began, runs)
        for _ in range(5):
            await asyncio.sleep(0.05)  # Long enough that it waits again.
            submitted = time.monotonic()
            run = await asyncio.to_thread(runs.submit, DEV, "w", {})
            await until(lambda run=run: began(run))
            waits.append(began(run) - submitted)
    assert min(waits) < AT_ONCE, waits


async def test_a_run_begins_at_the_moment_that_it_waits_for(database: Database, other: Database) -> None:
    runs = Runs(other)
    async with executor(database, poll=NEVER) as began:
        await first_claimed(began, runs)
        submitted = time.monotonic()
        run = runs.submit(DEV, "w", {}, not_before=other.clock.now() + timedelta(seconds=0.4))
        await until(lambda: began(run))
        assert 0.35 <= began(run) - submitted < 2


async def test_the_run_of_a_dead_worker_is_taken_over_when_its_lease_ends(database: Database, other: Database) -> None:
    runs = Runs(other)
    async with executor(database, poll=NEVER) as began:
        await first_claimed(began, runs)
        run = runs.submit(Scope(environment="prod"), "w", {})  # Claimed by a worker that dies, in no executor's way.
        assert runs.claim("dead", ServedRuns("prod"), timedelta(seconds=0.4)) is not None
    registry, stop, done = WorkflowRegistry(), asyncio.Event(), asyncio.Event()

    async def workflow(context: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        done.set()
        return {}

    registry.add("w", workflow)
    working = asyncio.create_task(
        Executor(database, registry, "w2", Scope(environment="prod"), poll=NEVER).run_until(stop)
    )
    async with asyncio.timeout(5):
        await done.wait()
    stop.set()
    await working
    assert runs.get(Scope(environment="prod"), run).attempts == 2


async def test_a_failed_attempt_is_tried_again_after_its_backoff(database: Database) -> None:
    runs, attempts = Runs(database), list[float]()

    async def fail_once(run: RunContext) -> None:
        attempts.append(time.monotonic())
        if len(attempts) == 1:
            raise RuntimeError("once")

    async with executor(database, fail_once, poll=NEVER, backoff=timedelta(seconds=0.3)):
        run = runs.submit(DEV, "w", {})
        await until(lambda: runs.get(DEV, run).status == "succeeded")
    assert 0.25 <= attempts[1] - attempts[0] < 3


async def test_a_cancelled_run_stops_at_once(database: Database, other: Database) -> None:
    runs = Runs(other)

    async def forever(run: RunContext) -> None:
        await asyncio.sleep(NEVER)

    async def ended(run: str) -> Run:
        await until(lambda: runs.get(DEV, run).status == "cancelled")
        return runs.get(DEV, run)

    async with executor(database, forever, poll=NEVER) as began:
        took = []
        for _ in range(3):
            run = runs.submit(DEV, "w", {})
            await until(lambda run=run: began(run))
            cancelled = time.monotonic()
            await asyncio.to_thread(runs.cancel, DEV, run)
            await ended(run)
            took.append(time.monotonic() - cancelled)
    assert min(took) < 0.5, took  # A heartbeat comes once a second.


async def test_rings_that_are_lost_are_made_up_for_by_the_poll(
    database: Database, other: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(other.doorbell, "committed", lambda names: None)
    monkeypatch.setattr(other.backend.channel, "notify", lambda connection, names: None)
    runs = Runs(other)
    async with executor(database, poll=0.3) as began:
        took = []
        for _ in range(4):
            submitted = time.monotonic()
            run = runs.submit(DEV, "w", {})
            await until(lambda run=run: began(run))
            took.append(began(run) - submitted)
            await asyncio.sleep(0.05)
    assert max(took) < 2
    assert max(took) > AT_ONCE, "it was not the poll"
