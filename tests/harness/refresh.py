"""A refresh of a project's views, run to its end in the process of the test."""

from __future__ import annotations

import asyncio

from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.run import ENDED
from antiphon.features.offline.refresh import WORKFLOW
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.project.store import Store


async def run_refresh(store: Store, platform: FeaturePlatform, *views: str, ends: str = "succeeded") -> None:
    """Order a refresh, of all views unless some are named, and work until it has ended as it should."""
    registry, stop = WorkflowRegistry(), asyncio.Event()
    registry.add(WORKFLOW, platform.refresher.refresh)
    run = platform.refresh(store.scope, views=views, reason="nightly", principal="ops")
    working = asyncio.create_task(Executor(store.database, registry, "test", store.scope, poll=0.01).run_until(stop))
    async with asyncio.timeout(60):
        while store.runs.get(store.scope, run).status not in ENDED:
            await asyncio.sleep(0.01)
    stop.set()
    await working
    ended = store.runs.get(store.scope, run)
    assert ended.status == ends, ended.error
