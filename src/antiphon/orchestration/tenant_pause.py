"""Pauses of what a worker does for its tenant: a suspended or deleted one has nothing ordered, consumed or answered."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence

from antiphon.catalog.doorbell import Wakeup
from antiphon.core.errors import UnavailableError
from antiphon.orchestration.duties import LOOK_SECONDS
from antiphon.orchestration.worker import WorkerPart, work

_log = logging.getLogger("antiphon.worker")


class TenantPause:
    """Pauses parts while a tenant is not active: they end when it is suspended or deleted, and begin again once it is
    resumed; while the catalog is away, what was known last holds.

    Args:
        what: the parts, in words for the log.
        state: reads the state of the tenant; called in a thread.
        every: seconds between looks at it. wakeup: rings when the tenant has something to pause.
    """

    def __init__(
        self,
        tenant: str,
        what: str,
        parts: Sequence[WorkerPart],
        state: Callable[[str], str],
        *,
        every: float = LOOK_SECONDS,
        wakeup: Wakeup | None = None,
    ) -> None:
        self._tenant = tenant
        self._what = what
        self._parts = parts
        self._read = state
        self._every = every
        self._wakeup = wakeup or Wakeup()
        self._state = "active"

    async def run_until(self, stop: asyncio.Event) -> None:
        """Run the parts whenever the tenant is active, until ``stop``."""
        with self._wakeup as wakeup:
            while not stop.is_set():
                if not await self._active():
                    await wakeup.wait_until(stop, wakeup.rested(self._every), found=False)
                    continue
                ended = asyncio.Event()
                async with asyncio.TaskGroup() as group:
                    group.create_task(work(self._parts, ended))
                    group.create_task(self._watch(stop, ended))

    async def _watch(self, stop: asyncio.Event, ended: asyncio.Event) -> None:
        """End the parts when the tenant is served no more, or at ``stop``."""
        try:
            while not stop.is_set() and await self._active():
                await self._wakeup.wait_until(stop, self._wakeup.rested(self._every), found=False)
        finally:
            ended.set()

    async def _active(self) -> bool:
        before = self._state
        with contextlib.suppress(UnavailableError):  # Said by what needs the catalog.
            self._state = await asyncio.to_thread(self._read, self._tenant)
        if self._state != before:
            if self._state == "active":
                _log.info("The tenant %s is served again: %s go on.", self._tenant, self._what)
            else:
                _log.warning("The tenant %s is %s: %s pause.", self._tenant, self._state, self._what)
        return self._state == "active"
