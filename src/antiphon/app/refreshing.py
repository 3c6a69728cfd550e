"""A refresh that the caller waits for: in this process, or in a worker's that claims it first."""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
from typing import Any

from antiphon.app.features import FeaturePlatform
from antiphon.app.store import Store
from antiphon.core.errors import InvalidInput
from antiphon.durable.executor import Executor
from antiphon.durable.registry import Registry
from antiphon.durable.run import ENDED
from antiphon.features.refresh import WORKFLOW

_LOOK_SECONDS = 0.05


def refresh_now(store: Store, platform: FeaturePlatform, run: str) -> dict[str, Any]:
    """Work until a run of the refresh workflow has ended; its result.

    Another run that waits may be worked off beside it. The loop is a thread's own, because a notebook has one already.

    Raises:
        InvalidInput: the run failed or was cancelled; says why.
    """
    failed: list[BaseException] = []

    def work() -> None:
        try:
            asyncio.run(_work(store, platform, run))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work, name="refresh")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    ended = store.runs.get(store.scope, run)
    if ended.status != "succeeded":
        raise InvalidInput(
            f"The refresh {ended.status}: {(ended.error or 'somebody cancelled it').rstrip('.')}.",
            where=run,
            next_step=f"`antiphon runs show {run}` shows its steps.",
        )
    return ended.result or {}


async def _work(store: Store, platform: FeaturePlatform, run: str) -> None:
    registry = Registry()
    registry.add(WORKFLOW, platform.refresher.refresh)
    executor = Executor(store.database, registry, f"in-process-{os.getpid()}-{secrets.token_hex(4)}")
    stop = asyncio.Event()
    working = asyncio.create_task(executor.run_until(stop))
    try:
        while (await asyncio.to_thread(store.runs.get, store.scope, run)).status not in ENDED and not working.done():
            await asyncio.sleep(_LOOK_SECONDS)
    finally:
        stop.set()
        await working
