"""A worker process for the kill tests: ``python -m tests.integration.durable.child FOLDER WORKER``.

Each plain step appends a line to ``FOLDER/effects``; each transactional step appends an event with a fresh id to the
event log, so that an effect that happened twice is seen.
"""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Connection

from antiphon.catalog.database import Database
from antiphon.catalog.events import Event, EventLog
from antiphon.core.scope import Scope
from antiphon.durable.context import RunContext
from antiphon.durable.executor import Executor
from antiphon.durable.registry import Registry
from antiphon.durable.runs import ENDED, Runs

SCOPE = Scope()


class Worker:
    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self.database = Database.open(f"sqlite:///{folder}/catalog.db")
        self.log = EventLog(self.database)
        self.registry = Registry()
        self.registry.add("pairs", self.pairs)

    async def pairs(self, run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        seen = []
        for number in range(arguments["pairs"]):
            seen.append(await run.step("plain", self.plain, run.id, number, arguments["seconds"]))
            await run.transaction("effect", lambda c, n=number: self.effect(c, run.id, n))
            run.progress(number + 1, arguments["pairs"])
        return {"seen": seen}

    def plain(self, run: str, number: int, seconds: float) -> int:
        with (self.folder / "effects").open("a") as out:
            out.write(f"{run}:{number}\n")
        time.sleep(seconds)
        return number

    def effect(self, connection: Connection, run: str, number: int) -> int:
        now = self.database.clock.now()
        event = Event(uuid.uuid4().hex, now, now, {"run": run, "number": number, "worker": self.name})
        return self.log.append(SCOPE, "effects", [event], within=connection)

    async def work(self) -> None:
        stop = asyncio.Event()
        executor = Executor(
            self.database, self.registry, self.name, lease=timedelta(seconds=2), poll=0.02, concurrency=2
        )
        working = asyncio.create_task(executor.run_until(stop))
        runs = Runs(self.database)
        while not all(run.status in ENDED for run in runs.list(SCOPE, 1000)):
            await asyncio.sleep(0.02)
        stop.set()
        await working


if __name__ == "__main__":
    asyncio.run(Worker(Path(sys.argv[1]), sys.argv[2]).work())
