"""Served features of one project: their status, lineage, neighbors and skew, and taking them back."""

from __future__ import annotations

from dataclasses import dataclass

from antiphon.services.features.glance import FeatureGlance
from antiphon.services.features.lineage import FeatureLineage
from antiphon.services.features.neighbours import ProjectNeighbours
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.features.rollback import FeatureRollback
from antiphon.services.features.skew import FeatureSkew
from antiphon.services.project.store import Store


@dataclass(frozen=True)
class FeatureWatch:
    """Everything about served features, beside their history."""

    skew: FeatureSkew
    rollback: FeatureRollback
    neighbours: ProjectNeighbours
    lineage: FeatureLineage
    glance: FeatureGlance


def feature_watch(store: Store, platform: FeaturePlatform) -> FeatureWatch:
    """Wires what watches features over the stores of this process."""
    return FeatureWatch(
        skew=FeatureSkew(store, platform),
        rollback=FeatureRollback(store, platform),
        neighbours=platform.neighbours,
        lineage=FeatureLineage(store, platform),
        glance=FeatureGlance(store, platform),
    )
