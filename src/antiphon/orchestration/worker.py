"""The worker: durable runs, streams, the refresh schedule and housekeeping, side by side until it is told to stop.

Housekeeping removes now and then what no publication needs any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from antiphon.core.clock import ClockAgreement

_log = logging.getLogger("antiphon.worker")

HOUR = 3_600.0


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


async def wait(stop: asyncio.Event, seconds: float) -> None:
    """Return after so many seconds, or as soon as ``stop`` is set."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return


class HousekeepingTask:
    """Calls ``collect`` once an interval, the first time an interval after the start.

    Args:
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
    ) -> None:
        self._collect = collect
        self._clock = clock
        self._settled = settled
        self._name = name
        self._every = every

    async def run_until(self, stop: asyncio.Event) -> None:
        """Collect until ``stop``. A collection that fails is tried again an interval later: garbage can wait."""
        pause = self._every
        while not stop.is_set():
            await wait(stop, pause)
            if stop.is_set():
                return
            pause = self._every
            if self._clock is not None and (left := self._settled - self._clock.seconds()) > 0:
                pause = min(left, self._every)  # A machine that is often asleep has no whole interval to wait.
                continue
            try:
                if found := await asyncio.to_thread(self._collect):
                    _log.info("%s: %s", self._name, found)
            except Exception:  # It ends neither the worker nor the duties beside it.
                _log.exception("%s: it failed and is tried again later.", self._name)
