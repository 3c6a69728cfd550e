"""The worker's process of ``benchmarks.conductor.hour``: a real training, refreshes, and turns at idle time.

    python -m benchmarks.conductor.hour_worker FOLDER SOCKET

does as it is told on stdin, a word a line: ``stop``; ``go``, all at once and nothing governed; ``off``, governed and
without turns; ``turns``; or ``standing``. Each is
answered by a line of JSON that says where it stands.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
from benchmarks.learning.trained_beside import standing

from antiphon.catalog.database import Database
from antiphon.catalog.training_pauses import TrainingPauses
from antiphon.core.clock import SystemClock
from antiphon.core.settings_processes import WorkerSettings
from antiphon.engine.api.client import EngineClient
from antiphon.orchestration.governor import Governor
from antiphon.orchestration.idle_budget import BackgroundWork, IdleBudget, trains
from antiphon.orchestration.idle_turns import Contender
from antiphon.orchestration.training_pauses import TrainingPauseExchange
from antiphon.training.order import read_order
from antiphon.training.processes import TrainingProcesses

REFRESH_EVERY = 8.0
"""Seconds from the begin of a refresh to the next one's, its deadline."""

ROWS = 6_000_000
HOST, HOLDER = socket.gethostname(), "bench"


class Refreshes:
    """Aggregates a table again and again, as a materialization does."""

    def __init__(self, doorbell: Any) -> None:
        self.seconds: list[float] = []
        self.under_way: Contender | None = None
        self._doorbell = doorbell
        self._connection = duckdb.connect()
        self._connection.execute(
            f"CREATE TABLE events AS SELECT range % 50021 entity, hash(range) % 1009 v FROM range({ROWS})"
        )

    async def run(self) -> None:
        while True:
            begin, now = time.monotonic(), SystemClock().now().timestamp()
            self.under_way = Contender("features", now + REFRESH_EVERY, 1.0, "the refresh")
            self._doorbell.wake()
            await asyncio.to_thread(self._aggregate)
            self.under_way = None
            self.seconds.append(time.monotonic() - begin)
            await asyncio.sleep(max(REFRESH_EVERY - (time.monotonic() - begin), 0.0))

    def _aggregate(self) -> None:
        self._connection.execute(
            "SELECT sum(a), sum(b), sum(c) FROM (SELECT entity, sum(v) a, stddev_pop(v) b, quantile_cont(v, 0.9) c "
            "FROM events GROUP BY entity)"
        ).fetchall()


async def work(folder: Path, path: Path) -> None:
    """Until stdin ends."""
    processes, client, ended = TrainingProcesses(SystemClock()), EngineClient(path), asyncio.Event()
    database = Database.open(f"sqlite:///{folder.parent}/catalog.db")
    database.migrate()
    pauses = TrainingPauses(database, "dev")
    exchange = TrainingPauseExchange(
        pauses, processes, host=HOST, worker="bench", holder=HOLDER, wakeup=database.doorbell.wakeup("dev", "training")
    )
    governor = Governor(client, processes, host=HOST, exchange=exchange, watch=client.describe_when_online)
    bell = database.doorbell.wakeup("dev", "training")
    refreshes = Refreshes(bell)

    def read() -> BackgroundWork:
        training = Contender("training") if trains(pauses, HOST) else None
        return BackgroundWork(refreshes.under_way, training=training)

    settings = WorkerSettings()
    budget = IdleBudget(
        read, client.describe, client.hold_batch, pauses, SystemClock(),
        host=HOST, holder=HOLDER, shares=settings.idle_shares.by_work, seconds=5.0, wakeup=bell,
        serving=lambda: governor.serving(HOST),
    )  # fmt: skip
    governor.listen(budget.wake)
    training = asyncio.create_task(processes.run(read_order(folder), lambda _: None, ended.is_set))
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    stop, parts, refreshing = asyncio.Event(), list[asyncio.Task[None]](), list[asyncio.Task[None]]()

    async def end_all() -> None:
        stop.set()
        for task in refreshing:
            task.cancel()
        await asyncio.gather(*parts, *refreshing, return_exceptions=True)
        parts.clear()
        refreshing.clear()

    while (line := await reader.readline()) and not training.done():
        word = line.decode().strip()
        told = {"refreshes": list(refreshes.seconds), "shares": dict(budget.state.shares)}
        if word != "standing":
            await end_all()
            stop, refreshes.seconds = asyncio.Event(), []
        if word == "stop":
            processes.pause_all("bench")
        elif word in ("go", "off", "turns"):
            processes.resume_all("bench")
            living = {"go": (), "off": (governor, exchange), "turns": (governor, exchange, budget)}[word]
            parts += [asyncio.create_task(part.run_until(stop)) for part in living]
            refreshing.append(asyncio.create_task(refreshes.run()))
        print(json.dumps(standing(processes) | told), flush=True)
    ended.set()
    await end_all()
    with contextlib.suppress(asyncio.CancelledError):
        await training
    await client.close()


if __name__ == "__main__":
    os.nice(15)
    asyncio.run(work(Path(sys.argv[1]), Path(sys.argv[2])))
