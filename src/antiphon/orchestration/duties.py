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
from antiphon.core.pauses import wait
from antiphon.orchestration.worker import WorkerPart, work

_log = logging.getLogger("antiphon.worker")

LOOK_SECONDS = 2.0
"""Interval at which a process that stands by looks for the lease, without the write lock."""


_TOGETHER_SECONDS = 0.02
"""Renewals that are asked for within so long of each other are one transaction."""


class LeaseHolder:
    """A process as the holder of leases, which it takes one by one and renews together.

    Args:
        name: names this process among all; ``gone`` tells of another one that it is known to have ended.
        seconds: of a lease: when its holder's machine is gone another process takes over after so long.
    """

    def __init__(self, leases: ProcessLeases, name: str, gone: Callable[[str], bool], *, seconds: float) -> None:
        self._leases = leases
        self._name = name
        self._gone = gone
        self.seconds = seconds
        self._due: dict[str, str | None] = {}
        self._renewal: asyncio.Task[frozenset[str]] | None = None

    async def acquire(self, lease: str, detail: str | None = None) -> bool | None:
        """Take a lease or renew it; ``None`` when the catalog does not say whether it is ours."""
        try:
            return await asyncio.to_thread(self._leases.acquire, lease, self._name, self.seconds, self._gone, detail)
        except UnavailableError:
            return None

    async def renew(self, lease: str, detail: str | None = None) -> bool | None:
        """As :meth:`acquire` for a lease that was held, together with others that are due now."""
        self._due[lease] = detail
        if self._renewal is None:
            self._renewal = asyncio.create_task(self._renew())
        try:
            return lease in await asyncio.shield(self._renewal)
        except UnavailableError:
            return None

    async def _renew(self) -> frozenset[str]:
        await asyncio.sleep(_TOGETHER_SECONDS)
        due, self._due, self._renewal = self._due, {}, None
        return await asyncio.to_thread(self._leases.acquire_all, due, self._name, self.seconds, self._gone)

    async def release(self, lease: str) -> None:
        """Give a lease back. While the catalog is away it ends by itself."""
        try:
            await asyncio.to_thread(self._leases.release, lease, self._name)
        except UnavailableError:
            _log.warning("the catalog is away; the lease of %s ends by itself", lease)

    async def other(self, lease: str) -> str | None:
        """The holder of a lease that is another's; ``None`` where there is none, or the catalog does not say."""
        try:
            found = await asyncio.to_thread(self._leases.find, lease)
        except UnavailableError:
            return None
        return None if found is None else found.holder


class Duties:
    """Runs parts while this process holds the lease of their name.

    Args:
        detail: said with each renewal, for those who list the leases; ``None`` while there is nothing to say.
        conflict: what to do where another process must not have it for long; ``None`` where one does it for all.
    """

    def __init__(
        self,
        name: str,
        parts: Sequence[WorkerPart],
        holder: LeaseHolder,
        *,
        detail: Callable[[], str | None] = lambda: None,
        conflict: str | None = None,
    ) -> None:
        self._name = name
        self._parts = parts
        self._holder = holder
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
                elif not warned and monotonic() - since > self._holder.seconds:
                    warned = await self._warned()
                await wait(stop, min(LOOK_SECONDS, self._holder.seconds / 3))
                continue
            since, self.held = None, True
            ended = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                group.create_task(work(self._parts, ended))
                group.create_task(self._hold(stop, ended))
            await self._holder.release(self._name)
            self.held = False

    async def _warned(self) -> bool:
        """Name the holder, which has renewed the lease since this process began to wait: it is not a dead one's."""
        if other := await self._holder.other(self._name):
            _log.warning("%s is held by another process, %s; %s", self._name, other, self._conflict)
        return other is not None

    async def _hold(self, stop: asyncio.Event, ended: asyncio.Event) -> None:
        """Renew the lease; end the parts when it is another's, or at ``stop``."""
        try:
            while not stop.is_set():
                await wait(stop, self._holder.seconds / 3)
                # While the catalog is away for all, none takes the lease; one that is cut off alone does things twice.
                if await self._renewed() is False:
                    _log.warning("another process took %s over", self._name)
                    return
        finally:
            ended.set()

    async def _acquired(self) -> bool | None:
        return await self._holder.acquire(self._name, self._detail())

    async def _renewed(self) -> bool | None:
        return await self._holder.renew(self._name, self._detail())
