"""A refresh or an apply that the caller waits for: done in this process, or by a worker that claims it first."""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import msgspec

from antiphon.core.errors import InvalidInputError
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.run import ENDED, Run
from antiphon.features.offline.refresh import WORKFLOW
from antiphon.operations.processes import statuses
from antiphon.services.apply.workflow import NOTHING_CHANGED, ApplyResult, ApplyWorkflow
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.project.store import Store
from antiphon.services.workflows import APPLY, POLICIES

_LOOK_SECONDS = 0.05
_LEFT_TO_WORKER_SECONDS = 1.0
"""Time that a run may stay queued while a worker runs."""


def refresh_now(store: Store, platform: FeaturePlatform, run: str) -> dict[str, Any]:
    """Work until a run of the refresh workflow has ended; its result. Another run that waits may be worked off beside
    it. Raises ``InvalidInputError`` when the run failed or was cancelled, and says why."""
    _begin(store, platform, run, threading.Event()).result()
    ended = store.runs.get(store.scope, run)
    if ended.status != "succeeded":
        raise InvalidInputError(
            f"The refresh {ended.status}: {(ended.error or 'it was canceled').rstrip('.')}.",
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
    here: Future[None] | None = None
    own: FeaturePlatform | None = None
    stop = threading.Event()
    began = time.monotonic()
    try:
        while True:
            found = store.runs.get(store.scope, run)
            tell(found)
            if found.status in ENDED:
                break
            if here is not None and here.done():
                ended, here = here, None
                ended.result()  # Raises what ended it; one that has only stopped is started again.
            queued = found.status == "queued" and time.monotonic() - began > _LEFT_TO_WORKER_SECONDS
            if here is None and (queued or not worker_runs(store)):
                if platform is None:
                    platform = own = FeaturePlatform(store)
                here = _begin(store, platform, run, stop)
            time.sleep(_LOOK_SECONDS)
    finally:
        if here is not None:
            stop.set()
            here.result()
        if own is not None:
            own.close()
    if found.status == "succeeded":
        return msgspec.convert(found.result, ApplyResult)
    if found.status == "cancelled":
        raise InvalidInputError(
            f"The apply was cancelled, by hand or by another apply. {NOTHING_CHANGED}",
            where=run,
            next_step="`antiphon plan` shows what is not applied.",
        )
    raise InvalidInputError(
        found.error or NOTHING_CHANGED, where=run, next_step=f"`antiphon runs show {run}` has its steps."
    )


def worker_runs(store: Store) -> bool:
    """Tells whether a worker of this project runs on this machine."""
    return any(one.name == "worker" and one.alive for one in statuses(store.paths.run))


def _begin(store: Store, platform: FeaturePlatform, run: str, left: threading.Event) -> Future[None]:
    """Begin to work in a thread of its own, because a notebook has an event loop already: until the run has ended, or
    ``left`` is set and what has not ended is given back."""
    thread = ThreadPoolExecutor(1, "in-process worker")
    working = thread.submit(lambda: asyncio.run(_work_until_ended(store, platform, run, left)))
    thread.shutdown(wait=False)
    return working


async def _work_until_ended(store: Store, platform: FeaturePlatform, run: str, left: threading.Event) -> None:
    registry = WorkflowRegistry()
    registry.add(WORKFLOW, platform.refresher.refresh, POLICIES[WORKFLOW])
    registry.add(APPLY, ApplyWorkflow(store, platform.refresher).run, POLICIES[APPLY])
    executor = Executor(store.database, registry, f"in-process-{os.getpid()}-{secrets.token_hex(4)}", store.scope)
    stop = asyncio.Event()
    working = asyncio.create_task(executor.run_until(stop))
    try:
        while not left.is_set() and not working.done():
            if (await asyncio.to_thread(store.runs.get, store.scope, run)).status in ENDED:
                break
            await asyncio.sleep(_LOOK_SECONDS)
    finally:
        stop.set()
        await working
