"""After a freeze work is taken up little by little, also by a real executor."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.unit.catalog.examples import DEV, NOON, open_database

from antiphon.catalog.database import Database
from antiphon.catalog.run_holds import RunHold, RunHolds
from antiphon.core.clock import ManualClock
from antiphon.durable import executor, ramp
from antiphon.durable.context import RunContext
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.ramp import RAMP_SECONDS, RUN_SECONDS, Ramp
from antiphon.durable.runs import Runs

HOUR = timedelta(hours=1)


def frozen(name: str, minutes: float, *workflows: str) -> RunHold:
    return RunHold(name, "freeze", name, workflows, NOON - HOUR, NOON + timedelta(minutes=minutes), "the launch", "ada")


def test_one_more_run_may_be_under_way_for_every_few_seconds(database: Database, clock: ManualClock) -> None:
    holds = RunHolds(database)
    holds.add(DEV, frozen("f1", 0, "train", "evaluate"))
    found = Ramp(holds, DEV, clock)
    found.read()
    assert found.waiting(()) == frozenset()
    assert found.waiting(("train",)) == {"train", "evaluate"}
    assert found.waiting(("refresh",)) == frozenset()
    clock.advance(timedelta(seconds=RUN_SECONDS))
    assert found.waiting(("train",)) == frozenset()
    assert found.waiting(("train", "evaluate")) == {"train", "evaluate"}
    clock.advance(timedelta(seconds=RAMP_SECONDS))
    assert found.waiting(("train",) * 9) == frozenset()
    assert Ramp.after("train", holds.list(DEV, NOON - HOUR), clock.now()) is None


def test_only_the_last_of_several_holds_counts(database: Database, clock: ManualClock) -> None:
    holds = RunHolds(database)
    holds.add(DEV, frozen("f1", -0.2, "train"))
    holds.add(DEV, frozen("f2", 5, "train"))
    found = Ramp(holds, DEV, clock)
    found.read()
    assert found.waiting(("train",)) == frozenset()  # It is held still: the claim sees to that.
    clock.advance(timedelta(minutes=5))
    found.read()
    assert found.waiting(("train",)) == {"train"}
    known = holds.list(DEV, NOON - HOUR)
    last = Ramp.after("train", known, clock.now())
    assert last is not None
    assert last.id == "f2"


async def test_an_executor_begins_what_a_freeze_held_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = open_database(tmp_path)
    monkeypatch.setattr(ramp, "RUN_SECONDS", 0.4)
    monkeypatch.setattr(executor, "LOOK_SECONDS", 0.05)
    runs, holds = Runs(database), RunHolds(database)
    now = database.clock.now()
    holds.add(DEV, RunHold("f1", "freeze", "f1", ("train",), now - HOUR, now + HOUR, "the launch", "ada"))
    for _ in range(4):
        runs.submit(DEV, "train", {})
    loop, stop, begun, go = asyncio.get_running_loop(), asyncio.Event(), list[float](), asyncio.Event()

    async def work(run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        begun.append(loop.time())
        await go.wait()
        return {}

    registry = WorkflowRegistry()
    registry.add("train", work)
    async with asyncio.timeout(20):
        working = asyncio.create_task(Executor(database, registry, "w", DEV, poll=0.05).run_until(stop))
        await asyncio.sleep(0.2)
        assert begun == []
        holds.end(DEV, "f1")
        while len(begun) < 4:
            await asyncio.sleep(0.01)
        go.set()
        stop.set()
        await working
    assert begun[3] - begun[0] >= 1.0
