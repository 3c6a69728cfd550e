"""Duties: parts of the worker that one process of an environment has at a time, under a lease; the others stand by.

Invariant: each part bears that two processes do it for a moment (numbers by compare-and-swap, runs by keys, offsets
that only grow): the lease spares doing things twice, it does not make them right.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from time import monotonic

from antiphon.catalog.process_leases import ProcessLeases
from antiphon.core.errors import UnavailableError
from antiphon.orchestration.worker import WorkerPart, wait, work

_log = logging.getLogger("antiphon.worker")

LOOK_SECONDS = 2.0
"""Interval at which a process that stands by looks for the lease, without the write lock."""


class Duties:
    """Runs parts while this process holds the lease of their name.

    Args:
        holder: names this process among all; ``gone`` tells of another one that it is known to have ended.
        seconds: of the lease: when its holder's machine is gone another process takes over after so long.
        detail: said with each renewal, for those who list the leases.
        conflict: what to do where another process must not have it for long; ``None`` where one does it for all.
    """

    def __init__(
        self,
        name: str,
        parts: Sequence[WorkerPart],
        leases: ProcessLeases,
        holder: str,
        gone: Callable[[str], bool],
        *,
        seconds: float,
        detail: Callable[[], str | None] = lambda: None,
        conflict: str | None = None,
    ) -> None:
        self._name = name
        self._parts = parts
        self._leases = leases
        self._holder = holder
        self._gone = gone
        self._seconds = seconds
        self._detail = detail
        self._conflict = conflict
        self.held = False
        """True while this process has the lease, as far as it knows."""

    async def run_until(self, stop: asyncio.Event) -> None:
        """Hold the lease or wait for it, until ``stop``; then give it back."""
        since: float | None = None
        warned = False
        while not stop.is_set():
            if (acquired := await self._acquired()) is not True:
                if acquired is None:
                    since = None  # The catalog is away: nobody is known to have it.
                elif since is None:
                    _log.info("another process has %s; this one stands by", self._name)
                    since, warned = monotonic(), self._conflict is None
                elif not warned and monotonic() - since > self._seconds:
                    warned = await self._warned()
                await wait(stop, min(LOOK_SECONDS, self._seconds / 3))
                continue
            since, self.held = None, True
            ended = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                group.create_task(work(self._parts, ended))
                group.create_task(self._hold(stop, ended))
            try:
                await asyncio.to_thread(self._leases.release, self._name, self._holder)
            except UnavailableError:
                _log.warning("the catalog is away; the lease of %s ends by itself", self._name)
            self.held = False

    async def _warned(self) -> bool:
        """Name the holder, which has renewed the lease since this process began to wait: it is not a dead one's."""
        try:
            found = await asyncio.to_thread(self._leases.find, self._name)
        except UnavailableError:
            return False
        if found is not None:
            _log.warning("%s is held by another process, %s; %s", self._name, found.holder, self._conflict)
        return found is not None

    async def _hold(self, stop: asyncio.Event, ended: asyncio.Event) -> None:
        """Renew the lease; end the parts when it is another's, or at ``stop``."""
        try:
            while not stop.is_set():
                await wait(stop, self._seconds / 3)
                # While the catalog is away for all, none takes the lease; one that is cut off alone does things twice.
                if await self._acquired() is False:
                    _log.warning("another process took %s over", self._name)
                    return
        finally:
            ended.set()

    async def _acquired(self) -> bool | None:
        """``True`` while the lease is ours, ``None`` when the catalog does not say."""
        try:
            return await asyncio.to_thread(
                self._leases.acquire, self._name, self._holder, self._seconds, self._gone, self._detail()
            )
        except UnavailableError:
            return None
