"""Defences of the feature platform switched off one by one, for the harness to find; each gap is widened to be hit."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from antiphon.catalog.features.snapshots import SnapshotManifest
from antiphon.core.errors import NotFoundError
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.services.features.platform import FeaturePlatform

_GAP = 0.2
"""Seconds between two steps that belong together."""

BROKEN = ("offset-first", "flip-first", "early-acknowledgement", "pins-forgotten", "nothing-collected")
"""What can be switched off: the consumer's offset in the transaction of its events; online files before the catalog's
row; the commit before the acknowledgement; quarantined rows as pins of a collection; the collection of builds."""


def switch_off(name: str | None, platform: FeaturePlatform) -> None:
    """Break this process's platform in one place; ``None`` breaks nothing.

    Raises:
        ValueError: there is no such defence.
    """
    if name is None:
        return
    breaking = {
        "offset-first": _offset_first,
        "flip-first": _flip_first,
        "early-acknowledgement": _early_acknowledgement,
        "pins-forgotten": _pins_forgotten,
        "nothing-collected": _nothing_collected,
    }
    if name not in breaking:
        raise ValueError(f"There is no defence {name!r}; there are {', '.join(BROKEN)}.")
    breaking[name](platform)


def _offset_first(platform: FeaturePlatform) -> None:
    overlay: Any = platform.overlay
    together = overlay.apply

    def apart(moves: Mapping[Any, Any], events: Iterable[Any]) -> bool:
        moved: bool = together(moves, [])
        time.sleep(_GAP)
        together({}, events)
        return moved

    overlay.apply = apart


def _flip_first(platform: FeaturePlatform) -> None:
    publisher: Any = platform.publisher
    snapshots, prepare, flip = publisher.catalog.snapshots, publisher.prepare, publisher.publish
    scope: Scope = publisher._scope

    def recorded(manifest: SnapshotManifest, spec: FeatureViewSpec) -> SnapshotManifest:
        try:
            known: SnapshotManifest = snapshots.get(scope, manifest.id)
        except NotFoundError:
            snapshots.add(manifest)
            return manifest
        return known

    def published(made: Any, **said: Any) -> Any:
        publication = flip(made, **said)
        time.sleep(_GAP)
        for manifest, spec in made:
            prepare(manifest, spec)
        return publication

    publisher.prepare, publisher.publish = recorded, published


def _early_acknowledgement(platform: FeaturePlatform) -> None:
    log: Any = platform._store.events
    commit = log.append
    waiting: list[Any] = []

    def append(*given: Any) -> int:
        time.sleep(_GAP)
        if waiting:
            commit(*waiting.pop())
        waiting.append(given)
        return 0

    log.append = append


def _pins_forgotten(platform: FeaturePlatform) -> None:
    publisher: Any = platform.publisher
    publisher.also_named = None


def _nothing_collected(platform: FeaturePlatform) -> None:
    online: Any = platform.online
    online.collect = lambda scope, keep, older_than: []
