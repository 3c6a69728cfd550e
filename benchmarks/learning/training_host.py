"""A host that trains: ``python -m benchmarks.learning.training_host CATALOG LAKE FOLDER ORDER EVERY``.

Its folder is its own, the catalog and the lake are shared; it takes the one run that there is, as a worker does, and
ends when that has ended. ``benchmarks.learning.training_take_over`` starts and kills it.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
from tests.servers import S3Process

from antiphon.catalog.database import Database
from antiphon.catalog.learning.training_checkpoints import TrainingCheckpoints
from antiphon.core.codec import PlainCodec
from antiphon.core.scope import Scope
from antiphon.durable.context import RunContext
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.run import ENDED
from antiphon.durable.runs import Runs
from antiphon.features.lake.bucket import S3Place
from antiphon.features.lake.content import Lake
from antiphon.features.lake.local import LocalLake
from antiphon.features.lake.s3 import S3Lake
from antiphon.learning.retraining.checkpoints import CheckpointStore
from antiphon.learning.retraining.steps import clear, train
from antiphon.training.order import TrainingOrder
from antiphon.training.processes import TrainingProcesses

SCOPE = Scope()
LEASE = timedelta(seconds=5)


def lake_of(url: str, scratch: Path) -> Lake:
    """A bucket of the benchmark's server, or a folder."""
    if not url.startswith("s3://"):
        return LocalLake(Path(url))
    place, access_key, secret_key = S3Place.of(url), S3Process.access_key, S3Process.secret_key
    return S3Lake(place, scratch=scratch, access_key=access_key, secret_key=secret_key)


def services(database: Database, lake: Lake, folder: Path, every: float) -> Any:
    """What a training needs of a host."""
    return SimpleNamespace(
        folder=folder,
        codec=PlainCodec(),
        checkpoints=CheckpointStore(TrainingCheckpoints(database), lake, database.clock, every),
        run_training=TrainingProcesses(database.clock, floor=0.5, window=5.0).run,
    )


async def main(catalog: str, lake: str, folder: Path, order: Path, every: float) -> None:
    """Work until the run has ended."""
    database = Database.open(catalog)
    host = services(database, lake_of(lake, folder / "scratch"), folder, every)
    given = msgspec.json.decode(order.read_bytes(), type=TrainingOrder)

    async def workflow(run: RunContext, arguments: Any) -> dict[str, Any]:
        training = folder / run.id / "training"
        training.mkdir(parents=True, exist_ok=True)
        trained = await train(host, msgspec.structs.replace(given, folder=str(training)), run)
        await clear(host, run)
        return {"weights": trained.weights.sha256, "adapter": trained.adapter.sha256}

    registry, stop = WorkflowRegistry(), asyncio.Event()
    registry.add("train", workflow)
    executor = Executor(database, registry, folder.name, SCOPE, lease=LEASE)
    working = asyncio.create_task(executor.run_until(stop))
    runs = Runs(database)
    while any(run.status not in ENDED for run in runs.list(SCOPE)):
        await asyncio.sleep(0.2)
    stop.set()
    await working


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), float(sys.argv[5])))
