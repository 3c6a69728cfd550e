"""The feature catalog: the repositories of one scope's features, with the lake that their snapshots are in."""

from __future__ import annotations

import msgspec

from antiphon.catalog.database import Database
from antiphon.catalog.definitions import DefinitionVersions
from antiphon.catalog.holds import FeatureHolds
from antiphon.catalog.publications import Publications
from antiphon.catalog.snapshots import SnapshotManifest, Snapshots
from antiphon.catalog.verdicts import StagedSnapshots, Verdicts
from antiphon.core.clock import Clock
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.lake.content import Lake


class FeatureCatalog(msgspec.Struct, frozen=True):
    """Repositories and lake of one scope's features, passed along as one."""

    scope: Scope
    clock: Clock
    lake: Lake
    definitions: DefinitionVersions
    snapshots: Snapshots
    publications: Publications
    verdicts: Verdicts
    staged: StagedSnapshots
    holds: FeatureHolds

    @classmethod
    def of(cls, database: Database, scope: Scope, lake: Lake) -> FeatureCatalog:
        """The feature catalog of a scope in a database."""
        return cls(
            scope=scope,
            clock=database.clock,
            lake=lake,
            definitions=DefinitionVersions(database),
            snapshots=Snapshots(database),
            publications=Publications(database),
            verdicts=Verdicts(database),
            staged=StagedSnapshots(database),
            holds=FeatureHolds(database),
        )

    def definition(self, key: str) -> FeatureViewSpec:
        """The definition of ``view@definition_version``; raises ``NotFoundError``."""
        view, _, version = key.partition("@")
        return self.definitions.get(self.scope, view, version)

    def published(self, key: str) -> SnapshotManifest | None:
        """The current snapshot of ``view@definition_version``, ``None`` without one."""
        current = self.publications.current(self.scope)
        snapshot = current.snapshots.get(key) if current is not None else None
        return None if snapshot is None else self.snapshots.get(self.scope, snapshot)
