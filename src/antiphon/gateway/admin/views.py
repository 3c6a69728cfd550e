"""Feature views: what they are, what became of them, and how two versions differ."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from antiphon.catalog.features.snapshots import SnapshotManifest
from antiphon.catalog.features.verdicts import GateFinding
from antiphon.core.scope import Scope
from antiphon.features.offline.history import ViewDescription, ViewDifference, ViewVersion
from antiphon.gateway.http.bounds import Few
from antiphon.gateway.operation import OperationCall, operation
from antiphon.gateway.services import GatewayServices
from antiphon.governance.identity.principal import Principal
from antiphon.services.features.view_status import ViewStatus


class Version(msgspec.Struct, frozen=True):
    """A definition version; the latest by default."""

    version: str | None = None


class ViewHistoryQuery(msgspec.Struct, frozen=True):
    """Bounds the number of versions."""

    limit: Few = 20


class ViewDifferenceQuery(msgspec.Struct, frozen=True):
    """Two versions, each named by its snapshot or verdict."""

    before: str
    after: str


class QuarantineQuery(msgspec.Struct, frozen=True):
    """Selects a version (the latest with quarantined rows by default) and the most rows."""

    version: str | None = None
    limit: Few = 100


class ViewHistoryResponse(msgspec.Struct, frozen=True):
    """Versions of a view, latest first."""

    view: str
    versions: tuple[ViewVersion, ...]


class KeptAside(msgspec.Struct, frozen=True):
    """Rows that rules kept out of a version; ``rows`` are source rows as they are, with the rule that each offends,
    none once they ``expired_at``."""

    view: str
    verdict: str | None
    total: int
    reasons: dict[str, int]
    rows: tuple[dict[str, Any], ...]
    expired_at: datetime | None = None


def description(call: OperationCall, view: str, version: str | None = None) -> ViewDescription:
    """A view as it is declared and served; statistics of its values for those who may read these.

    Raises:
        NotFoundError: there is no such view or version.
    """
    found = call.services.features.history.describe(call.scope, view, version)
    if _may_read(call, view):
        return found
    latest = found.latest
    if latest is not None:
        bare = _without_values(latest.manifest)
        latest = msgspec.structs.replace(latest, manifest=bare, findings=without_reasons(latest.findings))
    return msgspec.structs.replace(found, current=_without_values(found.current), latest=latest)


def difference(call: OperationCall, before: str, after: str) -> ViewDifference:
    """Two versions of a view; statistics of their values for those who may read these.

    Raises:
        NotFoundError: there is no such version.
    """
    found = call.services.features.history.difference(call.scope, before, after)
    if _may_read(call, found.view):
        return found
    return msgspec.structs.replace(
        found, before=_bare_line(found.before), after=_bare_line(found.after), features=(), columns=()
    )


def history(call: OperationCall, view: str, limit: int) -> tuple[ViewVersion, ...]:
    """Versions of a view, latest first; what rules found in them in words for those who may read its values.

    Raises:
        NotFoundError: there is no such view.
    """
    found = call.services.features.history.history(call.scope, view, limit)
    return found if _may_read(call, view) else tuple(map(_bare_line, found))


def _may_read(call: OperationCall, view: str) -> bool:
    return call.services.access.records.may_read_view(call.scope, call.principal, view)


def readable_statuses(
    services: GatewayServices, scope: Scope, who: Principal | None, views: Sequence[ViewStatus]
) -> tuple[ViewStatus, ...]:
    """Statuses with the reasons of a blocked view for principals who may read its values, and its rules for others."""
    return tuple(
        one
        if not one.blocked or (who is not None and services.access.records.may_read_view(scope, who, one.view))
        else msgspec.structs.replace(one, blocked=one.blocked_by)
        for one in views
    )


def _bare_line(line: ViewVersion) -> ViewVersion:
    return msgspec.structs.replace(line, findings=without_reasons(line.findings))


def without_reasons(findings: Sequence[GateFinding]) -> tuple[GateFinding, ...]:
    """Rules and what they do: their reasons say means and values."""
    return tuple(msgspec.structs.replace(one, reason="") for one in findings)


def _without_values(manifest: SnapshotManifest | None) -> SnapshotManifest | None:
    if manifest is None:
        return None
    quality = manifest.source_quality
    if quality is not None:
        quality = msgspec.structs.replace(quality, columns={})
    return msgspec.structs.replace(manifest, statistics={}, checks=(), source_quality=quality)


@operation("GET", "/admin/features/{view}", "One view: definition, rules by name, what is served.", "read")
def _describe(call: OperationCall, query: Version) -> ViewDescription:
    found = description(call, call.path["view"], query.version)
    # Where files lie on the server is nobody's business over HTTP.
    source = msgspec.structs.replace(found.definition.source, path=None)
    definition = msgspec.structs.replace(found.definition, source=source, quality=None)
    latest = found.latest
    if latest is not None:
        latest = msgspec.structs.replace(latest, manifest=_placeless(latest.manifest))
    return msgspec.structs.replace(found, definition=definition, current=_placeless(found.current), latest=latest)


def _placeless(manifest: SnapshotManifest | None) -> SnapshotManifest | None:
    if manifest is None:
        return None
    read = msgspec.structs.replace(manifest.read, files=())
    return msgspec.structs.replace(manifest, source=manifest.view, read=read)


@operation("GET", "/admin/features/{view}/history", "What was made of a view, published or not.", "read")
def _history(call: OperationCall, query: ViewHistoryQuery) -> ViewHistoryResponse:
    view = call.path["view"]
    return ViewHistoryResponse(view, history(call, view, query.limit))


@operation("GET", "/admin/features/{view}/diff", "Two versions of a view.", "read")
def _diff(call: OperationCall, query: ViewDifferenceQuery) -> ViewDifference:
    return difference(call, query.before, query.after)


# Source rows with all their columns: for those who may publish the view, not for everybody who may look at it.
@operation("GET", "/admin/features/{view}/quarantine", "Rows that rules kept out.", "publish")
def _quarantine(call: OperationCall, query: QuarantineQuery) -> KeptAside:
    view = call.path["view"]
    call.services.access.records.require_source(call.scope, call.principal, f"view/{view}")
    found = call.services.features.history.quarantine(call.scope, view, query.version, query.limit)
    if found is None:
        return KeptAside(view, None, 0, {}, ())
    rows = tuple({"rule": row.rule, "columns": row.columns} for row in found.rows)
    return KeptAside(view, found.verdict, found.total, found.reasons, rows, found.expired_at)
