"""A worker that never polls: ``python -m tests.integration.durable.doorbell_child FOLDER NAME``.

It prints ``ready`` once its first run has ended. A run's result tells when it began (seconds since 1970).
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

from tests.catalogs import catalog_url

from antiphon.catalog.database import Database
from antiphon.core.scope import Scope
from antiphon.durable.context import RunContext
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.run import ENDED
from antiphon.durable.runs import Runs


async def work(folder: Path, name: str) -> None:
    database = Database.open(catalog_url(folder))

    async def began(run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        return {"began": time.time(), "worker": name}

    registry, runs = WorkflowRegistry(), Runs(database)
    registry.add("began", began)
    working = asyncio.create_task(Executor(database, registry, name, Scope(), poll=60.0).run_until(asyncio.Event()))
    first = runs.submit(Scope(), "began", {})
    while runs.get(Scope(), first).status not in ENDED:
        await asyncio.sleep(0.01)
    print("ready", flush=True)
    await working


if __name__ == "__main__":
    asyncio.run(work(Path(sys.argv[1]), sys.argv[2]))
