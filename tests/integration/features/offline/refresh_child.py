"""A worker process for the kill test: runs queued refreshes until so many have ended."""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from pathlib import Path

from tests.integration.features.desk import specs
from tests.integration.features.world import World

from antiphon.core.clock import SystemClock
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.run import ENDED
from antiphon.durable.runs import Runs
from antiphon.features.offline.refresh import WORKFLOW


async def work(folder: Path, wanted: int) -> None:
    world = World(folder, *specs(folder / "departures.parquet"))
    registry = WorkflowRegistry()
    registry.add(WORKFLOW, world.refresher.refresh)
    clock = SystemClock()
    runs = Runs(world.database, clock)
    stop = asyncio.Event()
    executor = Executor(
        world.database,
        registry,
        "worker-1",
        world.scope,
        clock,
        concurrency=1,
        lease=timedelta(seconds=2),
        poll=0.02,
    )
    working = asyncio.create_task(executor.run_until(stop))
    while sum(run.status in ENDED for run in runs.list(world.scope)) < wanted:
        await asyncio.sleep(0.02)
    stop.set()
    await working
    world.close()


if __name__ == "__main__":
    asyncio.run(work(Path(sys.argv[1]), int(sys.argv[2])))
