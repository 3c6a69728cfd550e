"""Features of one project, as the gateway and the commands use them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from antiphon.catalog.features.publications import Publications
from antiphon.core.scope import Scope
from antiphon.features.offline.history import ViewHistory
from antiphon.services.features.lineage import FeatureLineage
from antiphon.services.features.lookup import Lookups
from antiphon.services.features.neighbors import ProjectNeighbors
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.features.rollback import FeatureRollback
from antiphon.services.features.skew import ProjectSkew
from antiphon.services.features.streams import ProjectStreams
from antiphon.services.features.view_status import ViewStatus, read_view_statuses
from antiphon.services.project.store import Store


@dataclass(frozen=True)
class FeatureServices:
    """Publishing, reading and watching features.

    Attributes:
        view_status: status of every view; ``freshness``: the same from the catalog alone.
        history: versions of views, verdicts and differences.
        skew: comparisons of batch and online values.
    """

    publications: Publications
    streams: ProjectStreams
    view_status: Callable[[Scope], Sequence[ViewStatus]]
    freshness: Callable[[Scope], Sequence[ViewStatus]]
    history: ViewHistory
    lookups: Lookups
    skew: ProjectSkew
    rollback: FeatureRollback
    neighbors: ProjectNeighbors
    lineage: FeatureLineage


def feature_services(store: Store, platform: FeaturePlatform, lookups: Lookups) -> FeatureServices:
    """Builds the services over the stores of this process."""
    return FeatureServices(
        publications=store.publications,
        streams=ProjectStreams(store, platform),
        view_status=partial(read_view_statuses, store, platform),
        freshness=partial(read_view_statuses, store, platform, streams=False),
        history=platform.history,
        lookups=lookups,
        skew=ProjectSkew(store, platform),
        rollback=FeatureRollback(store, platform),
        neighbors=platform.neighbors,
        lineage=FeatureLineage(store, platform),
    )
