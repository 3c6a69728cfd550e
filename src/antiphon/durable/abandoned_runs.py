"""Take-over of runs whose worker has ended: processes that can see its end do not wait for the leases of its runs.

Invariant: a worker that was started again under the name keeps what it has claimed. The lease of the name and those of
the runs end in one transaction, and only while the process that ended holds the first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from antiphon.catalog.database import Database
from antiphon.catalog.doorbell import Wakeup
from antiphon.catalog.process_leases import ProcessLease, ProcessLeases
from antiphon.core.errors import AntiphonError, UnavailableError
from antiphon.core.pauses import almost
from antiphon.durable.claims import WORKERS
from antiphon.durable.runs import Runs

LOOK_SECONDS = 0.5
"""Interval of looks at the processes of the workers that are known."""

LIST_SECONDS = 3.0
"""Interval at which the workers are read from the catalog: one that ended sooner is seen then."""

_log = logging.getLogger(__name__)


class AbandonedRuns:
    """Ends the leases of an environment's runs whose worker is seen to have ended, so that others claim them.

    Args:
        ended: tells of a lease's holder that its end can be seen from here; of a process of another machine nothing is
            known, and its leases end by themselves.
        own: the process that looks, by the name of a lease's holder: where it is the only worker nobody is looked at.
    """

    def __init__(
        self,
        database: Database,
        environment: str,
        ended: Callable[[str], bool],
        *,
        own: str = "",
        every: float = LOOK_SECONDS,
        listed_every: float = LIST_SECONDS,
    ) -> None:
        self._database = database
        self._environment = environment
        self._leases = ProcessLeases(database, environment)
        self._runs = Runs(database)
        self._ended = ended
        self._own = own
        self._every, self._listed_every = every, listed_every

    async def run_until(self, stop: asyncio.Event) -> None:
        """Look again and again until ``stop``; while the catalog is away nothing is taken over."""
        loop, known, listed_at = asyncio.get_running_loop(), list[ProcessLease](), float("-inf")
        with Wakeup(self._database.doorbell) as wakeup:
            while not stop.is_set():
                try:
                    if loop.time() - listed_at >= almost(self._listed_every):
                        listed = await asyncio.to_thread(self._leases.listed, WORKERS)
                        known, listed_at = [one for one in listed if one.holder != self._own], loop.time()
                    for worker in [one for one in known if self._ended(one.holder)]:
                        await asyncio.to_thread(self._free, worker)
                        known.remove(worker)
                except UnavailableError:
                    pass  # Said by what needs the catalog.
                except AntiphonError as error:  # What runs beside it in this process goes on.
                    _log.warning("runs of workers that have ended cannot be freed: %s", error)
                await wakeup.wait_until(stop, self._every if known else wakeup.rested(self._listed_every))

    def free(self) -> int:
        """Look once; returns the number of runs that were freed.

        Raises:
            UnavailableError: the catalog is away.
        """
        return sum(self._free(worker) for worker in self._leases.listed(WORKERS) if self._ended(worker.holder))

    def _free(self, worker: ProcessLease) -> int:
        name = worker.name.removeprefix(WORKERS)
        with self._database.transaction() as connection:
            if not self._leases.release_all([worker.name], worker.holder, within=connection):
                return 0  # It was started again since the look, or another process was here first.
            freed = self._runs.reclaim(name, self._environment, parts=True, within=connection)
        _log.warning("worker %s has ended; %d runs that it had may be claimed", name, freed)
        return freed
