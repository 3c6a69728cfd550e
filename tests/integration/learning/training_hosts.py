"""Hosts that share a catalog and a lake and have a folder each, for trainings that one takes over from another.

:class:`CountingTrainer` stands for the training process: it sums numbers, a step at a time, so that its weights follow
from all of its steps, and keeps checkpoints as that process does. ``python -m … FOLDER HOST POINT`` is a host in a
process of its own; a point is where it sends itself SIGKILL: ``upload:N`` (half of the Nth checkpoint is in the lake's
scratch folder), ``row:N`` (the Nth is in the lake and not in the catalog), ``step:N`` (before a step), or ``none``.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
from tests.catalogs import catalog_url
from tests.unit.catalog.examples import DEV, NOON, open_database

from antiphon.catalog.database import Database
from antiphon.catalog.learning.training_checkpoints import TrainingCheckpoint, TrainingCheckpoints
from antiphon.core.clock import Clock, ManualClock
from antiphon.core.codec import PlainCodec
from antiphon.core.ids import new_id
from antiphon.durable.claims import ServedRuns
from antiphon.durable.context import RunContext
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.run import ENDED
from antiphon.durable.runs import Runs
from antiphon.features.lake.bucket import S3Place
from antiphon.features.lake.content import Lake, LakeDraft
from antiphon.features.lake.local import LocalLake
from antiphon.features.lake.s3 import S3Lake
from antiphon.learning.retraining import checkpoints as keeping
from antiphon.learning.retraining.checkpoints import CheckpointStore, RunCheckpoints
from antiphon.learning.retraining.steps import clear, run_checkpoints, train
from antiphon.learning.retraining.training_meters import TrainingMeters
from antiphon.training.checkpoint import FOLDER, Checkpoints, CheckpointState
from antiphon.training.folder_seal import folder_seal
from antiphon.training.order import TrainedFile, TrainingOrder, TrainingProgress, TrainingResult
from antiphon.training.processes import TrainingUsage
from antiphon.training.recipe import Recipe

STEPS = 12
SECONDS_OF_STEP = 0.25
"""Of processors that a step takes."""
RECIPE = Recipe(steps=STEPS)
LEASE = timedelta(seconds=1)


def weights_of(steps: int) -> bytes:
    """What comes out of so many steps."""
    value = b"base"
    for step in range(steps):
        value = hashlib.sha256(value + str(step).encode()).digest()
    return value


def checkpoint(identity: str, step: int, value: bytes) -> bytes:
    """The content of a checkpoint: safetensors' header, and a value."""
    state = msgspec.json.encode(CheckpointState(identity, step)).decode()
    header = msgspec.json.encode({"__metadata__": {"standing": state}})
    return len(header).to_bytes(8, "little") + header + value


def value_in(content: bytes) -> bytes:
    """The value in a checkpoint."""
    return content[8 + int.from_bytes(content[:8], "little") :]


class CountingTrainer:
    """Trains in this process, from its folder's newest checkpoint."""

    def __init__(self, codec: Any = None) -> None:
        self.codec = codec or PlainCodec()
        self.steps: list[int] = []
        self.before_step: Callable[[int], Any] = lambda step: None
        self.after_step: Callable[[int], Awaitable[Any]] = lambda step: asyncio.sleep(0)

    async def run(
        self,
        order: TrainingOrder,
        on_progress: Callable[[TrainingProgress], None],
        stopping: Callable[[], bool],
        on_usage: Callable[[TrainingUsage], None],
    ) -> TrainingResult:
        process = new_id("training")
        folder = Path(order.folder)
        local = Checkpoints(
            folder / FOLDER, order.identity, print, folder_seal(Path(order.examples_path).parent, self.codec, DEV)
        )
        done, value = 0, b"base"
        if (found := local.newest()) is not None:
            done, value = found[0], value_in(found[1])
        for number, step in enumerate(range(done, order.recipe.steps), 1):
            self.before_step(step)
            self.steps.append(step)
            on_usage(TrainingUsage(process, number * SECONDS_OF_STEP))
            value = hashlib.sha256(value + str(step).encode()).digest()
            local.put(step + 1, checkpoint(order.identity, step + 1, value))
            on_progress(TrainingProgress("training", step + 1, order.recipe.steps))
            await self.after_step(step)
            if stopping():
                raise asyncio.CancelledError
        (folder / "weights.gguf").write_bytes(value)
        made = TrainedFile(str(folder / "weights.gguf"), hashlib.sha256(value).hexdigest(), len(value))
        return TrainingResult(order.identity, "c", made, made, (), 1.0, {})


