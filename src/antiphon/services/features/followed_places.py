"""The places that a project's streams follow, on its catalog and log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.source import SourceSpec
from antiphon.features.following.followed_places import Append, FollowedPlaces
from antiphon.features.following.readers import reader_of
from antiphon.services.project.store import Store


def followed_places(store: Store, append: Append) -> FollowedPlaces:
    """The places that a project's streams follow; ``append`` puts events into its log."""
    clock = store.database.clock
    reader = partial(reader_of, clock=clock)
    return FollowedPlaces(store.scope, streams=store.followed_streams, reader=reader, append=append, clock=clock)


def followed_sources(views: Iterable[FeatureViewSpec]) -> Mapping[str, SourceSpec]:
    """The streams of views that follow a place, by name, as the first view of each has them."""
    sources: dict[str, SourceSpec] = {}
    for view in views:
        sources.setdefault(view.source.name, view.source)
    return {name: source for name, source in sources.items() if source.follow is not None}


def catch_up(
    store: Store, declared: Mapping[str, SourceSpec], source: SourceSpec, progress: Callable[[int], None]
) -> int:
    """Append what is written by now to a stream, from where the applied project, or else ``source``, says that it is
    written; raises as :meth:`FollowedPlaces.catch_up`."""
    return followed_places(store, store.events.append).catch_up(declared.get(source.name, source), progress)
