"""Remedies of freshness contracts over one project's snapshots, sources and log."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from datetime import datetime

from antiphon.core.clock import microseconds, parse_duration
from antiphon.core.scope import Scope
from antiphon.definitions.application import Freshness
from antiphon.features.freshness import rule_of
from antiphon.features.offline.compute import ComputeLimits
from antiphon.features.online.remedies import ContractViolation, Recomputer, SubstituteValue, previous
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.project.store import Store


class ProjectRemedies:
    """``remedied`` is serving's ``RemedyFinder``."""

    def __init__(self, store: Store, platform: FeaturePlatform) -> None:
        self._store = store
        self._platform = platform
        self._lock = threading.Lock()
        self._recomputing: dict[Scope, Recomputer] = {}

    def remedied(
        self,
        scope: Scope,
        view: tuple[str, str],
        keys: Sequence[Mapping[str, str]],
        as_of: datetime,
        contract: Freshness,
        publication: int,
    ) -> list[dict[str, SubstituteValue]]:
        """Of each entity what stands in the place of stale values of a view (name, definition version)."""
        violation = ContractViolation(
            view=view[0],
            definition_version=view[1],
            as_of=microseconds(as_of),
            rule=rule_of(contract),
            publication=publication,
            seconds=parse_duration(contract.within).total_seconds(),
        )
        if contract.when_stale == "previous":
            return previous(self._platform.published(scope).earlier(*view, publication), violation, keys)
        spec = self._store.definitions.get(scope, *view)
        return self._of(scope).recompute(spec, violation, keys)

    def _of(self, scope: Scope) -> Recomputer:
        with self._lock:
            found = self._recomputing.get(scope)
            if found is None:
                store = self._store
                found = self._recomputing[scope] = Recomputer(
                    scope, store.events, store.database.clock, ComputeLimits(threads=1, memory=512)
                )
            return found
