"""Remedies of freshness contracts over one project's snapshots, sources and log."""

from __future__ import annotations

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
from antiphon.serving.ports import RemedyFinder


def find_remedies(store: Store, platform: FeaturePlatform) -> RemedyFinder:
    """Finds what stands in the place of stale values."""
    recomputer = Recomputer(store.events, store.database.clock, ComputeLimits(threads=1, memory=512))

    def remedied(
        scope: Scope,
        view: tuple[str, str],
        keys: Sequence[Mapping[str, str]],
        as_of: datetime,
        contract: Freshness,
        publication: int,
    ) -> list[dict[str, SubstituteValue]]:
        seconds = parse_duration(contract.within).total_seconds()
        violation = ContractViolation(view[0], microseconds(as_of), rule_of(contract), seconds)
        if contract.when_stale == "previous":
            return previous(platform.published(scope).earlier(*view, publication), violation, keys)
        return recomputer.recompute(scope, store.definitions.get(scope, *view), violation, keys)

    return remedied
