"""Entities to ask a release about, where nobody has asked it anything yet."""

from __future__ import annotations

from collections.abc import Sequence

from antiphon.catalog.releases.releases import Release
from antiphon.features.catalog import FeatureCatalog
from antiphon.features.monitoring.skew.selection import sample_entities
from antiphon.features.plan import plan_of
from antiphon.services.project.store import Store

MADE_UP = "example"
"""An entity's key where no stored entity is known."""


def sampled_keys(store: Store, catalog: FeatureCatalog, release: Release, most: int) -> Sequence[dict[str, str]]:
    """A few entities that the release's features know; what no stored view is keyed by gets a made-up value."""
    application = release.bundle.application
    found: list[dict[str, str]] = [{} for _ in range(most if application.entity_keys else 1)]
    published = store.publications.snapshots(release.scope)
    for view, version in application.own_features.items():
        if (snapshot := published.get(f"{view}@{version}")) is None:
            continue  # of Feast, or not published here
        plan = plan_of(store.definitions.get(release.scope, view, version))
        manifest = store.snapshots.get(release.scope, snapshot)
        entities = sample_entities(
            plan, manifest, catalog, store.events, through=None, size=len(found), seed=release.number
        )
        for number, known in enumerate(found):
            if entities:
                entity = entities[number % len(entities)]
                found[number] = {**dict(zip(plan.keys, entity, strict=True)), **known}
    return [{**dict.fromkeys(application.entity_keys, MADE_UP), **keys} for keys in found]
