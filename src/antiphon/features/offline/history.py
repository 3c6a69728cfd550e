"""History of a view: its versions with their sources and verdicts, and the difference between two of them.

All of it is read from the catalog, except quarantined rows, which are in the lake.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Literal

import msgspec

from antiphon.catalog.features.backfills import verdict_of
from antiphon.catalog.features.snapshot_facts import Statistics
from antiphon.catalog.features.snapshots import SnapshotManifest
from antiphon.catalog.features.verdicts import GateFinding, Verdict
from antiphon.core.errors import InvalidInputError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.definitions.compatibility import ViewChange, compare
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.quality import QualitySpec, Rule
from antiphon.features.catalog import FeatureCatalog
from antiphon.features.monitoring.quality.distances import distance
from antiphon.features.monitoring.quality.inspection import QuarantinedRow, quarantined_rows
from antiphon.features.selection import unknown_views


class RuleLine(msgspec.Struct, frozen=True):
    """A declared rule."""

    name: str
    kind: str
    action: str


class ViewDescription(msgspec.Struct, frozen=True):
    """A view as declared and as served.

    Attributes:
        current: the published snapshot of this definition version; ``None`` before the first publication.
        latest: the last verdict of the gates, also of a snapshot that is not published.
        staged_until: the end of the embargo of a staged snapshot.
        versions: every definition version ever applied, latest first.
        rows_expired_at: the time at which the quarantined rows of ``current`` expired.
    """

    definition: FeatureViewSpec
    rules: tuple[RuleLine, ...]
    current: SnapshotManifest | None
    latest: Verdict | None
    staged_until: datetime | None
    versions: tuple[str, ...]
    rows_expired_at: datetime | None = None


class ViewVersion(msgspec.Struct, frozen=True):
    """One refresh of a view. ``current``: its snapshot is published; ``kept``: the snapshot that stayed instead."""

    id: str
    definition_version: str
    snapshot: str | None
    outcome: Literal["passed", "warned", "blocked"]
    current: bool
    created_at: datetime
    as_of: datetime | None
    rows_in: int | None
    rows_out: int | None
    rows_rejected: int | None
    source_quality: float | None
    seconds: float | None
    cpu_seconds: float | None
    principal: str
    reason: str
    run: str | None
    findings: tuple[GateFinding, ...]
    kept: str | None


class StatisticsDifference(msgspec.Struct, frozen=True):
    """One feature or column in two versions; ``None`` where absent. Distances need enough values in both."""

    name: str
    before: Statistics | None
    after: Statistics | None
    psi: float | None = None
    test: str | None = None
    effect: float | None = None
    p_value: float | None = None


class ViewDifference(msgspec.Struct, frozen=True):
    """Differences of two versions of a view: definition, source columns and feature values."""

    view: str
    before: ViewVersion
    after: ViewVersion
    definition: ViewChange
    features: tuple[StatisticsDifference, ...]
    columns: tuple[StatisticsDifference, ...]


class Quarantine(msgspec.Struct, frozen=True):
    """Quarantined rows of one version: their number by rule, and the first of them unless they expired."""

    view: str
    verdict: str
    created_at: datetime
    total: int
    reasons: dict[str, int]
    rows: tuple[QuarantinedRow, ...]
    expired_at: datetime | None = None


class ViewHistory:
    """Reads the history of a scope's views."""

    def __init__(self, catalog: FeatureCatalog) -> None:
        self._catalog = catalog

    def describe(self, scope: Scope, view: str, version: str | None = None) -> ViewDescription:
        """Describe a view in its latest definition version, or in the named one; raises ``NotFoundError`` when it was
        never applied here."""
        known = self._known(scope, view)
        spec = known[0] if version is None else self._catalog.definitions.get(scope, view, version)
        rules = (spec.quality or QualitySpec()).rules
        waiting = {(one.view, one.definition_version): one.publish_at for one in self._catalog.staged.list(scope)}
        snapshot = self._catalog.publications.snapshots(scope).get(spec.key)
        current = None if snapshot is None else self._catalog.snapshots.get(scope, snapshot)
        return ViewDescription(
            definition=spec,
            rules=tuple(RuleLine(rule.name, _kind(rule), rule.action) for rule in rules),
            current=current,
            latest=self._catalog.verdicts.latest(scope, view, spec.definition_version),
            staged_until=waiting.get((view, spec.definition_version)),
            versions=tuple(one.definition_version for one in known),
            rows_expired_at=self._rows_expired_at(scope, current),
        )

    def history(self, scope: Scope, view: str, limit: int = 20) -> tuple[ViewVersion, ...]:
        """List the versions of a view, published or not, latest first; raises as :meth:`describe`."""
        self._known(scope, view)
        published = self._catalog.publications.snapshots(scope).values()
        return tuple(_line(verdict, published) for verdict in self._catalog.verdicts.list(scope, view, limit=limit))

    def difference(self, scope: Scope, before: str, after: str) -> ViewDifference:
        """Compare two versions of one view, each named by a snapshot or a verdict.

        Raises:
            NotFoundError: there is no such version.
            InvalidInputError: they are of different views, or one has no snapshot.
        """
        first, second = self._version(scope, before), self._version(scope, after)
        if first.view != second.view:
            raise InvalidInputError(
                f"{before} is of {first.view} and {after} of {second.view}.", where="diff", next_step="Name one view's."
            )
        one, other = _made(first), _made(second)
        old = self._catalog.definitions.get(scope, first.view, first.definition_version)
        new = self._catalog.definitions.get(scope, second.view, second.definition_version)
        published = self._catalog.publications.snapshots(scope).values()
        return ViewDifference(
            view=first.view,
            before=_line(first, published),
            after=_line(second, published),
            definition=compare(old, new),
            features=_differences(one.statistics, other.statistics),
            columns=_differences(_columns(one), _columns(other)),
        )

    def quarantine(self, scope: Scope, view: str, version: str | None = None, limit: int = 100) -> Quarantine | None:
        """The quarantined rows of the named version, or of the latest with any; ``None`` without any. Raises
        ``NotFoundError`` when there is no such view or version."""
        self._known(scope, view)
        if version is not None:
            found: Verdict | None = self._version(scope, version)
        else:
            verdicts = self._catalog.verdicts.list(scope, view, limit=1_000)
            found = next((one for one in verdicts if one.kept_aside is not None), None)
        if found is None or found.view != view or found.manifest is None or found.manifest.quarantined is None:
            return None
        kept = found.manifest.quarantined
        expired = self._catalog.verdicts.expired_at(scope, found.id)
        rows = () if expired is not None else tuple(quarantined_rows(found.manifest, self._catalog.lake, limit))
        return Quarantine(view, found.id, found.created_at, kept.rows, kept.reasons, rows, expired)

    def _rows_expired_at(self, scope: Scope, manifest: SnapshotManifest | None) -> datetime | None:
        if manifest is None or manifest.quarantined is None:
            return None
        try:
            return self._catalog.verdicts.expired_at(scope, self._version(scope, manifest.id).id)
        except NotFoundError:
            return None

    def _known(self, scope: Scope, view: str) -> list[FeatureViewSpec]:
        known = self._catalog.definitions.list(scope, view)
        if not known:
            raise unknown_views([view], {spec.name for spec in self._catalog.definitions.list(scope)}, str(scope))
        return known

    def _version(self, scope: Scope, name: str) -> Verdict:
        if name.startswith("verd_"):
            return self._catalog.verdicts.get(scope, name)
        view = self._catalog.snapshots.get(scope, name).view
        made = [one for one in self._catalog.verdicts.list(scope, view, limit=10_000) if one.snapshot == name]
        if not made and (partition := self._catalog.backfills.of_snapshot(scope, name)) is not None:
            manifest = self._catalog.snapshots.get(scope, name)
            return msgspec.structs.replace(verdict_of(partition, partition.id), manifest=manifest)
        if not made:
            raise NotFoundError(f"There is no verdict on {name!r}.", where=str(scope), next_step="Refresh the view.")
        return made[-1]


