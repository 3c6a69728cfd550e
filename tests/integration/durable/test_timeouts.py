"""Attempts and steps with a bound on their time, and threads that hang."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.integration.durable.test_executor import Body
from tests.unit.catalog.examples import DEV, NOON, open_database

from antiphon.catalog.database import Database
from antiphon.core.clock import ManualClock
from antiphon.durable.attempts import RunAttempts
from antiphon.durable.claims import ServedRuns
from antiphon.durable.context import RunContext
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.policy import WorkflowPolicy
from antiphon.durable.run import ENDED, Run, StepUnderWay
from antiphon.durable.runs import Runs

SOON = timedelta(milliseconds=1)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(tmp_path)
    yield opened
    opened.close()


@asynccontextmanager
async def worker(database: Database, workflow: Body, policy: WorkflowPolicy, **options: Any) -> AsyncIterator[Runs]:
    registry, stop = WorkflowRegistry(), asyncio.Event()

    async def call(run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        return await workflow(run)

    registry.add("w", call, policy)
    options = {"poll": 0.01, "grace": 0.0} | options
    task = asyncio.create_task(Executor(database, registry, "w1", DEV, **options).run_until(stop))
    try:
        yield Runs(database)
    finally:
        stop.set()
        await task


async def ended(runs: Runs, run: str) -> Run:
    async with asyncio.timeout(20):
        while (found := runs.get(DEV, run)).status not in ENDED:
            await asyncio.sleep(0.005)
    return found


async def test_an_attempt_that_takes_too_long_is_cancelled_and_tried_again(database: Database) -> None:
    cancelled = list[int]()

    async def workflow(run: RunContext) -> dict[str, Any]:
        async def hang() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(run.attempt)

        await run.step("read", lambda: 1)
        await run.step("hang", hang)
        return {}

    policy = WorkflowPolicy(attempts=2, first_wait=SOON, timeout=timedelta(seconds=0.15))
    async with worker(database, workflow, policy) as runs:
        run = await ended(runs, runs.submit(DEV, "w", {}))
    assert cancelled == [1, 2]
    assert (run.status, run.attempts, run.max_attempts) == ("failed", 2, 2)
    assert run.error is not None
    assert run.error.startswith("The attempt took longer than 0.15 s.")
    attempts = RunAttempts(database).list(DEV, run.id)
    assert [(one.outcome, one.under_way) for one in attempts] == [("failed", (StepUnderWay("hang"),))] * 2


async def test_a_step_has_a_bound_of_its_own(database: Database) -> None:
    cancelled = list[int]()

    async def workflow(run: RunContext) -> dict[str, Any]:
        async def hang() -> str:
            if run.attempt == 2:
                return "ended"
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(run.attempt)
            return ""

        return {"of": await run.step("hang", hang, timeout=0.05)}

    async with worker(database, workflow, WorkflowPolicy(first_wait=SOON)) as runs:
        run = await ended(runs, runs.submit(DEV, "w", {}))
    assert (run.status, run.result, cancelled) == ("succeeded", {"of": "ended"}, [1])
    (attempt,) = RunAttempts(database).list(DEV, run.id)
    assert (attempt.error, attempt.under_way) == ("Step 'hang' took longer than 0.05 s.", (StepUnderWay("hang"),))


async def test_a_timeout_that_a_step_raises_is_its_own(database: Database) -> None:
    def fail() -> None:
        raise TimeoutError

    async def workflow(run: RunContext) -> dict[str, Any]:
        await run.step("ask", fail, timeout=20)
        return {}

    async with worker(database, workflow, WorkflowPolicy(attempts=1)) as runs:
        run = await ended(runs, runs.submit(DEV, "w", {}))
    assert run.error is not None
    assert run.error.startswith("TimeoutError")


async def test_what_a_thread_computes_past_its_bound_is_dropped(database: Database) -> None:
    release, left = threading.Event(), threading.Event()

    def hang() -> str:
        release.wait(20)
        left.set()
        return "late"

    async def workflow(run: RunContext) -> dict[str, Any]:
        await run.step("hang", hang, timeout=0.05)
        return {}

    async with worker(database, workflow, WorkflowPolicy(attempts=1)) as runs:
        run = await ended(runs, runs.submit(DEV, "w", {}))
        release.set()
        assert await asyncio.to_thread(left.wait, 20)
    assert run.status == "failed"
    assert Runs(database).steps(DEV, run.id) == []


async def test_steps_that_hang_in_threads_take_none_from_heartbeats_and_claims(database: Database) -> None:
    """The event loop's own pool has fewer threads than hang here."""
    release, hanging = threading.Event(), 40
    begun = threading.Semaphore(0)

    def hang() -> int:
        begun.release()
        release.wait(20)
        return 1

    async def workflow(run: RunContext) -> dict[str, Any]:
        return {"of": await run.step("hang", hang)}

    lease = timedelta(seconds=2)
    async with worker(database, workflow, WorkflowPolicy(), concurrency=hanging + 1, lease=lease, grace=20.0) as runs:
        made = [runs.submit(DEV, "w", {"number": number}) for number in range(hanging)]
        for _ in made:
            assert await asyncio.to_thread(begun.acquire, timeout=20)
        leases = {runs.get(DEV, run).lease_until for run in made}
        async with asyncio.timeout(20):  # Every lease is extended while all of them hang.
            while leases & {runs.get(DEV, run).lease_until for run in made}:
                await asyncio.sleep(0.05)
        release.set()
        found = [await ended(runs, run) for run in made]
    assert {(run.status, run.attempts) for run in found} == {("succeeded", 1)}


