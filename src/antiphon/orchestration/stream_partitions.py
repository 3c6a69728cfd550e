"""Stream partitions: which of them this worker consumes, under a lease each, as workers of its project come and go.

Invariants: every worker computes the same division from the leases of those that live, in ranges, so that a stream is
read by as few of them as can be: who has a part of a stream reads all of it. A partition changes hands by being given
back or by the end of its lease, never by being wanted. The leases spare work: that two workers consume a partition for
a moment changes nothing, because the overlay moves its progress only from where it was read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping

from antiphon.catalog.doorbell import Wakeup
from antiphon.catalog.process_leases import ProcessLeases
from antiphon.core.errors import AntiphonError
from antiphon.features.online.overlay_records import PARTITIONS
from antiphon.orchestration.duties import LOOK_SECONDS, LeaseHolder

_log = logging.getLogger("antiphon.worker")


def assigned(
    streams: Collection[str], shares: int, workers: Collection[str], worker: str
) -> Mapping[str, frozenset[int]]:
    """The partitions of each stream that are one worker's.

    A stream has so many shares, of as many partitions, give or take one; of N shares and W workers each has N/W, give
    or take one.
    """
    every = [(stream, share) for stream in sorted(streams) for share in range(shares)]
    ordered = sorted(workers)
    place, count = ordered.index(worker), len(ordered)
    found: dict[str, frozenset[int]] = {}
    for stream, share in every[place * len(every) // count : (place + 1) * len(every) // count]:
        own = frozenset(part for part in range(PARTITIONS) if part * shares // PARTITIONS == share)
        found[stream] = found.get(stream, frozenset()) | own
    return found


def held_partitions(leases: ProcessLeases, tenant: str) -> Mapping[str, Mapping[str, tuple[int, ...]]]:
    """The partitions of a tenant's streams as they are held now: by stream, and by the worker's name."""
    living = leases.living(_prefix(tenant))
    workers = {one.holder: name for one in living if (name := one.name.removeprefix(_worker(tenant, ""))) != one.name}
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for lease in living:
        place = lease.name.removeprefix(_partition(tenant, ""))
        if place != lease.name:
            stream, _, number = place.rpartition("/")
            held = found.setdefault(stream, {})
            # A worker that has just given its own lease back is still the process that holds these.
            name = workers.get(lease.holder, lease.holder)
            held[name] = tuple(sorted((*held.get(name, ()), int(number))))
    return found


def _prefix(tenant: str) -> str:
    return f"streams/{tenant}/"


def _worker(tenant: str, name: str) -> str:
    return f"{_prefix(tenant)}worker/{name}"


def _partition(tenant: str, place: str) -> str:
    return f"{_prefix(tenant)}partition/{place}"


class StreamPartitions:
    """Holds the leases of the partitions that are this worker's; a part of a duty of its holder, which renews them.

    Args:
        tenant: whose streams; other tenants' workers have leases of their own.
        worker: its name, unique among the workers of an environment.
        streams: the streams that are followed now; ``shares``: workers among which one is divided at most.
        changed: called, in the event loop, when there are others than before.
        wakeup: rings when there may be other streams or workers.
    """

    def __init__(
        self,
        holder: LeaseHolder,
        tenant: str,
        worker: str,
        *,
        streams: Callable[[], Collection[str]],
        shares: int = 1,
        changed: Callable[[], None] = lambda: None,
        wakeup: Wakeup | None = None,
    ) -> None:
        self._holder = holder
        self._tenant = tenant
        self._worker = _worker(tenant, worker)
        self._streams = streams
        self._shares = shares
        self._changed = changed
        self._wakeup = wakeup or Wakeup()
        self._held: frozenset[str] = frozenset()
        self._shared = True

    @property
    def owned(self) -> Mapping[str, frozenset[int]]:
        """The partitions of each stream that are this worker's, as far as it knows."""
        found: dict[str, set[int]] = {}
        for name in filter(self._holder.holds, self._held):
            stream, _, number = name.removeprefix(_partition(self._tenant, "")).rpartition("/")
            found.setdefault(stream, set()).add(int(number))
        return {stream: frozenset(numbers) for stream, numbers in found.items()}

    async def run_until(self, stop: asyncio.Event) -> None:
        """Hold this worker's part until ``stop``; then give it back.

        While the catalog is away no other worker takes a lease, so what is held stays. Where only this process is cut
        off, another one takes over beside it.
        """
        try:
            with self._wakeup as wakeup:
                while not stop.is_set():
                    before = self._held
                    try:
                        await self.balance()
                    except AntiphonError as error:  # Or what is applied cannot be read.
                        _log.warning("The leases of stream partitions cannot be renewed: %s", error)
                    if self._held != before:
                        self._changed()
                    # Another's end goes unnoticed otherwise; until there is one, all is this worker's.
                    pause = self._holder.seconds / 3
                    pause = min(LOOK_SECONDS, pause) if self._shared else wakeup.rested(pause)
                    await wakeup.wait_until(stop, pause, found=False)
        finally:
            names, self._held = [self._worker, *self._held], frozenset()
            await self._holder.release(*names)

    async def balance(self) -> None:
        """Give back what is another worker's by now, and take what is this one's and free.

        Raises:
            UnavailableError: the catalog is away; what is held stays.
        """
        holder = self._holder
        if not (streams := await asyncio.to_thread(self._streams)):
            given, self._held, self._shared = self._held, frozenset(), False
            if given or holder.holds(self._worker):
                await holder.release(self._worker, *given)
            return
        own, free = await asyncio.to_thread(self._divided, streams)
        given = self._held - own
        self._held &= own  # First: a partition that is given back is not consumed any more.
        if given:
            await holder.release(*given)
        if free or not holder.holds(self._worker):
            await holder.acquire_all([self._worker, *sorted(free)])
        else:
            await holder.renew(self._worker)
        held = frozenset(name for name in self._held | free if holder.holds(name))
        if lost := len(self._held - held):
            _log.info("%d stream partitions that were this worker's are another's now", lost)
        self._held = held

    def _divided(self, streams: Collection[str]) -> tuple[frozenset[str], frozenset[str]]:
        """The partitions that are to be this worker's, and those of them that nobody has."""
        living = self._holder.living(_prefix(self._tenant))
        workers = {name for name in living if name.startswith(_worker(self._tenant, ""))} | {self._worker}
        self._shared = len(workers) > 1
        divided = assigned(streams, self._shares, workers, self._worker)
        own = frozenset(_partition(self._tenant, f"{stream}/{part}") for stream in divided for part in divided[stream])
        this = self._holder.name
        return own, frozenset(name for name in own - self._held if living.get(name, this) == this)
