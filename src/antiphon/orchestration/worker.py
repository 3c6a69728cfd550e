"""The worker: durable runs, streams, the refresh schedule and housekeeping, side by side until it is told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol


class WorkerPart(Protocol):
    """A duty of the worker; implemented by ``durable.executor.Executor``, the classes of this package and others."""

    async def run_until(self, stop: asyncio.Event) -> None: ...


async def work(parts: Sequence[WorkerPart], stop: asyncio.Event) -> None:
    """Run until ``stop``: runs finish their step, streams their batch of events.

    When one part ends with an error the others are stopped and the error is raised: the supervisor starts the
    worker again, and leases and offsets carry on where it was.
    """
    async with asyncio.TaskGroup() as group:
        for part in parts:
            group.create_task(part.run_until(stop))
