"""Status of every view of a project: its published snapshot, its age against contracts, and what blocks it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime

import msgspec

from antiphon.catalog.features.skew_reports import ViewSkew
from antiphon.catalog.schedules import ScheduleRecord
from antiphon.core.clock import parse_duration
from antiphon.core.errors import AntiphonError
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.schedules import RefreshWork
from antiphon.features.streaming.consumer import FollowerStatus, StreamedView
from antiphon.services.features import feast
from antiphon.services.features.following import follower_statuses
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.project.store import Store


class ViewStatus(msgspec.Struct, frozen=True):
    """Status of one view.

    Attributes:
        as_of: the event time that its snapshot was computed for.
        age_seconds: wall time since its values last changed or were confirmed.
        max_age_seconds: the shortest age that a contract allows.
        source_quality: share of the snapshot's source rows without a defect.
        verdict: the last one of the gates (passed, warned, blocked).
        blocked: reasons against the last version, if it is blocked; ``blocked_by`` the rules that gave them.
        state: one of differs (from what batch computes), never, blocked, held, waiting (for the end of an embargo),
            stale, late (its stream is behind a contract, or not read within the declared time from the place that it
            follows), fresh.
        contracts: allowed age in seconds by application; ``stale_for``: the applications for which it is too old.
            The age of a streamed view is that of the first event that it has not applied, or of what its followed
            place was read to.
        next_refresh: by its schedule, after the pause of that where it is paused; ``None`` without one.
        quarantined: source rows that rules kept out of its snapshot.
        staged_until: end of the embargo of a staged snapshot. ``held``: the reason of its hold.
        lag, lag_seconds: events of its stream that it has not applied, and the waiting time of the first of them.
        skew: the last comparison of batch and online.
    """

    view: str
    definition_version: str
    snapshot: str | None
    as_of: datetime | None
    refreshed_at: datetime | None
    age_seconds: float | None
    rows: int | None = None
    max_age_seconds: float | None = None
    source_quality: float | None = None
    verdict: str | None = None
    blocked: tuple[str, ...] = ()
    blocked_by: tuple[str, ...] = ()
    state: str = "fresh"
    keys: tuple[str, ...] = ()
    source: str = ""
    features: tuple[str, ...] = ()
    contracts: dict[str, float] = {}
    stale_for: tuple[str, ...] = ()
    next_refresh: datetime | None = None
    quarantined: int = 0
    staged_until: datetime | None = None
    held: str | None = None
    lag: int | None = None
    lag_seconds: float | None = None
    skew: ViewSkew | None = None


class ViewAge(msgspec.Struct, frozen=True):
    """Age of one view's values, and the applications for which they are too old, as a :class:`ViewStatus` has them."""

    view: str
    age_seconds: float | None
    contracts: Mapping[str, float]
    stale_for: tuple[str, ...]


def read_view_ages(store: Store, views: Mapping[str, FeatureViewSpec]) -> Iterator[ViewAge]:
    """Reads the age of each of the project's views, by the catalog alone: of the lag of streams it knows nothing."""
    scope, now = store.scope, store.database.clock.now()
    contracts, published = _contracts(store, scope), store.publications.snapshots(scope)
    followers = follower_statuses(store, views.values())
    for _, spec in sorted(views.items()):
        manifest = store.snapshots.find(scope, _snapshot(store, spec, published))
        age = None if manifest is None else (now - manifest.created_at).total_seconds()
        allowed = contracts.get(spec.name, {})
        yield ViewAge(spec.name, age, allowed, _stale_for(spec, age, None, followers.get(spec.source.name), allowed))


