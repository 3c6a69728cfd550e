"""Gates: a snapshot that looks wrong is not published, and the one before stays current.

Thin on purpose: shape, emptiness, missing values, ranges. Each refusal names the figure it rests on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from antiphon.catalog.snapshots import SnapshotManifest
from antiphon.definitions.feature_view import FeatureViewSpec


class GateRules(msgspec.Struct, frozen=True):
    """When a snapshot is refused.

    Attributes:
        minimum_entities: fewest entities.
        rejected_share: greatest share of source rows without usable keys or times.
        null_share_rise: how much a feature's share of missing values may rise over the snapshot before.
        entities_kept: least share of the snapshot before's number of entities.
        ranges: ``feature`` to the least and greatest value allowed.
    """

    minimum_entities: int = 1
    rejected_share: float = 0.05
    null_share_rise: float = 0.5
    entities_kept: float = 0.5
    ranges: dict[str, tuple[float, float]] = {}


class GateResult(msgspec.Struct, frozen=True):
    """Whether a snapshot may be published, and every reason why not."""

    view: str
    snapshot: str
    passed: bool
    reasons: tuple[str, ...]


def gate(
    spec: FeatureViewSpec,
    manifest: SnapshotManifest,
    previous: SnapshotManifest | None = None,
    rules: GateRules | None = None,
) -> GateResult:
    """Judge a snapshot by its manifest; ``previous`` is the one it would replace."""
    reasons = tuple(_reasons(spec, manifest, previous, rules or GateRules()))
    return GateResult(spec.name, manifest.id, not reasons, reasons)


def _reasons(
    spec: FeatureViewSpec, manifest: SnapshotManifest, previous: SnapshotManifest | None, rules: GateRules
) -> Iterator[str]:
    if manifest.definition_version != spec.definition_version:
        yield f"It was made by definition version {manifest.definition_version}, not {spec.definition_version}."
    missing = sorted(spec.features.keys() ^ manifest.statistics.keys())
    if missing:
        yield f"Its features differ from the definition's: {', '.join(missing)}."
    if manifest.rows_out < rules.minimum_entities:
        yield f"It has {manifest.rows_out} entities; at least {rules.minimum_entities} are needed."
    if manifest.rows_in and manifest.rows_rejected / manifest.rows_in > rules.rejected_share:
        share = manifest.rows_rejected / manifest.rows_in
        yield f"{share:.1%} of {manifest.rows_in} source rows were rejected; at most {rules.rejected_share:.1%} may."
    if previous is not None and manifest.rows_out < previous.rows_out * rules.entities_kept:
        yield f"It has {manifest.rows_out} entities, the one before had {previous.rows_out}."
    for feature, found in manifest.statistics.items():
        yield from _feature_reasons(feature, found, previous, rules)


def _feature_reasons(
    feature: str, found: dict[str, Any], previous: SnapshotManifest | None, rules: GateRules
) -> Iterator[str]:
    before = previous.statistics.get(feature) if previous is not None else None
    if before is not None:
        rise = found["null_share"] - before["null_share"]
        if rise > rules.null_share_rise:
            yield f"{feature}: {found['null_share']:.1%} of its values are missing, {before['null_share']:.1%} before."
    if feature in rules.ranges and "minimum" in found:
        low, high = rules.ranges[feature]
        if found["minimum"] < low or found["maximum"] > high:
            yield f"{feature}: {found['minimum']:g} to {found['maximum']:g}, but {low:g} to {high:g} is allowed."
