"""Followed streams of a project: the worker's part that follows them, and how far each is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from antiphon.catalog.features.followed_streams import FollowedStream
from antiphon.core.clock import SystemClock
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.following import within_seconds
from antiphon.definitions.source import SourceSpec
from antiphon.features.following.followed_places import RECORD_SECONDS, Append
from antiphon.features.following.readers import reader_of
from antiphon.features.streaming.consumer import FollowerStatus
from antiphon.orchestration.duties import Duties, LeaseHolder
from antiphon.orchestration.source_followers import SourceFollower, SourceFollowers
from antiphon.orchestration.worker import WorkerPart
from antiphon.services.features.followed_places import followed_places, followed_sources
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.project.store import Store


def source_followers(
    store: Store,
    features: FeaturePlatform,
    append: Append,
    holder: LeaseHolder,
    restarted: Callable[[WorkerPart], WorkerPart],
) -> SourceFollowers:
    """The part of a worker that follows the project's places, each under a lease.

    Args:
        append: holds back what the consumer cannot follow.
        restarted: begins a part again that fails.
    """
    scope = store.scope
    places = followed_places(store, append)

    def duty(source: SourceSpec) -> WorkerPart:
        return Duties(f"follow/{scope.tenant}/{source.name}", [restarted(SourceFollower(source, places))], holder)

    wakeup = store.database.doorbell.wakeup(scope.environment, "features", "releases")
    return SourceFollowers(features.followed, duty, wakeup=wakeup)


def order_first_refreshes(store: Store, features: FeaturePlatform) -> str | None:
    """Order a refresh of each view that was blocked while its followed place was empty, now that rows have come; the
    views in words. It is ordered once for each: what blocks a view again is no lack of rows."""
    reached = {name: one for name, one in store.followed_streams.list(store.scope).items() if one.caught_up_at}
    if not reached:
        return None
    scope, published = store.scope, store.publications.snapshots(store.scope)
    ordered: list[str] = []
    for key, view in features.views().items():
        if key in published or view.source.name not in reached or not store.events.end(scope, view.source.name):
            continue
        verdict = store.verdicts.latest(scope, view.name, view.definition_version)
        run = f"first-rows:{key}"
        if verdict is None or verdict.outcome != "blocked" or store.runs.find(scope, run) is not None:
            continue
        features.refresh(scope, views=[key], reason=f"first rows of {view.source.name}", key=run)
        ordered.append(view.name)
    return ", ".join(ordered) or None


def require_readable_places(sources: Iterable[SourceSpec]) -> str:
    """Read a row of each place that one of these sources follows; the places in words.

    Raises:
        UnavailableError, SetupError, InvalidInputError: one cannot be read.
    """
    found: list[str] = []
    for source in sources:
        if source.follow is not None:
            reader = reader_of(source, SystemClock())
            try:
                reader.read(None, 1)
            finally:
                reader.close()
            found.append(f"{source.name} is read from {source.follow.place}")
    return ", ".join(found) or "none"


def follower_statuses(store: Store, views: Iterable[FeatureViewSpec]) -> Mapping[str, FollowerStatus]:
    """The progress of each stream of these views that follows a place, by name."""
    known, found = store.followed_streams.list(store.scope), dict[str, FollowerStatus]()
    for name, source in followed_sources(views).items():
        assert source.follow is not None
        state = known.get(name)
        if state is None or state.place != source.follow.place:
            state = FollowedStream(name, source.follow.place)
        within = within_seconds(source.follow)
        behind = None
        if state.caught_up_at is not None:
            behind = max(0.0, (store.database.clock.now() - state.caught_up_at).total_seconds())
        found[name] = FollowerStatus(
            place=state.place,
            within_seconds=within,
            late=behind is None or behind > within + RECORD_SECONDS,
            caught_up_at=state.caught_up_at,
            behind_seconds=behind,
            waiting=state.waiting,
            refused=state.refused,
            refusal=state.refusal,
            lost=state.lost,
            problem=state.error,
            failing_since=state.failing_since,
        )
    return found
