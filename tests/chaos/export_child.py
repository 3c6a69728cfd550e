"""A worker that exports and dies: ``python -m tests.chaos.export_child FOLDER POINT NUMBER``.

It kills itself when it comes to POINT for the time NUMBER: ``write`` (in the midst of a file), ``put`` (before the
file is put in its place), ``noted`` (it is there, and that is not noted), ``recorded`` (before its step is recorded);
``torn`` writes to the place itself and dies in the midst, the fault that the checks must find; ``end``: it goes on
until all exports have ended.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from antiphon.catalog.exported_files import ExportedFiles
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.run import ENDED
from antiphon.durable.runs import Runs
from antiphon.features.exports.files import RowWriter
from antiphon.services.export.scheduled import ScheduledExports
from antiphon.services.export.targets import ExportTargets
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.project.store import Store
from antiphon.services.workflows import EXPORT, POLICIES

PLACES: dict[str, tuple[type, str]] = {
    "write": (RowWriter, "write"),
    "torn": (RowWriter, "write"),
    "put": (ExportTargets, "put"),
    "noted": (ExportedFiles, "written"),
    "recorded": (Runs, "record"),
}


def plant(point: str, number: int) -> None:
    """Let this process die there."""
    if point == "torn":
        ExportTargets.draft = torn  # type: ignore[method-assign, assignment]
    if point == "end":
        return
    owner, name = PLACES[point]
    call: Callable[..., Any] = getattr(owner, name)
    left = [number]

    def dies(*args: Any, **options: Any) -> Any:
        if point != "recorded" or str(args[2]).startswith("write "):
            left[0] -= 1
        if left[0] <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **options)

    setattr(owner, name, dies)


@contextmanager
def torn(self: ExportTargets, place: str) -> Iterator[Path]:
    path = Path(self.resolved(place))
    path.parent.mkdir(parents=True, exist_ok=True)
    yield path


async def work(folder: Path) -> None:
    store = Store.open(folder)
    features, registry, stop = FeaturePlatform(store), WorkflowRegistry(), asyncio.Event()
    registry.add(EXPORT, ScheduledExports(store, features).run, POLICIES[EXPORT])
    working = asyncio.create_task(Executor(store.database, registry, "child", store.scope, poll=0.02).run_until(stop))
    async with asyncio.timeout(60):
        while any(run.status not in ENDED for run in store.runs.list(store.scope, workflow=EXPORT)):
            await asyncio.sleep(0.02)
    stop.set()
    await working
    features.close()
    store.close()


if __name__ == "__main__":
    plant(sys.argv[2], int(sys.argv[3]))
    asyncio.run(work(Path(sys.argv[1])))
