"""Incidents that no worker looks for: while none has the tenant's duties, a gateway does.

A worker that ends again and again is an incident that it cannot see itself.
"""

from __future__ import annotations

from collections.abc import Callable

from antiphon.catalog.process_leases import ProcessLeases
from antiphon.core.clock import Clock
from antiphon.features.publication.healing import SnapshotHealth
from antiphon.operations.processes import ProcessIdentity
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.incidents.watch import IncidentWatch
from antiphon.services.project.store import Store

AFTER_SECONDS = 12.0
"""For so long nobody has to have the duties: a worker that is started again has them sooner."""


class StandInWatch:
    """Assesses incidents while nobody else does. Two that do it at once find each other's incidents.

    Args:
        attended: tells whether another process has the tenant's duties.
        watch: makes a watch, which reads the last hour at first.
    """

    def __init__(self, attended: Callable[[], bool], watch: Callable[[], IncidentWatch], clock: Clock) -> None:
        self._attended = attended
        self._make = watch
        self._clock = clock
        self._alone_since: float | None = None
        self._watch: IncidentWatch | None = None

    def look(self) -> int:
        """Assess, if nobody else has for a while; how many incidents changed."""
        if self._attended():
            self._alone_since = self._watch = None
            return 0
        now = self._clock.monotonic()
        if self._alone_since is None:
            self._alone_since = now
        if now - self._alone_since < AFTER_SECONDS:
            return 0
        self._watch = self._watch or self._make()
        return self._watch.assess()


def stand_in_watch(store: Store, features: FeaturePlatform, health: SnapshotHealth) -> StandInWatch:
    """For a gateway, of the project's own tenant."""
    leases, process = ProcessLeases(store.database, store.scope.environment), ProcessIdentity.own()

    def attended() -> bool:
        lease = leases.find(duties_of(store.scope.tenant))
        now = store.database.clock.now()
        return lease is not None and lease.until >= now and not process.has_ended(lease.holder)

    return StandInWatch(attended, lambda: IncidentWatch(store, features, health), store.database.clock)


def duties_of(tenant: str) -> str:
    """The lease of the process that has a tenant's duties."""
    return f"duties/{tenant}"
