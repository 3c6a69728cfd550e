"""Classes of work have slots of their own: one that hangs, or whose queue is long, keeps no other waiting."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from tests.unit.catalog.examples import DEV, open_database

from antiphon.catalog.database import Database
from antiphon.catalog.run_holds import RunHold, RunHolds
from antiphon.core.settings_processes import SlotSettings
from antiphon.durable.claims import ServedRuns, claimable, next_moments
from antiphon.durable.context import RunContext
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.policy import WorkflowPolicy
from antiphon.durable.runs import Runs
from antiphon.services.workflows import GATES, OPENAI_BATCH, POLICIES

SLOTS = {"refresh": 2, "training": 1, "batch": 1}
LEASE = timedelta(seconds=10)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(tmp_path)
    yield opened
    opened.close()


class Began:
    """A worker whose trainings hang, and the runs that began, in order."""

    def __init__(self, database: Database, slots: dict[str, int] | None) -> None:
        self.runs, self.began, self.changed = Runs(database), list[str](), asyncio.Condition()
        registry = WorkflowRegistry()
        registry.add("train", self._hang, WorkflowPolicy("training"))
        registry.add("refresh", self._end, WorkflowPolicy("refresh"))
        registry.add("rows", self._end, WorkflowPolicy("batch"))
        registry.add("apply", self._end)
        self._executor = Executor(database, registry, "w", DEV, slots=slots, concurrency=4, poll=60.0, grace=0.0)

    async def _note(self, run: RunContext) -> None:
        async with self.changed:
            self.began.append(run.workflow)
            self.changed.notify_all()

    async def _hang(self, run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        await self._note(run)
        await asyncio.Event().wait()
        return {}

    async def _end(self, run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        await self._note(run)
        return {}

    async def until(self, workflow: str, times: int = 1) -> None:
        async with asyncio.timeout(20), self.changed:
            await self.changed.wait_for(lambda: self.began.count(workflow) >= times)

    async def __aenter__(self) -> Began:
        self._stop = asyncio.Event()
        self._working = asyncio.create_task(self._executor.run_until(self._stop))
        return self

    async def __aexit__(self, *error: object) -> None:
        self._stop.set()
        await self._working


async def test_trainings_that_hang_keep_no_refresh_waiting(database: Database) -> None:
    async with Began(database, SLOTS) as worker:
        for number in range(50):
            worker.runs.submit(DEV, "train", {"number": number})
        await worker.until("train")
        for number in range(5):
            worker.runs.submit(DEV, "refresh", {"number": number})
            await worker.until("refresh", number + 1)  # Nothing but its ring wakes the worker within the timeout.
    assert worker.began.count("train") == 1


async def test_a_limit_gives_back_what_is_under_way_and_lets_no_more_begin_until_it_ends(database: Database) -> None:
    runs, holds, now = Runs(database), RunHolds(database), database.clock.now()
    limit = RunHold("l1", "limit", "l1", ("train",), now, now + timedelta(hours=1), "users wait", "ada", 1)
    async with Began(database, SLOTS | {"training": 3}) as worker:
        for number in range(4):
            runs.submit(DEV, "train", {"number": number})
        await worker.until("train", 3)
        holds.add(DEV, limit)
        await under_way(runs, 1)
        runs.submit(DEV, "train", {"number": 4})
        runs.submit(DEV, "refresh", {})
        await worker.until("refresh")
        (left,) = (run for run in runs.under_way(DEV) if run.workflow == "train")
        assert worker.began.count("train") == 3
        runs.cancel(DEV, left.id)
        await worker.until("train", 4)  # The slot that it left is rung for.
        await under_way(runs, 1)
        holds.end(DEV, "l1")
        await under_way(runs, 3)


async def under_way(runs: Runs, number: int) -> None:
    async with asyncio.timeout(20):
        while len(runs.under_way(DEV)) != number:
            await asyncio.sleep(0.02)


async def test_without_slots_of_their_own_classes_share_what_there_is(database: Database) -> None:
    async with Began(database, None) as worker:
        for number in range(5):
            worker.runs.submit(DEV, "train", {"number": number})
        await worker.until("train", 4)
        worker.runs.submit(DEV, "refresh", {})
    assert worker.began == ["train"] * 4


async def test_a_class_that_is_not_named_has_the_default_of_slots(database: Database) -> None:
    async with Began(database, {"training": 1}) as worker:
        worker.runs.submit(DEV, "train", {})
        worker.runs.submit(DEV, "apply", {})
        await worker.until("apply")


async def test_a_long_queue_of_short_runs_keeps_no_other_class_waiting(database: Database) -> None:
    """Its slots are free whenever the worker looks, and its runs are the oldest."""
    runs = Runs(database)
    for number in range(40):
        runs.submit(DEV, "rows", {"number": number})
    for number in range(3):
        runs.submit(DEV, "refresh", {"number": number})
    async with Began(database, {"batch": 100, "refresh": 100}) as worker:
        await worker.until("rows", 40)
    assert worker.began[:6].count("refresh") == 3


@pytest.mark.parametrize("statement", [claimable, next_moments])
def test_runs_that_have_ended_and_other_workflows_are_not_gone_through(database: Database, statement: Any) -> None:
    """A look would otherwise take longer with every run that there ever was."""
    plans: list[str] = []
    asked: list[tuple[str, Any]] = []
    sa.event.listen(database.backend.engine, "before_cursor_execute", lambda *told: asked.append((told[2], told[3])))
    values: dict[str, Any] = {"now": database.clock.now()} | ({"held": []} if statement is claimable else {})
    with database.read() as connection:
        connection.execute(statement(ServedRuns("dev", ("refresh", "train"), "default")), values).all()
        text, parameters = next(one for one in asked if "FROM runs" in one[0])
        plans += [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", parameters)]
    of_runs = {re.sub(r"runs_\d", "runs", line) for line in plans if line.startswith(("SEARCH runs", "SCAN runs"))}
    assert of_runs
    assert of_runs <= {
        "SEARCH runs USING INDEX ix_runs_held (environment=? AND lease_until<?)",
        "SEARCH runs USING INDEX ix_runs_held (environment=? AND lease_until>?)",
        "SEARCH runs USING INDEX ix_runs_claimable (status=? AND workflow=? AND environment=? AND not_before<?)",
        "SEARCH runs USING INDEX ix_runs_claimable (status=? AND workflow=? AND environment=?)",
        "SEARCH runs USING INDEX ix_runs_valued (environment=? AND not_before<?)",
    }


def test_every_workflow_of_the_worker_has_slots() -> None:
    """Gates and batches of OpenAI's API have executors of their own."""
    slots = SlotSettings().by_work
    assert {policy.work for name, policy in POLICIES.items() if name not in (GATES, OPENAI_BATCH)} == set(slots)


def test_a_run_whose_lease_is_over_is_claimed_in_its_turn(database: Database) -> None:
    runs = Runs(database)
    old = runs.submit(DEV, "train", {})
    assert runs.claim("gone", ServedRuns("dev"), LEASE) is not None
    runs.reclaim("gone", "dev")
    runs.submit(DEV, "refresh", {})
    served = ServedRuns("dev", ("train", "refresh"), "default")
    # Whatever workflow is next, what another worker left is as old as it is.
    found = runs.claim("w", served, LEASE, turn=lambda waiting: {"refresh"} & waiting)
    assert found is not None
    assert (found.id, found.attempts) == (old, 2)
