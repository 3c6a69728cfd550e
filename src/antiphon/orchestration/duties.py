"""Duties: parts of the worker that one process of an environment has at a time, under a lease; the others stand by.

Invariant: each part bears that two processes do it for a moment (numbers by compare-and-swap, runs by keys, offsets
that only grow): the lease spares doing things twice, it does not make them right.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress

from antiphon.catalog.process_leases import ProcessLeases
from antiphon.core.errors import UnavailableError
from antiphon.core.pauses import almost, wait
from antiphon.orchestration.worker import WorkerPart, work

_log = logging.getLogger("antiphon.worker")

LOOK_SECONDS = 2.0
"""Interval at which a process that stands by looks for the lease, without the write lock."""


Detail = Callable[[], str | None]
"""Gives what the holder of a lease says of itself, at each renewal; ``None`` while there is nothing to say."""


def _nothing() -> None:
    return None


class LeaseHolder:
    """A process as the holder of leases, which it takes as they come and renews together, in one transaction.

    Invariant: only what is held is renewed: a lease that was given back, lost or left is not taken again.

    Args:
        name: names this process among all; ``gone`` tells of another one that it is known to have ended.
        seconds: of a lease: when its holder's machine is gone another process takes over after so long.
    """

    def __init__(
        self,
        leases: ProcessLeases,
        name: str,
        gone: Callable[[str], bool],
        *,
        seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._leases = leases
        self.name = name
        self._gone = gone
        self.seconds = seconds
        self._monotonic = monotonic
        self._held: dict[str, Detail] = {}
        self._renewed_at = float("-inf")
        self._renewal: asyncio.Task[None] | None = None

    def holds(self, lease: str) -> bool:
        """Tell whether this process has a lease, as far as it knows."""
        return lease in self._held

    async def acquire(self, lease: str, detail: Detail = _nothing) -> bool | None:
        """Take a lease; ``None`` when the catalog does not say whether it is ours."""
        began = self._monotonic()
        try:
            acquired = await asyncio.to_thread(
                self._leases.acquire, lease, self.name, self.seconds, self._gone, detail()
            )
        except UnavailableError:
            return None
        if acquired:
            self._acquired({lease: detail}, began)
        return acquired

    async def acquire_all(self, leases: Collection[str]) -> None:
        """Take of several leases those that are free, in one transaction.

        Raises:
            UnavailableError: the catalog is away.
        """
        due, began = dict.fromkeys(leases), self._monotonic()
        acquired = await asyncio.to_thread(self._leases.acquire_all, due, self.name, self.seconds, self._gone)
        self._acquired(dict.fromkeys(acquired, _nothing), began)

    def _acquired(self, leases: Mapping[str, Detail], at: float) -> None:
        if not self._held:
            self._renewed_at = at
        self._held |= leases

    async def renew(self, lease: str) -> bool | None:
        """Tell whether a lease is still ours; all that are held are renewed when a third of their time is over.
        ``None`` when the catalog does not say."""
        if self._renewal is None and self._monotonic() - self._renewed_at >= almost(self.seconds / 3):
            self._renewal = asyncio.create_task(self._renew())
        if self._renewal is not None:
            try:
                await asyncio.shield(self._renewal)
            except UnavailableError:
                return None
        return lease in self._held

    async def _renew(self) -> None:
        began = self._monotonic()
        due = {lease: detail() for lease, detail in self._held.items()}
        try:
            kept = await asyncio.to_thread(self._leases.acquire_all, due, self.name, self.seconds, self._gone)
            self._renewed_at = began
            for lease in due.keys() - kept:
                self._held.pop(lease, None)
        finally:
            self._renewal = None

    async def release(self, *leases: str) -> None:
        """Give leases back. While the catalog is away they end by themselves."""
        self.leave(*leases)
        if self._renewal is not None:  # It would take them again.
            with suppress(UnavailableError):
                await asyncio.shield(self._renewal)
        try:
            await asyncio.to_thread(self._leases.release_all, leases, self.name)
        except UnavailableError:
            _log.warning("the catalog is away; the lease of %s ends by itself", ", ".join(leases))

    def leave(self, *leases: str) -> None:
        """Renew these no more: they end by themselves."""
        for lease in leases:
            self._held.pop(lease, None)

    async def other(self, lease: str) -> str | None:
        """The holder of a lease that is another's; ``None`` where there is none, or the catalog does not say."""
        try:
            found = await asyncio.to_thread(self._leases.find, lease)
        except UnavailableError:
            return None
        return None if found is None else found.holder

    def living(self, prefix: str) -> Mapping[str, str]:
        """Leases of all names that begin so to their holders, without those that are known to have ended.

        Raises:
            UnavailableError: the catalog is away.
        """
        listed = self._leases.living(prefix)
        return {lease.name: lease.holder for lease in listed if not self._gone(lease.holder)}


class Duties:
    """Runs parts while this process holds the lease of their name.

    Args:
        detail: said with each renewal, for those who list the leases.
        conflict: what to do where another process must not have it for long; ``None`` where one does it for all.
    """

    def __init__(
        self,
        name: str,
        parts: Sequence[WorkerPart],
        holder: LeaseHolder,
        *,
        detail: Detail = _nothing,
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
            if (acquired := await self._holder.acquire(self._name, self._detail)) is not True:
                if acquired is None:
                    since = None  # The catalog is away: nobody is known to have it.
                elif since is None:
                    _log.info("another process has %s; this one stands by", self._name)
                    since, warned = time.monotonic(), self._conflict is None
                elif not warned and time.monotonic() - since > self._holder.seconds:
                    warned = await self._warned()
                await wait(stop, min(LOOK_SECONDS, self._holder.seconds / 3))
                continue
            since, self.held = None, True
            ended = asyncio.Event()
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(work(self._parts, ended))
                    group.create_task(self._hold(stop, ended))
            except BaseException:
                self._holder.leave(self._name)
                raise
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
                if await self._holder.renew(self._name) is False:
                    _log.warning("another process took %s over", self._name)
                    return
        finally:
            ended.set()
