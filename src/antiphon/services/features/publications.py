"""Publications of one project: reading them and rolling them back."""

from __future__ import annotations

from typing import Any

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
