from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.unit.catalog.examples import DEV, open_database

from antiphon.catalog.database import Database
from antiphon.core.errors import (
    AntiphonError,
    ConflictError,
    CorruptionError,
    InvalidInputError,
    NotFoundError,
    OverloadedError,
    UnavailableError,
    WriteConflictError,
)
from antiphon.durable.attempts import RunAttempts
from antiphon.durable.claims import ServedRuns
from antiphon.durable.context import RunContext
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.run import ENDED, Run, RunResult, RunStatus, StepUnderWay
from antiphon.durable.runs import Runs

Body = Callable[[RunContext], Awaitable[dict[str, Any]]]
RunToEnd = Callable[..., Awaitable[Run]]


@asynccontextmanager
async def working(database: Database, *, workflow: Body, **options: Any) -> AsyncIterator[RunToEnd]:
    """An executor that knows one workflow; yields a function that submits a run and waits until it ended."""
    registry, runs, stop = WorkflowRegistry(), Runs(database), asyncio.Event()

    async def call(run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        return await workflow(run)

    registry.add("w", call)
    options = {"poll": 0.01, "backoff": timedelta(milliseconds=10)} | options
    task = asyncio.create_task(Executor(database, registry, "w1", DEV, **options).run_until(stop))

    async def run_to_end(**submit: Any) -> Run:
        run = runs.submit(DEV, "w", {}, **submit)
        async with asyncio.timeout(20):
            while runs.get(DEV, run).status not in ENDED:
                await asyncio.sleep(0.005)
        return runs.get(DEV, run)

    try:
        yield run_to_end
    finally:
        stop.set()
        await task


@pytest.fixture
def database(tmp_path: Path) -> Any:
    opened = open_database(tmp_path)
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("status", "error"), [("succeeded_with_failures", None), ("failed", "Its file is gone."), ("cancelled", None)]
)
async def test_a_result_may_say_how_its_run_ends(database: Database, status: RunStatus, error: str | None) -> None:
    async def workflow(run: RunContext) -> dict[str, Any]:
        return RunResult({"failed": 1}, status, error)

    async with working(database, workflow=workflow) as run_to_end:
        run = await run_to_end()
    assert (run.status, run.result, run.error, run.attempts) == (status, {"failed": 1}, error, 1)


async def test_steps_are_recorded_and_progress_is_kept(database: Database) -> None:
    async def doubled(number: int) -> tuple[int, int]:
        return number, number * 2

    async def workflow(run: RunContext) -> dict[str, Any]:
        first = await run.step("sync", lambda a, b: {"sum": a + b}, 1, 2)
        second = await run.step("async", doubled, 3)
        run.progress(1, 2, "half")
        run.progress(2, 2, "all")
        return {"first": first, "second": second, "attempt": run.attempt}

    async with working(database, workflow=workflow) as run_to_end:
        run = await run_to_end()
    # A tuple comes back as JSON reads it, the first time as well.
    assert run.result == {"first": {"sum": 3}, "second": [3, 6], "attempt": 1}
    assert (run.status, run.done, run.total, run.note, run.worker) == ("succeeded", 2, 2, "all", None)
    assert [(step.name, step.result) for step in Runs(database).steps(DEV, run.id)] == [
        ("sync", {"sum": 3}),
        ("async", [3, 6]),
    ]


async def test_a_failure_is_retried_and_recorded_steps_are_not(database: Database) -> None:
    calls = {"before": 0, "flaky": 0}

    def count(name: str) -> int:
        calls[name] += 1
        if name == "flaky" and calls[name] < 3:
            raise UnavailableError("The engine is away.")
        return calls[name]

    async def workflow(run: RunContext) -> dict[str, Any]:
        return {"before": await run.step("before", count, "before"), "flaky": await run.step("flaky", count, "flaky")}

    async with working(database, workflow=workflow) as run_to_end:
        run = await run_to_end()
    assert run.result == {"before": 1, "flaky": 3}
    assert run.attempts == 3


async def test_what_the_caller_did_wrong_is_not_retried(database: Database) -> None:
    async def workflow(run: RunContext) -> dict[str, Any]:
        raise InvalidInputError("There is no such view.", next_step="Name another.")

    async with working(database, workflow=workflow) as run_to_end:
        run = await run_to_end()
    assert (run.status, run.attempts, run.error) == ("failed", 1, "There is no such view. Name another.")


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (WriteConflictError("Another publication came first."), 3),
        (ConflictError("The batch is completed."), 1),
        (OverloadedError("256 questions wait."), 3),
        (OverloadedError("The prompt is larger than the quota.", retry_after=float("inf")), 1),
        (CorruptionError("The file is damaged."), 3),
    ],
)
async def test_what_may_pass_is_retried(database: Database, error: AntiphonError, attempts: int) -> None:
    async def workflow(run: RunContext) -> dict[str, Any]:
        raise error

    async with working(database, workflow=workflow) as run_to_end:
        run = await run_to_end(max_attempts=3)
    assert (run.status, run.attempts, run.error) == ("failed", attempts, error.what)


async def test_a_run_fails_after_its_attempts_and_says_why(database: Database) -> None:
    async def workflow(run: RunContext) -> dict[str, Any]:
        raise ZeroDivisionError("by zero")

    async with working(database, workflow=workflow) as run_to_end:
        run = await run_to_end(max_attempts=2)
    assert (run.status, run.attempts, run.error) == ("failed", 2, "ZeroDivisionError: (its message is withheld)")


