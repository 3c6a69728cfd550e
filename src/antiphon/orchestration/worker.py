"""The worker: durable runs, streams, schedules and housekeeping, side by side until it is told to stop.

Housekeeping removes now and then what no publication needs any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from antiphon.catalog.doorbell import Wakeup
from antiphon.core.clock import ClockAgreement
from antiphon.core.errors import AntiphonError

_log = logging.getLogger("antiphon.worker")

HOUR = 3_600.0


class WorkerPart(Protocol):
    """A duty of the worker; implemented by ``durable.executor.Executor``, the classes of this package and others."""

    async def run_until(self, stop: asyncio.Event) -> None: ...


async def work(parts: Sequence[WorkerPart], stop: asyncio.Event) -> None:
    """Run until ``stop``: runs finish their step, streams their batch of events.

    When one part ends with an error the others are stopped and the error is raised: the supervisor starts the
    worker again, and leases and offsets carry on where it was. Parts that fail by themselves are
    ``orchestration.restarted_parts``.
    """
    async with asyncio.TaskGroup() as group:
        for part in parts:
            group.create_task(part.run_until(stop))


SOON = 1.0
"""The pause when something is due that could not be done."""


class HousekeepingTask:
    """Calls ``collect`` once an interval, the first time an interval after the start.

    Args:
        wakeup: rings when there may be something sooner; with a doorbell the interval is longer at rest.
        due: tells in how many seconds there is something; ``None``: nothing is known of.
        clock: for what deletes by age: nothing is collected until the wall clock has not been set for ``settled``
            seconds, because what is deleted does not come back when the clock does.
    """

    def __init__(
        self,
        collect: Callable[[], Any],
        *,
        every: float = HOUR,
        name: str = "Collected garbage",
        clock: ClockAgreement | None = None,
        settled: float = HOUR,
        wakeup: Wakeup | None = None,
        due: Callable[[], float | None] | None = None,
    ) -> None:
        self._collect = collect
        self._clock = clock
        self._settled = settled
        self.name = name
        self._every = every
        self._wakeup = wakeup or Wakeup()
        self._due = due

    async def run_until(self, stop: asyncio.Event) -> None:
        """Collect until ``stop``. A collection that fails is tried again an interval later: garbage can wait."""
        with self._wakeup as wakeup:
            pause = await self._pause()
            while not stop.is_set():
                await wakeup.wait_until(stop, pause, found=False)
                if stop.is_set():
                    return
                if self._clock is not None and (left := self._settled - self._clock.seconds()) > 0:
                    pause = min(left, self._every)  # A machine that is often asleep has no whole interval to wait.
                    continue
                try:
                    if found := await asyncio.to_thread(self._collect):
                        _log.info("%s: %s", self.name, found)
                except Exception:  # It ends neither the worker nor the duties beside it.
                    _log.exception("%s: it failed and is tried again later.", self.name)
                pause = await self._pause()

    async def _pause(self) -> float:
        if self._due is None:
            return self._wakeup.rested(self._every)
        try:
            seconds = await asyncio.to_thread(self._due)
        except AntiphonError:  # The catalog is away.
            return self._every
        every = self._wakeup.rested(self._every)
        return every if seconds is None else min(every, seconds if seconds > 0 else SOON)
