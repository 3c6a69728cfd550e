"""Checkpoints of a run where every host finds them: contents in the lake by their hash, their names in the catalog.

Invariants: a row names a file that is whole in the lake, and only the worker that holds the run writes rows. To keep a
checkpoint is a service to the training, which never fails by it, and takes a bounded share of its time. What a killed
worker leaves in the lake without a row is garbage, and collected like any other.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from sqlalchemy.engine import Connection

from antiphon.catalog.learning.training_checkpoints import TrainingCheckpoint, TrainingCheckpoints
from antiphon.core.clock import Clock
from antiphon.core.errors import AntiphonError, CorruptionError
from antiphon.core.scope import Scope
from antiphon.durable.context import RunContext
from antiphon.durable.run import LeaseLostError
from antiphon.features.lake.content import Lake, changed, path_of
from antiphon.training.checkpoint import Checkpoints

T = TypeVar("T")

SUFFIX = ".checkpoint"

EVERY_SECONDS = 30.0
"""At least so long between two that are kept: a worker that takes a run over needs about as long to go on with it."""

MOST_SHARE = 0.05
"""Of a training's time that is spent on keeping its checkpoints, whatever the lake's speed."""

_log = logging.getLogger("antiphon.worker")


def checkpoint_path(one: TrainingCheckpoint) -> str:
    """The place of a checkpoint in the lake."""
    return path_of(one.scope, one.sha256, SUFFIX)


@dataclass(frozen=True)
class CheckpointStore:
    """Checkpoints of all runs: rows of the catalog and files of the lake.

    Attributes:
        every: seconds between two of a run, at least.
    """

    records: TrainingCheckpoints
    lake: Lake
    clock: Clock
    every: float = EVERY_SECONDS

    def sweep(self, scope: Scope, ended: Callable[[Scope, str], bool]) -> None:
        """Remove the checkpoints of runs that have ended."""
        for one in self.records.list(scope):
            if ended(scope, one.run):
                self.remove(one)
                self.delete([one])

    def remove(self, one: TrainingCheckpoint, within: Connection | None = None) -> None:
        """Forget a checkpoint; its file is garbage from then on."""
        self.records.remove(one.scope, one.run, one.step, within=within)

    async def forget(self, run: RunContext) -> None:
        """Remove the checkpoints of a run that has no more use for them.

        Raises:
            LeaseLostError: another worker took the run over; nothing is removed.
        """

        def removed(within: Connection) -> list[TrainingCheckpoint]:
            kept = self.records.list(run.scope, run.id, within=within)
            self.records.remove(run.scope, run.id, within=within)
            return kept

        await asyncio.to_thread(self.delete, await run.fenced(removed))

    def delete(self, unnamed: Iterable[TrainingCheckpoint]) -> None:
        """Delete files that no row names any more; those that the lake keeps are left to the collection of garbage."""
        for one in unnamed:
            with suppress(AntiphonError, OSError):
                self.lake.remove(checkpoint_path(one))


class RunCheckpoints:
    """The checkpoints of one run on this host: brought here before it trains, and kept while it does.

    Args:
        local: those in the folder that is trained in.
        identity: of what is trained; checkpoints of another one are of no use.
    """

    def __init__(self, store: CheckpointStore, run: RunContext, local: Checkpoints, identity: str) -> None:
        self._store = store
        self._run = run
        self._local = local
        self._identity = identity
        self._stepped = asyncio.Event()
        self._ended = False

    async def fetch(self) -> None:
        """Put the latest checkpoint that is whole into the folder, unless what lies there is as far.

        Raises:
            LeaseLostError: another worker took the run over.
            UnavailableError: the lake is away; the run is tried again later. SetupError: it refuses access.
            OSError: the disk is full.
        """
        run, kept = self._run, await self._kept()
        here = await asyncio.to_thread(self._local.newest)
        for one in kept:
            if here is not None and here[0] >= one.step:
                return
            run.progress(0, None, f"fetching the checkpoint of step {one.step} ({one.size / 1e6:.0f} MB)")
            try:
                content = await asyncio.to_thread(self._content, one)
            except CorruptionError as error:
                self._warn(f"The checkpoint of step {one.step} is not used: {error.what}")
                await run.fenced(partial(self._store.remove, one))
                await asyncio.to_thread(self._store.delete, [one])
                continue
            await asyncio.to_thread(self._local.put, one.step, content)
            _log.info("Run %s goes on from the checkpoint of step %d, which the lake has kept.", run.id, one.step)
            return
        if kept and here is None:
            self._warn("No checkpoint is left: training begins from the start.")

    async def keep_while(self, training: Awaitable[T]) -> T:
        """Await a training, and keep its latest checkpoint now and then, and once more when it was told to stop."""
        keeping = asyncio.create_task(self._keep_some())
        stopped = False
        try:
            return await training
        except asyncio.CancelledError:
            stopped = True
            raise
        finally:
            self._ended = True
            self._stepped.set()
            await keeping
            if stopped:
                await self.keep_latest()

    def look(self) -> None:
        """Say that there may be a checkpoint."""
        self._stepped.set()

    async def keep_latest(self) -> None:
        """Keep the folder's latest checkpoint, if it is not kept yet. What stands in the way is told, not raised."""
        run, store = self._run, self._store
        try:
            kept = await self._kept()
            found = await asyncio.to_thread(self._local.newest, kept[0].step if kept else 0)
            if found is None:
                return
            one = await asyncio.to_thread(self._put, *found)
            unnamed = await run.fenced(lambda within: store.records.add(one, within=within))
            await asyncio.to_thread(store.delete, unnamed)
        except LeaseLostError:
            _log.warning("The checkpoint of run %s is not kept: another worker has it.", run.id)
        except (AntiphonError, OSError) as error:
            self._warn(f"Training goes on, but its checkpoint cannot be kept in the lake: {error}")

    async def _keep_some(self) -> None:
        clock, due = self._store.clock, self._store.clock.monotonic() + self._store.every
        while not self._ended:
            await self._stepped.wait()
            self._stepped.clear()
            started = clock.monotonic()
            if started >= due and not self._ended:
                await self.keep_latest()
                spent = clock.monotonic() - started
                due = started + max(self._store.every, spent / MOST_SHARE)

    async def _kept(self) -> list[TrainingCheckpoint]:
        run = self._run
        return await run.fenced(lambda within: self._store.records.list(run.scope, run.id, within=within))

    def _put(self, step: int, content: bytes) -> TrainingCheckpoint:
        store, run = self._store, self._run
        with store.lake.writing(run.scope, SUFFIX) as draft:
            draft.write(content)
        return TrainingCheckpoint(
            run.scope, run.id, step, self._identity, draft.sha256, len(content), store.clock.now()
        )

    def _content(self, one: TrainingCheckpoint) -> bytes:
        if one.identity != self._identity:
            raise CorruptionError("The checkpoint is of other code or of another order.")
        with self._store.lake.open(checkpoint_path(one)) as stream:
            content = stream.read()
        if hashlib.sha256(content).hexdigest() != one.sha256:
            raise changed(checkpoint_path(one))
        return content

    def _warn(self, text: str) -> None:
        _log.warning("Run %s: %s", self._run.id, text)
        latest = self._run.latest_progress
        done, total = (0, None) if latest is None else (latest.done, latest.total)
        self._run.progress(done, total, text)