async def test_attempts_are_those_of_the_policy_unless_an_order_says_otherwise(database: Database) -> None:
    async def workflow(run: RunContext) -> dict[str, Any]:
        raise ZeroDivisionError

    async with worker(database, workflow, WorkflowPolicy(attempts=3, first_wait=SOON)) as runs:
        by_policy = await ended(runs, runs.submit(DEV, "w", {}))
        by_order = await ended(runs, runs.submit(DEV, "w", {}, max_attempts=2))
    assert (by_policy.attempts, by_policy.max_attempts, by_order.attempts) == (3, 3, 2)


def test_waits_double_up_to_the_longest() -> None:
    policy = WorkflowPolicy(first_wait=timedelta(seconds=2), longest_wait=timedelta(seconds=9))
    assert [policy.wait_after(attempt).total_seconds() for attempt in (1, 2, 3, 4, 1_000)] == [2, 4, 8, 9, 9]


async def test_a_thread_that_looks_is_told_when_its_step_is_over(database: Database) -> None:
    ended_threads = list[int]()

    async def workflow(run: RunContext) -> dict[str, Any]:
        stop = threading.Event()

        def hang() -> None:
            assert stop.wait(20)
            ended_threads.append(run.attempt)

        await run.step("hang", hang, timeout=0.05, stop=stop)
        return {}

    async with worker(database, workflow, WorkflowPolicy(attempts=2, first_wait=SOON)) as runs:
        run = await ended(runs, runs.submit(DEV, "w", {}))
        async with asyncio.timeout(20):
            while len(ended_threads) < 2:
                await asyncio.sleep(0.005)
    assert run.status == "failed"
    assert ended_threads == [1, 2]


async def test_steps_that_run_for_long_are_stoppable_if_all_of_them_look(database: Database) -> None:
    runs, clock = Runs(database), ManualClock(NOON)
    runs.submit(DEV, "w", {})
    found = runs.claim("w1", ServedRuns("dev"), timedelta(minutes=1))
    assert found is not None
    run, stop, begun = RunContext(found, runs, clock, {}), threading.Event(), threading.Barrier(2)

    def hang() -> None:
        begun.wait(20)
        stop.wait(20)

    assert not run.stoppable(1.0)
    looking = asyncio.create_task(run.step("looks", hang, stop=stop))
    await asyncio.to_thread(begun.wait, 20)
    assert not run.stoppable(1.0)
    clock.advance(timedelta(seconds=2))
    assert run.stoppable(1.0)
    other = asyncio.create_task(run.step("does not look", hang))
    await asyncio.to_thread(begun.wait, 20)
    clock.advance(timedelta(seconds=2))
    assert not run.stoppable(1.0)
    stop.set()
    await asyncio.gather(looking, other)
    assert not run.stoppable(1.0)