async def test_an_attempt_keeps_its_error_and_the_step_at_which_it_failed(database: Database) -> None:
    def fail(*_: object) -> None:
        raise UnavailableError("The engine is away.")

    async def workflow(run: RunContext) -> dict[str, Any]:
        await run.step("read", lambda: 1)
        with pytest.raises(UnavailableError):
            await run.step("tolerated", fail)
        if run.attempt == 1:
            await run.step("ask", fail)
        await run.step("ask", lambda: 1)
        await run.transaction("publish", fail)
        return {}

    async with working(database, workflow=workflow) as run_to_end:
        run = await run_to_end(max_attempts=2)
    found = RunAttempts(database).list(DEV, run.id)
    assert [(one.attempt, one.under_way, one.error, one.worker) for one in found] == [
        (1, (StepUnderWay("ask"),), "The engine is away.", "w1"),
        (2, (StepUnderWay("publish", 0, True),), "The engine is away.", "w1"),
    ]
    assert run.under_way == (StepUnderWay("publish", 0, True),)


async def test_the_steps_under_way_are_shown_while_they_run(database: Database) -> None:
    release, runs = asyncio.Event(), Runs(database)

    async def workflow(run: RunContext) -> dict[str, Any]:
        await asyncio.gather(run.step("a", release.wait), run.step("b", release.wait))
        return {}

    async with working(database, workflow=workflow, lease=timedelta(milliseconds=300)) as run_to_end:
        ending = asyncio.create_task(run_to_end())
        async with asyncio.timeout(20):
            while not (shown := [step.name for run in runs.list(DEV) for step in run.under_way]):
                await asyncio.sleep(0.01)
        release.set()
        run = await ending
    assert shown == ["a", "b"]
    assert run.under_way == ()


@pytest.mark.parametrize("where", ["step", "result"])
async def test_what_is_no_json_fails_the_run_clearly(database: Database, where: str) -> None:
    async def workflow(run: RunContext) -> dict[str, Any]:
        if where == "step":
            await run.step("object", object)
        return {"value": object()}

    async with working(database, workflow=workflow) as run_to_end:
        run = await run_to_end()
    assert (run.status, run.attempts) == ("failed", 1)
    assert run.error is not None
    assert "no JSON" in run.error


async def test_a_worker_that_slept_past_its_lease_goes_on_with_its_run(database: Database) -> None:
    """Its look for work may come before its heartbeat; what it claimed from itself would run twice here."""
    began: list[int] = []

    async def workflow(run: RunContext) -> dict[str, Any]:
        began.append(run.attempt)
        for _ in range(5):
            assert Runs(database).reclaim("w1", DEV.environment) == 1  # the lease is over, and it rings
            await asyncio.sleep(0.2)
        return {}

    async with working(database, workflow=workflow, lease=timedelta(seconds=0.3)) as run_to_end:
        run = await run_to_end()
    assert (run.status, run.attempts, began) == ("succeeded", 1, [1])


async def test_a_cancelled_run_stops(database: Database) -> None:
    runs, started, stopped = Runs(database), asyncio.Event(), asyncio.Event()

    async def workflow(run: RunContext) -> dict[str, Any]:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        return {}

    async with working(database, workflow=workflow, lease=timedelta(milliseconds=300)) as run_to_end:
        ending = asyncio.create_task(run_to_end())
        await started.wait()
        runs.cancel(DEV, runs.list(DEV)[0].id)
        run = await ending
    assert run.status == "cancelled"
    assert stopped.is_set()


async def test_stopping_lets_the_step_in_flight_finish_and_gives_the_run_back(database: Database) -> None:
    runs, entered, release = Runs(database), threading.Event(), threading.Event()
    registry, stop = WorkflowRegistry(), asyncio.Event()

    def slow() -> str:
        entered.set()
        release.wait(20)
        return "finished"

    under_way: list[RunContext] = []

    async def workflow(run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        under_way.append(run)
        await run.step("slow", slow)
        await run.step("never", lambda: pytest.fail("a step began after the stop"))
        return {}

    registry.add("w", workflow)
    run = runs.submit(DEV, "w", {})
    task = asyncio.create_task(Executor(database, registry, "w1", DEV, poll=0.01).run_until(stop))
    await asyncio.to_thread(entered.wait, 20)
    stop.set()
    while not under_way[0].stopping:  # A step that ends before the executor has seen it is followed by the next.
        await asyncio.sleep(0)
    release.set()
    await task
    given_back = runs.get(DEV, run)
    assert (given_back.status, given_back.attempts, given_back.worker) == ("queued", 0, None)
    assert [(step.name, step.result) for step in runs.steps(DEV, run)] == [("slow", "finished")]


async def test_a_worker_runs_only_what_it_knows(database: Database) -> None:
    runs = Runs(database)
    unknown = runs.submit(DEV, "unknown", {})

    async def workflow(run: RunContext) -> dict[str, Any]:
        return {}

    async with working(database, workflow=workflow) as run_to_end:
        await run_to_end()
    assert runs.get(DEV, unknown).status == "queued"


async def test_runs_are_worked_on_side_by_side_up_to_the_limit(database: Database) -> None:
    together, most = 0, 0

    async def workflow(run: RunContext) -> dict[str, Any]:
        nonlocal together, most
        together += 1
        most = max(most, together)
        await asyncio.sleep(0.05)
        together -= 1
        return {}

    async with working(database, workflow=workflow, concurrency=2) as run_to_end:
        await asyncio.gather(*(run_to_end() for _ in range(5)))
    assert most == 2


def test_a_workflows_name_is_taken_once() -> None:
    registry = WorkflowRegistry()

    async def workflow(run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        return {}

    registry.add("w", workflow)
    assert registry.served(DEV) == ServedRuns("dev", ("w",), "default")
    assert registry.get("w") is workflow
    with pytest.raises(ConflictError):
        registry.add("w", workflow)
    with pytest.raises(NotFoundError):
        registry.get("v")
