"""A worker process for the kill test of backfills: notes in a file which partitions it began to compute."""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.integration.features.desk import specs
from tests.integration.features.world import World

from antiphon.core.clock import SystemClock
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.run import ENDED
from antiphon.durable.runs import Runs
from antiphon.features.offline import refresh
from antiphon.features.offline.backfill import WORKFLOW, Backfiller
from antiphon.features.offline.materialize import Materialization, materialize


async def work(folder: Path) -> None:
    world = World(folder, *specs(folder / "departures.parquet"))

    def noted(request: Materialization, **options: Any) -> Any:
        with (folder / "begun.txt").open("a") as begun:
            begun.write(f"{request.spec.name} {request.as_of.isoformat()}\n")
        return materialize(request, **options)

    refresh.materialize = noted  # type: ignore[attr-defined]
    registry = WorkflowRegistry()
    registry.add(WORKFLOW, Backfiller(world.catalog, world.refresher).backfill)
    clock, stop = SystemClock(), asyncio.Event()
    runs = Runs(world.database, clock)
    executor = Executor(world.database, registry, "worker-1", world.scope, clock, lease=timedelta(seconds=2), poll=0.02)
    working = asyncio.create_task(executor.run_until(stop))
    while any(run.status not in ENDED for run in runs.list(world.scope)):
        await asyncio.sleep(0.02)
    stop.set()
    await working
    world.close()


if __name__ == "__main__":
    asyncio.run(work(Path(sys.argv[1])))
