"""Exports as a project makes them: what is published, decided by policy, told to the audit log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from antiphon.catalog.features.snapshots import SnapshotManifest
from antiphon.core.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.exports.export import ExportResult, Format, write_delta, write_parquet
from antiphon.features.exports.exported import BATCH, ExportedRows, ExportMetadata, metadata_of
from antiphon.features.selection import unknown_views
from antiphon.governance.identity.principal import Principal
from antiphon.governance.policy.request import PolicyColumn, PolicyRow, Resource
from antiphon.governance.policy.residual import RowPolicy
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.project.store import Store


class FeatureExport(msgspec.Struct, frozen=True):
    """The rows and files of one export."""

    about: ExportMetadata
    written: ExportResult


def export_view(
    store: Store,
    view: str,
    target: Path,
    format: Format,
    *,
    principal: Principal,
    snapshot: str | None = None,
    purpose: str = "",
    clear: bool = False,
) -> FeatureExport:
    """Export a view's published snapshot, or another one of it.

    Args:
        purpose: what for: features that are declared for other purposes are not exported.
        clear: write clear text although the project is encrypted.

    Raises:
        NotFoundError: no such view or snapshot, or nothing of it is published.
        ForbiddenError: policy denies the action ``export`` on ``view/VIEW``, or a feature of it.
        ConflictError: the project is encrypted and ``clear`` was not asked for, or the target holds something else.
    """
    with closing(FeaturePlatform(store)) as platform:
        if platform.lake.sealed and not clear:
            raise encrypted(str(target), "--clear")
        what, rows = published(store, platform, view, principal, snapshot=snapshot, purpose=purpose)
        detail = {
            **what.properties,
            "format": format,
            "path": str(target),
            "clear": str(platform.lake.sealed).lower(),
            "policy": store.decider.digest,
        }
        # Told before the first byte leaves: an export that fails was still allowed.
        store.audit.append(store.scope, principal.id, "features.export", f"view/{view}", detail)
        return FeatureExport(what, (write_delta if format == "delta" else write_parquet)(target, rows, what))


def export_backfill(
    store: Store, view: str, run: str, target: Path, *, principal: Principal, purpose: str = "", clear: bool = False
) -> tuple[FeatureExport, ...]:
    """Export every partition that a backfill keeps of a view, each as a Parquet file in a folder ``as_of=MOMENT``, as
    other tools read partitioned tables.

    Raises:
        NotFoundError: nothing is kept of it.
        As :func:`export_view`.
    """
    kept = [one for one in store.backfills.list(store.scope, run) if one.view == view and one.snapshot is not None]
    if not kept:
        raise NotFoundError(
            f"Nothing of {view} is kept of the backfill {run!r}.",
            where="--backfill",
            next_step="`antiphon features backfills` lists what is kept.",
        )
    return tuple(
        export_view(
            store, view, target / f"as_of={one.as_of:%Y-%m-%dT%H%M%SZ}", "parquet",
            principal=principal, snapshot=one.snapshot, purpose=purpose, clear=clear,
        )
        for one in kept
    )  # fmt: skip


def encrypted(target: str, option: str) -> ConflictError:
    """The error of an export of clear text that was not asked for."""
    return ConflictError(
        "The project is encrypted, and what is exported is clear text.",
        where=target,
        next_step=f"Ask for it with {option}; policy decides and the audit log tells.",
    )


def published(
    store: Store,
    platform: FeaturePlatform,
    view: str,
    principal: Principal,
    *,
    snapshot: str | None = None,
    purpose: str = "",
    start: int = 0,
    most: int = BATCH,
) -> tuple[ExportMetadata, ExportedRows]:
    """A view's published snapshot, or another one of it, from a row on, at most so many rows a batch, for who
    may have it; raises as :func:`export_view`."""
    spec = _spec(platform, view)
    manifest = _manifest(store, spec, snapshot)
    # A snapshot may be of an older definition than the applied one.
    spec = store.definitions.get(store.scope, view, manifest.definition_version)
    policy = _row_policy(store, principal, spec, require_export(store, principal, spec, purpose))
    moment = int(manifest.as_of.timestamp())

    def permit(entities: Sequence[dict[str, str]]) -> list[bool]:
        return [said.allowed for said in policy.decide([PolicyRow(entity, moment) for entity in entities])]

    return metadata_of(manifest), ExportedRows(spec, manifest, platform.lake, permit, start, most)


def require_export(store: Store, principal: Principal, spec: FeatureViewSpec, purpose: str) -> dict[str, Any]:
    """Let policy decide about the action ``export`` on a view; the context it was asked in. Raises ``ForbiddenError``
    if it denies, which is on record."""
    resource, context = policy_question(store, spec, purpose)
    with _refusals_on_record(store, principal, spec):
        store.decider.require(principal, "export", resource, context)
    return context


def require_rows(
    store: Store,
    principal: Principal,
    spec: FeatureViewSpec,
    entities: Sequence[dict[str, str]],
    moments: Sequence[datetime],
    purpose: str,
) -> None:
    """Let policy decide about the action ``export`` on a view, and about every entity as of its moment.

    Raises:
        ForbiddenError: it denies the view, a feature that is asked for, or an entity; says how many and why.
    """
    context = require_export(store, principal, spec, purpose)
    rows = [PolicyRow(entity, int(moment.timestamp())) for entity, moment in zip(entities, moments, strict=True)]
    denied = [said for said in _row_policy(store, principal, spec, context).decide(rows) if not said.allowed]
    if denied:
        with _refusals_on_record(store, principal, spec):
            raise ForbiddenError(
                f"{principal.id} ({principal.role}) may not export {len(denied)} of {len(rows)} rows of "
                f"view/{spec.name}: {denied[0].reason}.",
                where="policy",
                next_step="Leave these entities out.",
            )


@contextmanager
def _refusals_on_record(store: Store, principal: Principal, spec: FeatureViewSpec) -> Iterator[None]:
    try:
        yield
    except ForbiddenError as error:
        detail = {"action": "export", "code": error.code, "reason": error.what}
        store.audit.append(store.scope, principal.id, "denied", f"view/{spec.name}", detail, outcome="denied")
        raise


def _spec(platform: FeaturePlatform, view: str) -> FeatureViewSpec:
    found = [spec for spec in platform.views().values() if spec.name == view]
    if not found:
        raise unknown_views([view], {spec.name for spec in platform.views().values()}, "VIEW")
    if found[0].source.kind == "feast":
        raise InvalidInputError(
            f"The view {view!r} is read from Feast, so there is nothing of it here to export.", where="VIEW"
        )
    return found[0]


def _manifest(store: Store, spec: FeatureViewSpec, snapshot: str | None) -> SnapshotManifest:
    if snapshot is None:
        snapshot = store.publications.snapshots(store.scope).get(spec.key)
        if snapshot is None:
            raise NotFoundError(
                f"Nothing of {spec.name} is published.",
                where=str(store.scope),
                next_step=f"Run `antiphon features refresh {spec.name}`.",
            )
    manifest = store.snapshots.get(store.scope, snapshot)
    if manifest.view != spec.name:
        raise NotFoundError(f"The snapshot {snapshot} is of {manifest.view}, not of {spec.name}.", where="--snapshot")
    return manifest


def policy_question(store: Store, spec: FeatureViewSpec, purpose: str) -> tuple[Resource, dict[str, Any]]:
    """A view as policies see it when it is exported, and the context in which they are asked."""
    columns = [
        PolicyColumn(f"{spec.name}.{feature}", tags.sensitivity, tags.purposes)
        for feature, tags in sorted(spec.tags.items())
        if feature in spec.features
    ]
    resource = Resource("view", spec.name, store.scope.tenant, tuple(columns or [PolicyColumn(f"{spec.name}.*")]))
    context = {
        "purpose": purpose, "environment": store.scope.environment, "tenant": store.scope.tenant, "path": "batch",
    }  # fmt: skip
    return resource, context


def _row_policy(store: Store, principal: Principal, spec: FeatureViewSpec, context: dict[str, Any]) -> RowPolicy:
    """Decides about rows as training sets do: columns were decided before, here it is about entities."""
    decider = store.decider.decider(store.scope.tenant)
    return RowPolicy(decider, principal, "export", Resource("view", spec.name), spec.entity.keys, context)
