"""A worker process for the kill tests: ``python -m tests.integration.durable.child FOLDER WORKER LEASE_SECONDS``.

Each plain step appends a line to ``FOLDER/effects``; each transactional step appends an event with a fresh id to the
event log, so that an effect that happened twice is seen.
"""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Connection
from tests.catalogs import catalog_url

from antiphon.catalog.database import Database
from antiphon.catalog.features.events import Event, EventLog
from antiphon.core.errors import InvalidInputError
from antiphon.core.scope import Scope
from antiphon.durable.context import RunContext
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.policy import WorkflowPolicy
from antiphon.durable.run import ENDED
from antiphon.durable.runs import Runs

SCOPE = Scope()


class Worker:
    def __init__(self, folder: Path, name: str, lease: float) -> None:
        self.folder = folder
        self.name = name
        self.lease = lease
        self.database = Database.open(catalog_url(Path(folder)))
        self.log = EventLog(self.database)
        self.registry = WorkflowRegistry()
        self.registry.add("pairs", self.pairs)
        self.registry.add("undone", self.undone, WorkflowPolicy(rollback="always"))

    async def pairs(self, run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        seen = []
        for number in range(arguments["pairs"]):
            seen.append(await run.step("plain", self.plain, run.id, number, arguments["seconds"]))
            if number == arguments.get("stall_at"):
                await run.step("stall", self.stall, run.id)
            await run.transaction("effect", lambda c, n=number: self.effect(c, run.id, n))
            run.progress(number + 1, arguments["pairs"])
        return {"seen": seen}

    async def undone(self, run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        """Steps that are all undone, because the last one cannot be done."""
        seconds = arguments["seconds"]
        for number in range(arguments["steps"]):
            undo = partial(self.undo, run.id, seconds)
            await run.step("plain", self.plain, run.id, number, seconds, undo=undo)
        raise InvalidInputError("It cannot be sent.")

    def undo(self, run: str, seconds: float, number: int) -> None:
        self.plain(run, -number - 1, seconds)

    def plain(self, run: str, number: int, seconds: float) -> int:
        with (self.folder / "effects").open("a") as out:
            out.write(f"{run}:{number}\n")
        time.sleep(seconds)
        return number

    async def stall(self, run: str) -> str:
        """Block worker w1's event loop, so that no heartbeat is sent, until another worker has the run."""
        if self.name == "w1":
            with (self.folder / "effects").open("a") as out:
                out.write("stalling\n")
            deadline = time.monotonic() + 60
            while Runs(self.database).get(SCOPE, run).worker == "w1" and time.monotonic() < deadline:
                time.sleep(0.02)
        return self.name

    def effect(self, connection: Connection, run: str, number: int) -> int:
        now = self.database.clock.now()
        event = Event(uuid.uuid4().hex, now, now, {"run": run, "number": number, "worker": self.name})
        return self.log.append(SCOPE, "effects", [event], within=connection)

    async def work(self) -> None:
        stop = asyncio.Event()
        executor = Executor(
            self.database,
            self.registry,
            self.name,
            Scope(),
            lease=timedelta(seconds=self.lease),
            poll=0.02,
            concurrency=2,
        )
        working = asyncio.create_task(executor.run_until(stop))
        runs = Runs(self.database)
        while not all(run.status in ENDED for run in runs.list(SCOPE, 1000)):
            await asyncio.sleep(0.02)
        stop.set()
        await working


if __name__ == "__main__":
    asyncio.run(Worker(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])).work())
