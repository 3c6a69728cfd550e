"""What watches over one project's served features."""

from __future__ import annotations

from antiphon.app.feature_glance import FeatureGlance
from antiphon.app.feature_lineage import FeatureLineage
from antiphon.app.feature_rollback import FeatureRollback
from antiphon.app.feature_skew import FeatureSkew
from antiphon.app.features import FeaturePlatform
from antiphon.app.store import Store
from antiphon.gateway.feature_ports import FeatureWatch


def feature_watch(store: Store, platform: FeaturePlatform) -> FeatureWatch:
    """Over the stores of this process."""
    return FeatureWatch(
        skew=FeatureSkew(store, platform),
        rollback=FeatureRollback(store, platform),
        neighbours=platform.neighbours,
        lineage=FeatureLineage(store, platform),
        glance=FeatureGlance(store, platform),
    )