class TrainingHost:
    """One host: its own folder, the lake and the catalog that it shares, and the run that it holds."""

    def __init__(self, database: Database, lake: Lake, folder: Path, *, every: float = 0.0, clock: Clock | None = None):
        self.database, self.lake, self.folder = database, lake, folder
        self.records, self.runs = TrainingCheckpoints(database), Runs(database)
        self.trainer = CountingTrainer(database.codec)
        self.services: Any = SimpleNamespace(
            folder=folder,
            codec=database.codec,
            checkpoints=CheckpointStore(self.records, lake, clock or database.clock, every),
            meters=TrainingMeters(database),
            run_training=self.trainer.run,
        )

    def claim(self) -> RunContext:
        """Take the run that waits, or whose holder is gone."""
        held = self.runs.claim(self.folder.name, ServedRuns(DEV.environment), LEASE)
        assert held is not None
        return RunContext(held, self.runs, self.database.clock, {})

    def order(self, run: RunContext, recipe: Recipe = RECIPE) -> TrainingOrder:
        """The run's order in this host's folder."""
        training = self.folder / run.id / "training"
        training.mkdir(parents=True, exist_ok=True)
        return TrainingOrder(str(training), "it", "base.gguf", "b" * 64, str(training.parent / "examples"), "e", recipe)

    def checkpoints(self, run: RunContext, recipe: Recipe = RECIPE) -> RunCheckpoints:
        return run_checkpoints(self.services, self.order(run, recipe), run)

    def local(self, run: RunContext) -> Checkpoints:
        """The checkpoints in this host's folder."""
        return self.checkpoints(run)._local

    def kept(self, run: str) -> list[TrainingCheckpoint]:
        return self.records.list(DEV, run)

    async def work(self, run: RunContext) -> dict[str, Any]:
        """The workflow: train, and clear."""
        trained = await train(self.services, self.order(run), run)
        await clear(self.services, run)
        return {"weights": trained.weights.sha256, "steps": self.trainer.steps}


def shared_lake(url: str, folder: Path) -> Lake:
    """The lake of a URL, or a folder that all hosts mount."""
    if not url.startswith("s3://"):
        return LocalLake(Path(url))
    key, secret = os.environ["LAKE_ACCESS_KEY"], os.environ["LAKE_SECRET_KEY"]
    return S3Lake(S3Place.of(url), scratch=folder / "scratch", access_key=key, secret_key=secret)


async def carry(folder: Path, here: TrainingOrder, there: TrainingOrder) -> None:
    """Let another host have what a training left in its folder when it was stopped."""
    clock = ManualClock(NOON)
    database = open_database(folder, clock)
    Runs(database).submit(DEV, "train", {})
    for order in (here, there):
        host = TrainingHost(database, LocalLake(folder / "lake"), Path(order.folder).parent)
        local = Checkpoints(Path(order.folder) / FOLDER, order.identity, print)
        checkpoints = RunCheckpoints(host.services.checkpoints, host.claim(), local, order.identity)
        await checkpoints.fetch()
        await checkpoints.keep_latest()
        clock.advance(LEASE * 2)
    database.close()


def die(*_: Any, **__: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(host: TrainingHost, point: str) -> None:
    """Be killed at a point."""
    kind, _, detail = point.partition(":")
    count = 0

    def counted() -> bool:
        nonlocal count
        count += 1
        return count == int(detail)

    if kind == "step":
        host.trainer.before_step = lambda step: die() if step == int(detail) else None
    elif kind == "upload":
        write = LakeDraft.write

        def torn(self: LakeDraft, content: Any) -> int:
            if counted():
                write(self, content[: len(content) // 2])
                self._stream.flush()
                die()
            return write(self, content)

        LakeDraft.write = torn  # type: ignore[method-assign]
    elif kind == "row":
        add = TrainingCheckpoints.add

        def never(self: TrainingCheckpoints, one: Any, *, within: Any) -> Any:
            return die() if counted() else add(self, one, within=within)

        TrainingCheckpoints.add = never  # type: ignore[method-assign]


async def main(folder: Path, name: str, point: str) -> None:
    """Work until the run has ended; every checkpoint is kept, whatever share of the time that takes."""
    keeping.MOST_SHARE = float("inf")
    database = Database.open(catalog_url(folder))
    lake = shared_lake(os.environ["TEST_LAKE"], folder / name)
    host = TrainingHost(database, lake, folder / name)
    arm(host, point)
    (run,) = host.runs.list(DEV)

    async def kept(step: int) -> None:
        while all(one.step <= step for one in host.kept(run.id)):
            await asyncio.sleep(0.005)

    host.trainer.after_step = kept
    registry = WorkflowRegistry()
    registry.add("train", lambda context, arguments: host.work(context))
    stop = asyncio.Event()
    executor = Executor(database, registry, name, DEV, lease=LEASE, poll=0.02)
    working = asyncio.create_task(executor.run_until(stop))
    async with asyncio.timeout(60):
        while host.runs.get(DEV, run.id).status not in ENDED:
            await asyncio.sleep(0.02)
    stop.set()
    await working
    lake.close()
    database.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
