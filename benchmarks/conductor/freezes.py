"""Freezes of real runs: whether any begins inside of one, how soon those under way are given back, what is done twice.

Runs of 40 steps of 20 to 80 ms are worked off by two executors, as two workers have them, while freezes of half a
second come at random. A step says when it began by the catalog's clock.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from tests.catalogs import catalog_url

from antiphon.catalog.database import Database
from antiphon.catalog.run_holds import RunHold, RunHolds
from antiphon.core.ids import new_id
from antiphon.core.scope import Scope
from antiphon.durable.context import RunContext
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.run import ENDED
from antiphon.durable.runs import Runs

STEPS, LASTS = 40, timedelta(seconds=0.5)
SCOPE = Scope()
WORK = "table_job"


class FreezeFigures(msgspec.Struct, frozen=True):
    """What happened in so many freezes.

    Attributes:
        claimed_inside: runs that were claimed while a freeze held.
        begun_late: steps that began more than the yield bound (1.5 s and a heartbeat of 1 s) after a freeze began.
        yield_ms: from the freeze's commit until no run was under way, p50 and p99.
        repeated: steps that ran more than once, of all; ``most_repeated`` of one run for one freeze.
    """

    freezes: int
    claimed_inside: int
    begun_late: int
    yield_ms: Mapping[str, float]
    steps: int
    repeated: int
    most_repeated: int


async def freeze_runs(folder: Path, freezes: int, seed: int) -> FreezeFigures:
    """Work off runs while they are frozen again and again."""
    database = Database.open(catalog_url(folder))
    database.migrate()
    runs, holds, draw = Runs(database), RunHolds(database), random.Random(seed)
    begun: list[tuple[str, int, datetime]] = []

    async def workflow(run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        for number in range(STEPS):

            async def step(number: int = number) -> int:
                begun.append((run.id, number, database.clock.now()))
                await asyncio.sleep(draw.uniform(0.02, 0.08))
                return number

            await run.step(f"step {number}", step)
        return {}

    registry = WorkflowRegistry()
    registry.add(WORK, workflow)
    for _ in range(freezes):
        runs.submit(SCOPE, WORK, {})
    stop = asyncio.Event()
    workers = [
        asyncio.create_task(Executor(database, registry, f"worker {n}", SCOPE).run_until(stop)) for n in range(2)
    ]
    spans: list[tuple[datetime, datetime]] = []
    yielded: list[float] = []
    inside = 0
    try:
        for _ in range(freezes):
            await asyncio.sleep(draw.uniform(0.2, 0.6))
            name, now = new_id("freeze"), database.clock.now()
            hold = RunHold(name, "freeze", name, (WORK,), now, now + timedelta(minutes=5), "a benchmark", "nobody")
            await asyncio.to_thread(holds.add, SCOPE, hold)
            before = {run.id: run.epoch for run in await asyncio.to_thread(runs.under_way, SCOPE)}
            committed = database.clock.now()
            while under_way := await asyncio.to_thread(runs.under_way, SCOPE):
                inside += sum(run.epoch != before.get(run.id) for run in under_way)
                await asyncio.sleep(0.005)
            yielded.append((database.clock.now() - committed).total_seconds())
            await asyncio.sleep(LASTS.total_seconds())
            inside += len(await asyncio.to_thread(runs.under_way, SCOPE))
            spans.append((committed, database.clock.now()))
            await asyncio.to_thread(holds.end, SCOPE, name)
            while not await asyncio.to_thread(runs.under_way, SCOPE):
                if all(run.status in ENDED for run in await asyncio.to_thread(runs.list, SCOPE, freezes)):
                    break
                await asyncio.sleep(0.005)
    finally:
        stop.set()
        await asyncio.gather(*workers)
        database.close()
    times = Counter((run, step) for run, step, _ in begun)
    again = Counter(run for (run, _), count in times.items() if count > 1)
    late = sum(any(begin + timedelta(seconds=2.5) < at < end for begin, end in spans) for _, _, at in begun)
    yielded.sort()
    return FreezeFigures(
        len(spans),
        inside,
        late,
        {
            "p50": round(1e3 * yielded[len(yielded) // 2], 1),
            "p99": round(1e3 * yielded[min(int(0.99 * len(yielded)), len(yielded) - 1)], 1),
        },
        len(times),
        sum(count > 1 for count in times.values()),
        max(again.values(), default=0),
    )
