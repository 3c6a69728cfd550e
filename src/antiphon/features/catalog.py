"""The feature catalog: the repositories of one scope's features, with the lake that their snapshots are in."""

from __future__ import annotations

from antiphon.catalog.database import Database
from antiphon.catalog.features.backfills import Backfills
from antiphon.catalog.features.definitions import DefinitionVersions
from antiphon.catalog.features.publications import NOTICE, FeatureHolds, Publications
from antiphon.catalog.features.snapshots import SnapshotManifest, Snapshots
from antiphon.catalog.features.verdicts import StagedSnapshots, Verdicts
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.lake.content import Lake


class FeatureCatalog:
    """Repositories and lake of one scope's features, passed along as one; with another ``notice`` of publications where
    one reader serves every client."""

    def __init__(self, database: Database, scope: Scope, lake: Lake, *, notice: float = NOTICE) -> None:
        self.scope = scope
        self.clock = database.clock
        self.lake = lake
        self.definitions = DefinitionVersions(database)
        self.snapshots = Snapshots(database)
        self.publications = Publications(database, notice=notice)
        self.verdicts = Verdicts(database)
        self.staged = StagedSnapshots(database)
        self.holds = FeatureHolds(database)
        self.backfills = Backfills(database)

    def definition(self, key: str) -> FeatureViewSpec:
        """The definition of ``view@definition_version``; raises ``NotFoundError``."""
        return self.definitions.of(self.scope, key)

    def published(self, key: str) -> SnapshotManifest | None:
        """The current snapshot of ``view@definition_version``, ``None`` without one."""
        snapshot = self.publications.snapshots(self.scope).get(key)
        return None if snapshot is None else self.snapshots.get(self.scope, snapshot)
