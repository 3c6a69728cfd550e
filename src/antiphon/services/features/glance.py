"""Every view of one project at a glance: what is published, how old it may be, what stands in its way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import msgspec

from antiphon.catalog.holds import FeatureHolds, Hold
from antiphon.catalog.skew_reports import ViewSkew
from antiphon.core.clock import from_microseconds, microseconds, parse_duration
from antiphon.core.errors import AntiphonError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.streaming.consumer import StreamPosition
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.features.view_status import ViewFreshness, ViewGlance
from antiphon.services.project.store import Store


class FeatureGlance:
    """Reads catalog and overlay; computes nothing."""

    def __init__(self, store: Store, platform: FeaturePlatform) -> None:
        self._store = store
        self._platform = platform

    def __call__(self, scope: Scope) -> Sequence[ViewGlance]:
        """Every view that the project declares or a release in use pins; of another scope, none."""
        store = self._store
        if not self._platform.serves(scope):
            return ()
        now = store.database.clock.now()
        specs, contracts = self._platform.views(), self._contracts(scope)
        held = FeatureHolds(store.database).of(scope)
        waiting: dict[tuple[str, str], datetime] = {}
        for one in store.staged.list(scope):
            waiting[one.view, one.definition_version] = one.publish_at
        consumed = self._consumed(specs)
        skew = store.skew_reports.standing(scope)
        found: list[ViewGlance] = []
        for fresh in self._platform.freshness(scope):
            key = (fresh.view, fresh.definition_version)
            spec = specs[f"{fresh.view}@{fresh.definition_version}"]
            stream = consumed.get(key)
            found.append(
                self._glance(
                    scope,
                    fresh,
                    spec,
                    now,
                    contracts.get(fresh.view, {}),
                    held.get(fresh.view),
                    waiting.get(key),
                    stream,
                    skew.get(fresh.view),
                )
            )
        return found

    def _glance(
        self,
        scope: Scope,
        fresh: ViewFreshness,
        spec: FeatureViewSpec,
        now: datetime,
        contracts: Mapping[str, float],
        held: Hold | None,
        staged_until: datetime | None,
        stream: StreamPosition | None,
        skew: ViewSkew | None,
    ) -> ViewGlance:
        lag = None if stream is None else max(0, stream.end - stream.offset)
        since = stream.waiting_since if stream is not None else None
        lag_seconds = None if stream is None else 0.0 if since is None else max(0.0, (now - since).total_seconds())
        age = fresh.age_seconds if spec.source.kind != "stream" else lag_seconds
        stale = tuple(name for name, most in sorted(contracts.items()) if age is not None and age > most)
        known: dict[str, Any] = msgspec.structs.asdict(fresh)
        return ViewGlance(
            **known,
            state="differs" if skew is not None and skew.different else _state(fresh, held, staged_until, stale, spec),
            keys=spec.entity.keys,
            source=spec.source.name,
            features=tuple(spec.features),
            contracts=dict(contracts),
            stale_for=stale,
            next_refresh=_next(spec, now),
            quarantined=self._quarantined(scope, fresh),
            staged_until=staged_until,
            held=None if held is None else held.reason,
            lag=lag,
            lag_seconds=lag_seconds,
            skew=skew,
        )

    def _contracts(self, scope: Scope) -> dict[str, dict[str, float]]:
        """View to application to the seconds that its live release lets it be old."""
        found: dict[str, dict[str, float]] = {}
        for application in self._store.releases.applications(scope):
            live = self._store.releases.live(scope, application)
            for view, contract in (live.bundle.application.freshness if live is not None else {}).items():
                found.setdefault(view, {})[application] = parse_duration(contract.max_age).total_seconds()
        return found

    def _consumed(self, specs: Mapping[str, FeatureViewSpec]) -> dict[tuple[str, str], StreamPosition]:
        consumer = self._platform.consumer
        consumer.follow(specs.values())
        found: dict[tuple[str, str], StreamPosition] = {}
        for stream in sorted({spec.source.name for spec in specs.values() if spec.source.kind == "stream"}):
            # Where the log is away, or this stream is not whole, everything else is told all the same.
            with suppress(AntiphonError):
                found |= {(one.view, one.definition_version): one for one in consumer.status((stream,))}
        return found

    def _quarantined(self, scope: Scope, fresh: ViewFreshness) -> int:
        if fresh.snapshot is None:
            return 0
        try:
            kept = self._store.snapshots.get(scope, fresh.snapshot).quarantined
        except NotFoundError:
            return 0
        return 0 if kept is None else kept.rows


def _next(spec: FeatureViewSpec, now: datetime) -> datetime | None:
    """The next slot of the schedule: multiples of the cadence since 1970."""
    if spec.refresh is None:
        return None
    return from_microseconds((microseconds(now) // spec.refresh + 1) * spec.refresh)


def _state(
    fresh: ViewFreshness,
    held: Hold | None,
    staged_until: datetime | None,
    stale: tuple[str, ...],
    spec: FeatureViewSpec,
) -> str:
    if fresh.blocked:
        return "blocked"
    if held is not None:
        return "held"
    if stale:
        return "late" if spec.source.kind == "stream" else "stale"
    if staged_until is not None:
        return "waiting"
    return "never" if fresh.snapshot is None else "fresh"
