"""Runs a second while a long queue drains, and how soon a run of another class begins meanwhile; goal: neither depends
on the queue's length.

Run ``python -m benchmarks.durability.drain [--size ci|demo|full]``: a table, then one JSON line (kept in
``benchmarks/results/drain.jsonl`` with ``--record``), on SQLite and on PostgreSQL. The queue is there before the worker
begins. Rates are of its first and its last part (of 1,000 runs, at size ``full``). The other class is a run that begins
every tenth of a second, from its submission to its first line; also with no queue, and before a queue of hanging runs
that takes every slot of its class.

The server's statistics are brought up to date once the queue is there, as its autovacuum does within a minute. Both
catalogs flush each commit to disk.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.durability.catalogs import catalogs

from antiphon.catalog.database import Database
from antiphon.core.scope import Scope
from antiphon.durable.context import RunContext
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.policy import WorkflowPolicy
from antiphon.durable.runs import Runs

SIZES = {"ci": (300, 30), "demo": (2_000, 200), "full": (10_000, 1_000)}
"""Runs of the queue, and runs of a part of it."""

SLOTS = {"refresh": 2, "training": 1, "batch": 2}
HANGING = 50
EVERY = 0.1
LEAST_RATE = 0.7
"""Goal: the rate of the last part over that of the first, or more."""

SCOPE = Scope()


class QueueProbe:
    """A worker with three classes of work, and the moments at which its runs began."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.runs = Runs(database)
        self.ended: list[float] = []
        self.waits: list[tuple[float, float]] = []
        registry = WorkflowRegistry()
        registry.add("short", self._short, WorkflowPolicy("batch"))
        registry.add("probe", self._probe, WorkflowPolicy("refresh"))
        registry.add("hangs", self._hang, WorkflowPolicy("training"))
        self._executor = Executor(database, registry, "worker", SCOPE, slots=SLOTS, poll=60.0, grace=0.0)

    async def _short(self, run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        self.ended.append(time.perf_counter())
        return {}

    async def _probe(self, run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        now = time.perf_counter()
        self.waits.append((now, 1e3 * (now - arguments["at"])))
        return {}

    async def _hang(self, run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Work, and submit a run of the other class now and then."""
        stop = asyncio.Event()
        probing = asyncio.create_task(self._probing(stop))
        working = asyncio.create_task(self._executor.run_until(stop))
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(probing, working)

    async def _probing(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await asyncio.to_thread(self.runs.submit, SCOPE, "probe", {"at": time.perf_counter()})
            await asyncio.sleep(EVERY)

    def fill(self, workflow: str, runs: int) -> None:
        with self.database.transaction() as connection:
            for number in range(runs):
                self.runs.submit(SCOPE, workflow, {"number": number}, within=connection)
        with self.database.transaction() as connection:
            connection.exec_driver_sql("ANALYZE")

    async def waits_until(self, done: Callable[[], bool]) -> list[float]:
        """Waits of the other class, in ms, from now until something holds."""
        begun = len(self.waits)
        async with asyncio.timeout(1_800):
            while not done():
                await asyncio.sleep(0.05)
        return [wait for _, wait in self.waits[begun:]]


async def drain(url: str, runs: int, part: int, probes: int) -> dict[str, float]:
    """The figures of one catalog."""
    database = Database.open(url)
    probe = QueueProbe(database)
    try:
        async with probe.working():
            empty = await probe.waits_until(lambda: len(probe.waits) >= probes)
            probe.fill("hangs", HANGING)
            known = len(probe.waits)
            hanging = await probe.waits_until(lambda: len(probe.waits) >= known + probes)
        probe.fill("short", runs)
        began = time.perf_counter()
        async with probe.working():
            draining = await probe.waits_until(lambda: len(probe.ended) >= runs)
    finally:
        database.close()
    return {
        "first_part_runs_s": part / (probe.ended[part - 1] - began),
        "last_part_runs_s": part / (probe.ended[-1] - probe.ended[-part - 1]),
        "start_ms_p50_no_queue": statistics.median(empty),
        "start_ms_p50_hanging": statistics.median(hanging),
        "start_ms_p50_draining": statistics.median(draining),
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; returns 1 when the last part is slower than the first by more than the goal allows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.durability.drain")
    parser.add_argument("--size", choices=SIZES, default="demo")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args(arguments)
    runs, part = SIZES[options.size]
    found: dict[str, dict[str, float]] = {}
    with catalogs() as urls:
        for name, url in urls.items():
            found[name] = asyncio.run(drain(url, runs, part, 20 if options.size == "ci" else 100))
            print(f"{name}: {runs} queued runs, parts of {part}")
            for figure, value in found[name].items():
                print(f"  {figure:<24}{value:10.1f}")
    met = all(one["last_part_runs_s"] >= LEAST_RATE * one["first_part_runs_s"] for one in found.values())
    load = [round(each, 1) for each in os.getloadavg()]
    line = json.dumps(
        {"benchmark": "drain", "size": options.size, "runs": runs, "part": part, "load": load, "catalogs": found}
        | {"met": met}
    )
    if options.record:
        with (Path(__file__).parents[1] / "results" / "drain.jsonl").open("a") as kept:
            kept.write(f"{line}\n")
    print(line)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
