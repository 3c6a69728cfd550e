"""The worker: durable runs, streams and the refresh schedule, side by side until it is told to stop."""

from __future__ import annotations

import asyncio

from antiphon.orchestration.ports import Executor
from antiphon.orchestration.refreshing import RefreshSchedule
from antiphon.orchestration.streams import Streams


async def work(executor: Executor, streams: Streams, schedule: RefreshSchedule | None, stop: asyncio.Event) -> None:
    """Run until ``stop``: runs finish their step, streams their batch of events.

    When one part ends with an error the others are stopped and the error is raised: the supervisor starts the
    worker again, and leases and offsets carry on where it was.
    """
    async with asyncio.TaskGroup() as parts:
        parts.create_task(executor.run_until(stop))
        parts.create_task(streams.run_until(stop))
        if schedule is not None:
            parts.create_task(schedule.run_until(stop))
