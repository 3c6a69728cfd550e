"""Publications of one project: reading them, taking them back, and how much of their answers was reused."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from antiphon.catalog.receipt_counts import ReceiptCounts, ReuseCount
from antiphon.core.clock import Clock
from antiphon.core.scope import Scope
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.project.store import Store


class ProjectPublications:
    """Publications; a rollback restores the files and streamed events that the old snapshots need."""

    def __init__(self, store: Store, features: FeaturePlatform) -> None:
        self._store = store
        self._features = features

    def current(self, scope: Scope) -> Any:
        return self._store.publications.current(scope)

    def list(self, scope: Scope, limit: int = 50) -> Any:
        return self._store.publications.list(scope, limit)

    def rollback(self, scope: Scope, to: int, reason: str, principal: str) -> Any:
        published = self._features.rollback(scope, to, reason=reason, principal=principal)
        self._store.audit.append(
            scope, principal, "publication.rollback", str(published.number), {"to": to, "reason": reason}
        )
        return published


class RecentReuse:
    """What of the last hour's online answers was reused; counted at most every quarter of a minute."""

    def __init__(self, receipts: ReceiptCounts, clock: Clock) -> None:
        self._receipts = receipts
        self._clock = clock
        self._counted: dict[Scope, tuple[float, Sequence[ReuseCount]]] = {}

    def of(self, scope: Scope) -> Sequence[ReuseCount]:
        now = self._clock.monotonic()
        known = self._counted.get(scope)
        if known is None or now - known[0] > 15.0:
            since = self._clock.now() - timedelta(hours=1)
            known = self._counted[scope] = (now, self._receipts.reuse(scope, since))
        return known[1]
