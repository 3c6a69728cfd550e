"""A worker with a part that fails at once: runs, streams and schedules go on, and the status says what is broken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.harness.gated_project import GatedProject
from tests.integration.services.test_gate_runs import obeys
from tests.integration.services.test_schedules import BRIEFING, conducting, replies

from antiphon.catalog.process_leases import ProcessLeases
from antiphon.core.clock import ManualClock
from antiphon.durable.claims import WORKERS
from antiphon.durable.context import RunContext
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.orchestration.duties import Duties, LeaseHolder
from antiphon.orchestration.restarted_parts import BrokenParts, RestartedPart
from antiphon.orchestration.streams import StreamPoller
from antiphon.orchestration.worker import WorkerPart, work
from antiphon.services.runs import ProjectRuns
from antiphon.services.workflows import TABLE_JOB

SCHEDULED = replies(BRIEFING.replace("settle=", 'name="briefing", settle='))


class FaultyPart:
    """Fails whenever it begins."""

    async def run_until(self, stop: asyncio.Event) -> None:
        raise RuntimeError("broken")


@pytest.fixture
async def project(tmp_path: Path) -> AsyncIterator[GatedProject]:
    made = GatedProject(tmp_path, obeys, "dev")
    (tmp_path / "questions.jsonl").write_text('{"question": "Where is my order?"}\n')
    made.store.database.clock = ManualClock(datetime(2026, 6, 1, 12, tzinfo=UTC))
    yield made
    await made.close()


async def test_runs_streams_and_schedules_go_on_beside_a_part_that_fails_at_once(project: GatedProject) -> None:
    project.apply(SCHEDULED)
    store, polled, done = project.store, list[int](), list[str]()
    look, _ = conducting(project)

    async def job(run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        done.append(run.id)
        return {}

    registry, broken, stop = WorkflowRegistry(), BrokenParts(), asyncio.Event()
    registry.add(TABLE_JOB, job)
    executor = Executor(store.database, registry, "worker", project.scope, poll=0.02)
    streams = StreamPoller(lambda limit: polled.append(limit) or 0, poll=0.01, batch=1)  # type: ignore[func-returns-value]
    leases = ProcessLeases(store.database, project.scope.environment)
    held = partial(Duties, holder=LeaseHolder(leases, "process", lambda other: False, seconds=0.3))
    parts = [RestartedPart(one, broken, first=0.01) for one in (FaultyPart(), executor, streams, look)]
    workers: list[WorkerPart] = [held(f"{WORKERS}{project.scope.tenant}/w", parts, detail=broken.detail)]
    service = ProjectRuns(store, project.wired.features)

    async def until(condition: Any) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.01)

    working = asyncio.create_task(work(workers, stop))
    try:
        # The lease is renewed with what is broken, and failures go on.
        await until(lambda: any(one.failures > 2 for one in service.broken(project.scope)))
        polls, first = len(polled), store.runs.submit(project.scope, TABLE_JOB, {"n": 1})
        await until(lambda: first in done and len(polled) > polls)
        clock = store.database.clock
        assert isinstance(clock, ManualClock)
        clock.advance(timedelta(hours=1))
        # The conductor sleeps by the wall clock; it looks again when it is rung, as for what was applied.
        with store.database.transaction():
            store.database.ring("features", project.scope)
        await until(lambda: len(done) == 2)
        # A run may be faster than the note of who ordered it.
        await until(lambda: [run.id for run in store.runs.list(project.scope, schedule="briefing")] == done[1:])
    finally:
        stop.set()
        await asyncio.wait_for(working, 20)