def _made(verdict: Verdict) -> SnapshotManifest:
    if verdict.manifest is None:
        raise InvalidInputError(
            f"{verdict.id} has no snapshot to compare.", where="diff",
            next_step="Name another version; the view's history has the findings.",
        )  # fmt: skip
    return verdict.manifest


def _line(verdict: Verdict, published: Collection[str | None]) -> ViewVersion:
    made = verdict.manifest
    quality = made.source_quality if made is not None else None
    return ViewVersion(
        id=verdict.id,
        definition_version=verdict.definition_version,
        snapshot=verdict.snapshot,
        outcome=verdict.outcome,
        current=verdict.outcome != "blocked" and verdict.snapshot in published,
        created_at=verdict.created_at,
        as_of=made.as_of if made is not None else None,
        rows_in=made.rows_in if made is not None else None,
        rows_out=made.rows_out if made is not None else None,
        rows_rejected=made.rows_rejected if made is not None else None,
        source_quality=quality.score if quality is not None else None,
        seconds=made.duration_seconds if made is not None else None,
        cpu_seconds=made.cost.cpu_seconds if made is not None else None,
        principal=verdict.principal,
        reason=verdict.reason,
        run=verdict.run,
        findings=verdict.findings,
        kept=verdict.kept,
    )


def _columns(manifest: SnapshotManifest) -> dict[str, Statistics]:
    return manifest.source_quality.columns if manifest.source_quality is not None else {}


def _differences(before: dict[str, Statistics], after: dict[str, Statistics]) -> tuple[StatisticsDifference, ...]:
    """Every name of either, the most different first."""
    found = []
    for name in sorted(before.keys() | after.keys()):
        one, other = before.get(name), after.get(name)
        gap = distance(name, one, other) if one is not None and other is not None else None
        distances = () if gap is None else (gap.psi, gap.test, gap.effect, gap.p_value)
        found.append(StatisticsDifference(name, one, other, *distances))
    return tuple(sorted(found, key=lambda one: -(one.effect or 0.0)))


def _kind(rule: Rule) -> str:
    return str(rule.__struct_config__.tag).replace("_", " ")
