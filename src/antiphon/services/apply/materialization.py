"""Views that must be published before definitions take effect, and the time that is likely to take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from antiphon.catalog.releases import Release
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.services.project.store import Store


class PlannedMaterialization(msgspec.Struct, frozen=True):
    """A definition version that is materialized before it is served.

    ``rows`` (entities) and ``seconds`` are those of the snapshot that it takes over from; ``None``: there is none.
    """

    view: str
    definition_version: str
    rows: int | None = None
    seconds: float | None = None


def unpublished(
    views: Mapping[str, FeatureViewSpec],
    before: Mapping[str, FeatureViewSpec],
    replaced: Iterable[tuple[Release, Mapping[str, str]]],
    published: Mapping[str, str],
) -> tuple[str, ...]:
    """Keys of views that must be published before they take effect: otherwise something that is answered from now
    would not be answered until then.

    Args:
        views, before: what is declared, and what is in force, by name.
        replaced: each live release that is to be replaced, with the views and versions that its successor pins.
        published: the snapshots that are.
    """
    kept = {view.key for view in views.values() if view.source.kind != "feast" and view.key not in published}
    # By name, as lookups read them.
    required = {view.key for view in views.values() if view.name in before and before[view.name].key in published}
    by_feast = {name for name, view in before.items() if view.source.kind == "feast"}
    for live, features in replaced:
        pinned = live.bundle.application.features.items()
        if all(f"{view}@{version}" in published or view in by_feast for view, version in pinned):
            required |= {f"{view}@{version}" for view, version in features.items()}
    return tuple(sorted(required & kept))


def foreseen(
    store: Store, keys: Iterable[str], before: Mapping[str, FeatureViewSpec], published: Mapping[str, str]
) -> tuple[PlannedMaterialization, ...]:
    """The materialization of some definition versions, by what that of the version in force took."""
    found = []
    for key in keys:
        view, _, version = key.partition("@")
        made = store.snapshots.find(store.scope, published.get(before[view].key) if view in before else None)
        rows, seconds = (None, None) if made is None else (made.rows_out, made.duration_seconds)
        found.append(PlannedMaterialization(view, version, rows, seconds))
    return tuple(found)