def read_view_statuses(
    store: Store, platform: FeaturePlatform, scope: Scope, *, streams: bool = True
) -> Sequence[ViewStatus]:
    """Reads the status of every view that the project declares or a release in use pins; of another scope, none.

    Args:
        streams: with their lag; without it the catalog alone is read, and an event log or overlay that is away delays
            nothing.
    """
    if not platform.serves(scope):
        return ()
    now, specs, contracts = store.database.clock.now(), platform.views(), _contracts(store, scope)
    published = store.publications.snapshots(scope)
    held, skew = store.holds.of(scope), store.skew_reports.latest_by_view(scope)
    staged = {(one.view, one.definition_version): one.publish_at for one in store.staged.list(scope)}
    positions = _positions(platform, specs, now) if streams else {}
    followers = follower_statuses(store, specs.values())
    schedules = store.schedules.list(scope) if store.settings.worker.refresh else None
    found: list[ViewStatus] = []
    for key, spec in sorted(specs.items()):
        snapshot = _snapshot(store, spec, published)
        manifest = store.snapshots.find(scope, snapshot)
        verdict = store.verdicts.latest(scope, spec.name, spec.definition_version)
        blocking = verdict.findings if verdict is not None and verdict.outcome == "blocked" else ()
        blocking = tuple(finding for finding in blocking if finding.action == "block")
        age = None if manifest is None else (now - manifest.created_at).total_seconds()
        position, allowed = positions.get(key), contracts.get(spec.name, {})
        lag_seconds = None if position is None else position.lag_seconds
        follower = followers.get(spec.source.name)
        unread = follower is not None and follower.late and snapshot is not None
        stale = _stale_for(spec, age, lag_seconds, follower, allowed)
        hold, compared = held.get(spec.name), skew.get(spec.name)
        publish_at = staged.get((spec.name, spec.definition_version))
        states = {
            "differs": compared is not None and compared.different > 0,
            "blocked": bool(blocking),
            "held": hold is not None,
            "late" if spec.source.kind == "stream" else "stale": bool(stale) or unread,
            "waiting": publish_at is not None,
            "never": snapshot is None,
        }
        found.append(
            ViewStatus(
                view=spec.name,
                definition_version=spec.definition_version,
                snapshot=snapshot,
                as_of=None if manifest is None else manifest.as_of,
                refreshed_at=None if manifest is None else manifest.created_at,
                age_seconds=age,
                rows=None if manifest is None else manifest.rows_out,
                max_age_seconds=min(allowed.values(), default=None),
                source_quality=None if manifest is None else manifest.facts().source_quality,
                verdict=None if verdict is None else verdict.outcome,
                blocked=tuple(finding.reason for finding in blocking),
                blocked_by=tuple(finding.rule for finding in blocking),
                state=next((name for name, holds in states.items() if holds), "fresh"),
                keys=spec.entity.keys,
                source=spec.source.name,
                features=tuple(spec.features),
                contracts=allowed,
                stale_for=stale,
                next_refresh=None if schedules is None else _next_refresh(spec, schedules, now),
                quarantined=manifest.quarantined.rows if manifest is not None and manifest.quarantined else 0,
                staged_until=publish_at,
                held=None if hold is None else hold.reason,
                lag=None if position is None else position.lag,
                lag_seconds=lag_seconds,
                skew=compared,
            )
        )
    return found


def _snapshot(store: Store, spec: FeatureViewSpec, published: Mapping[str, str]) -> str | None:
    """The snapshot that is served of a view."""
    return feast.snapshot_name(store, spec) if spec.source.kind == "feast" else published.get(spec.key)


def _stale_for(
    spec: FeatureViewSpec,
    age: float | None,
    lag_seconds: float | None,
    follower: FollowerStatus | None,
    allowed: Mapping[str, float],
) -> tuple[str, ...]:
    """The applications for which a view is older than they allow."""
    judged = lag_seconds if spec.source.kind == "stream" else age
    if follower is not None and follower.behind_seconds is not None:
        judged = max(judged or 0.0, follower.behind_seconds)
    return tuple(name for name, most in sorted(allowed.items()) if judged is not None and judged > most)


def _contracts(store: Store, scope: Scope) -> dict[str, dict[str, float]]:
    """Seconds that the live release of each application allows a view to be old, by view and application."""
    found: dict[str, dict[str, float]] = {}
    for release in store.releases.live_ones(scope):
        application = release.bundle.application
        for view, contract in application.freshness.items():
            found.setdefault(view, {})[application.name] = parse_duration(contract.max_age).total_seconds()
    return found


def _positions(
    platform: FeaturePlatform, specs: Mapping[str, FeatureViewSpec], now: datetime
) -> dict[str, StreamedView]:
    """Positions in streams by ``view@definition_version``, without those of streams that cannot be read."""
    consumer = platform.consumer
    consumer.follow(specs.values())
    found: dict[str, StreamedView] = {}
    for stream in sorted({spec.source.name for spec in specs.values() if spec.source.kind == "stream"}):
        with suppress(AntiphonError):
            (status,) = consumer.status(now, (stream,))
            found |= {f"{one.view}@{one.definition_version}": one for one in status.views}
    return found


def _next_refresh(spec: FeatureViewSpec, schedules: Mapping[str, ScheduleRecord], now: datetime) -> datetime | None:
    if spec.refresh is None:
        return None
    work = RefreshWork(spec.refresh, (spec.key,))
    record, end = schedules.get(work.schedule), work.period(now)[1]
    return end if record is None or record.paused_until is None else max(end, record.paused_until)
