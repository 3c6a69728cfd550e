"""The worker: durable runs, streams, the refresh schedule and housekeeping, side by side until it is told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from antiphon.orchestration.ports import Part


async def work(parts: Sequence[Part], stop: asyncio.Event) -> None:
    """Run until ``stop``: runs finish their step, streams their batch of events.

    When one part ends with an error the others are stopped and the error is raised: the supervisor starts the
    worker again, and leases and offsets carry on where it was.
    """
    async with asyncio.TaskGroup() as group:
        for part in parts:
            group.create_task(part.run_until(stop))
