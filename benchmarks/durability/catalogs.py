"""Answers kept a second, and the time of a step of a run, on SQLite and on PostgreSQL.

Run ``python -m benchmarks.durability.catalogs [--size ci|demo|full]``: a table, then one JSON line (kept in
``benchmarks/results/catalogs.jsonl`` with ``--record``). Both flush each commit to disk; the server is this machine's
own, over loopback. An answer is what a gateway keeps of one: receipt, two texts, a record of the audit log, in group
commits of 64 callers. Slices take turns, so that a slow moment of the machine meets both; a figure is the median of its
slices.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

from sqlalchemy.engine import Connection
from tests.servers import PostgresProcess
from tests.unit.catalog.examples import DEV, receipt

from antiphon.catalog.database import Database
from antiphon.catalog.group_commit import GroupCommit
from antiphon.catalog.serving.receipts import Receipts
from antiphon.core.child_process import start_child
from antiphon.core.ids import new_id
from antiphon.durable.claims import ServedRuns
from antiphon.durable.runs import Runs
from antiphon.governance.audit.log import AuditLog

SIZES = {"ci": (2, 0.5, 50), "demo": (6, 2.0, 200), "full": (12, 5.0, 500)}
"""Slices of each kind, seconds of a slice, steps of a run."""

CALLERS = 64
GATEWAYS = 2
TEXT = b"Orders take forty minutes today, and the kitchen says that it will be quicker after eight. " * 4


class Slice:
    """What one process does with a catalog for a while."""

    def __init__(self, url: str) -> None:
        self.database = Database.open(url)
        self.receipts, self.runs = Receipts(self.database), Runs(self.database)
        self.audit = AuditLog(self.database, bytes(32))

    async def answers(self, seconds: float) -> float:
        """Answers a second that were acknowledged to 64 callers."""
        commit, kept, began = GroupCommit(self.database), 0, time.perf_counter()

        def keep(connection: Connection) -> None:
            prediction = new_id("pred")
            self.audit.append_with_commit(self.audit.act(DEV, "desk", "data.read", prediction))
            self.receipts.add(receipt(prediction), [TEXT, prediction.encode()], within=connection)

        async def call() -> None:
            nonlocal kept
            while time.perf_counter() - began < seconds:
                await commit.submit(keep)
                kept += 1

        await asyncio.gather(*(call() for _ in range(CALLERS)))
        took = time.perf_counter() - began
        commit.close()
        return kept / took

    def step_milliseconds(self, steps: int) -> float:
        """The median time of a recorded step."""
        self.runs.submit(DEV, "bench", {})
        run = self.runs.claim("bench", ServedRuns(DEV.environment), timedelta(minutes=5))
        assert run is not None
        took = []
        for number in range(steps):
            began = time.perf_counter()
            self.runs.record(run, "step", number, {"number": number}, self.database.clock.now())
            took.append(1e3 * (time.perf_counter() - began))
        self.runs.end(run, {})
        return statistics.median(took)


@contextmanager
def catalogs() -> Iterator[dict[str, str]]:
    """The two catalogs' URLs by name."""
    server = PostgresProcess(durable=True)
    try:
        server.start()
        with TemporaryDirectory(dir="/var/tmp") as folder:
            user = f"{server.user}:{quote(server.password, safe='')}"
            urls = {
                "sqlite": f"sqlite:///{folder}/catalog.db",
                "postgresql": f"postgresql://{user}@127.0.0.1:{server.port}/postgres",
            }
            for url in urls.values():
                database = Database.open(url)
                database.migrate()
                database.close()
            yield urls
    finally:
        server.remove()


def measure(size: str) -> dict[str, Any]:
    """Every figure; slices of the kinds take turns."""
    slices, seconds, steps = SIZES[size]
    found: dict[str, dict[str, list[float]]] = {}
    with catalogs() as urls:
        opened = {name: Slice(url) for name, url in urls.items()}
        for _ in range(slices):
            for name, one in opened.items():
                of = found.setdefault(name, {"answers": [], "both_gateways": [], "step_ms": []})
                of["answers"].append(asyncio.run(one.answers(seconds)))
                of["both_gateways"].append(_at_once(urls[name], seconds))
                of["step_ms"].append(one.step_milliseconds(steps))
        for one in opened.values():
            one.database.close()
    medians = {name: {kind: statistics.median(of[kind]) for kind in of} for name, of in found.items()}
    spread = {name: {kind: [min(of[kind]), max(of[kind])] for kind in of} for name, of in found.items()}
    return {"size": size, "medians": medians, "spread": spread}


def _at_once(url: str, seconds: float) -> float:
    command = [sys.executable, "-m", "benchmarks.durability.catalogs", "--slice", url, "--seconds", str(seconds)]
    started = [start_child(command, stdout=subprocess.PIPE, text=True) for _ in range(GATEWAYS)]
    return sum(float(process.communicate(timeout=120)[0]) for process in started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="demo")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--slice")
    parser.add_argument("--seconds", type=float)
    given = parser.parse_args()
    if given.slice:
        print(asyncio.run(Slice(given.slice).answers(given.seconds)))
        return
    report = measure(given.size)
    print(f"{'':12}{'answers/s':>20}{'two gateways':>20}{'step, ms':>20}")
    for name, of in report["medians"].items():
        cells = (f"{of[kind]:.1f} ({low:.0f}-{high:.0f})" for kind, (low, high) in report["spread"][name].items())
        print(f"{name:12}" + "".join(f"{cell:>20}" for cell in cells))
    line = json.dumps(report)
    if given.record:
        with (Path(__file__).parents[1] / "results" / "catalogs.jsonl").open("a") as kept:
            kept.write(f"{line}\n")
    print(line)


if __name__ == "__main__":
    main()
