"""A refresh or an apply that the caller waits for: done in this process, or by a worker that claims it first."""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec

from antiphon.core.errors import InvalidInputError
from antiphon.durable.executor import Executor
from antiphon.durable.registry import WorkflowRegistry
from antiphon.durable.run import ENDED, Run
from antiphon.features.offline.refresh import WORKFLOW
from antiphon.operations.processes import statuses
from antiphon.services.apply.workflow import NOTHING_CHANGED, ApplyResult, ApplyWorkflow
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.project.store import Store
from antiphon.services.workflows import APPLY

_LOOK_SECONDS = 0.05
_LEFT_TO_WORKER_SECONDS = 1.0
"""Time that a run may stay queued while a worker runs."""


def refresh_now(store: Store, platform: FeaturePlatform, run: str) -> dict[str, Any]:
    """Work until a run of the refresh workflow has ended; its result.

    Another run that waits may be worked off beside it.

    Raises:
        InvalidInputError: the run failed or was cancelled; says why.
    """
    with_worker = _Worker(store, platform, run)
    with_worker.start()
    with_worker.join()
    ended = store.runs.get(store.scope, run)
    if ended.status != "succeeded":
        raise InvalidInputError(
            f"The refresh {ended.status}: {(ended.error or 'somebody cancelled it').rstrip('.')}.",
            where=run,
            next_step=f"`antiphon runs show {run}` shows its steps.",
        )
    return ended.result or {}


def finish_apply(
    store: Store, run: str, tell: Callable[[Run], None] = lambda run: None, platform: FeaturePlatform | None = None
) -> ApplyResult:
    """Wait until an apply is in force. The work is the worker's; when none runs here, or it has no place for another
    run now, it is done in this process.

    Whoever stops waiting changes nothing: a worker, the next `antiphon up` or the next apply goes on with the run.

    Args:
        tell: called with the run whenever it was looked at.
        platform: what a project's own process has open; else one is opened when there is no worker.

    Raises:
        InvalidInputError: the run failed or was cancelled; says why. What was in force still is.
    """
    here: _Worker | None = None
    own: FeaturePlatform | None = None
    pause = threading.Event()
    began = time.monotonic()
    try:
        while True:
            found = store.runs.get(store.scope, run)
            tell(found)
            if found.status in ENDED:
                break
            if here is not None and not here.running:
                ended, here = here, None
                ended.join()  # Raises what ended it; one that has only stopped is started again.
            queued = found.status == "queued" and time.monotonic() - began > _LEFT_TO_WORKER_SECONDS
            if here is None and (queued or not _worker_runs(store)):
                if platform is None:
                    platform = own = FeaturePlatform(store)
                here = _Worker(store, platform, run)
                here.start()
            pause.wait(_LOOK_SECONDS)
    finally:
        if here is not None:
            here.stop()
            here.join()
        if own is not None:
            own.close()
    if found.status == "succeeded":
        return msgspec.convert(found.result, ApplyResult)
    if found.status == "cancelled":
        raise InvalidInputError(
            f"The apply was cancelled, by somebody or by another apply. {NOTHING_CHANGED}",
            where=run,
            next_step="`antiphon plan` shows what is not applied.",
        )
    raise InvalidInputError(
        found.error or NOTHING_CHANGED, where=run, next_step=f"`antiphon runs show {run}` has its steps."
    )


def _worker_runs(store: Store) -> bool:
    return any(one.name == "worker" and one.alive for one in statuses(store.paths.run))


class _Worker:
    """An executor until a run ends, in a thread of its own because a notebook has an event loop already."""

    def __init__(self, store: Store, platform: FeaturePlatform, run: str) -> None:
        self._store = store
        self._platform = platform
        self._run = run
        self._left = threading.Event()
        self._failed: list[BaseException] = []
        self._thread = threading.Thread(target=self._work, name="in-process worker")

    def start(self) -> None:
        """Claim the run, and others that wait."""
        self._thread.start()

    @property
    def running(self) -> bool:
        """Tell whether its thread has not ended."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Give back what has not ended."""
        self._left.set()

    def join(self) -> None:
        """Wait for its end; raises what ended it."""
        self._thread.join()
        if self._failed:
            raise self._failed[0]

    def _work(self) -> None:
        try:
            asyncio.run(self._until_ended())
        except BaseException as error:
            self._failed.append(error)

    async def _until_ended(self) -> None:
        store, refresher = self._store, self._platform.refresher
        registry = WorkflowRegistry()
        registry.add(WORKFLOW, refresher.refresh)
        registry.add(APPLY, ApplyWorkflow(store, refresher).run)
        executor = Executor(store.database, registry, f"in-process-{os.getpid()}-{secrets.token_hex(4)}")
        stop = asyncio.Event()
        working = asyncio.create_task(executor.run_until(stop))
        try:
            while not self._left.is_set() and not working.done():
                if (await asyncio.to_thread(store.runs.get, store.scope, self._run)).status in ENDED:
                    break
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            stop.set()
            await working
