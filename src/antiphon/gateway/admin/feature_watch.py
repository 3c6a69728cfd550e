"""Skew and lineage of a view, and holding it or rolling it back."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec

from antiphon.catalog.holds import Hold
from antiphon.catalog.skew_reports import SkewReport, ViewSkew
from antiphon.core.errors import ForbiddenError
from antiphon.core.scope import Scope
from antiphon.features.offline.lineage import Lineage
from antiphon.features.publication.rollback import ViewRollback
from antiphon.gateway.bounds import Number
from antiphon.gateway.operation import Operation, OperationCall
from antiphon.gateway.services import GatewayServices
from antiphon.governance.identity.principal import Principal


class SkewRequest(msgspec.Struct, frozen=True):
    """Bounds of a comparison: entities of the view, and as many predictions that were made ``since`` then;"""

    sample: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 50
    seconds: Annotated[float, msgspec.Meta(ge=1, le=60)] = 20.0
    since: datetime | None = None
    as_of: datetime | None = None
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**32)] | None = None


class LastSkew(msgspec.Struct, frozen=True):
    """The last comparison of a view; ``None`` before the first."""

    view: str
    report: SkewReport | None


class SkewHistoryQuery(msgspec.Struct, frozen=True):
    """Bounds the number of lines."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100


class SkewHistory(msgspec.Struct, frozen=True):
    """Comparisons of a view, latest first."""

    view: str
    comparisons: tuple[ViewSkew, ...]


class ViewRollbackRequest(msgspec.Struct, frozen=True):
    """Selects the snapshot to roll back to, by its id or by the number of a publication (the one before the present"""

    reason: str
    to: str | int | None = None
    hold: bool = False
    dry_run: bool = False
    seen: Number | None = None


class EntityLineageQuery(msgspec.Struct, frozen=True):
    """Selects a feature of the view, an entity, a moment (now) and the most source rows."""

    feature: str
    entity: dict[str, str]
    as_of: datetime | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 20


class PredictionLineageQuery(msgspec.Struct, frozen=True):
    """Selects a feature by its full name (all of them), and the most source rows of each."""

    feature: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 20


class LineageList(msgspec.Struct, frozen=True):
    """Lineage of a prediction's features."""

    prediction: str
    features: tuple[Lineage, ...]


class ViewHoldRequest(msgspec.Struct, frozen=True):
    """A reason, for the record."""

    reason: str


class ViewHoldResponse(msgspec.Struct, frozen=True):
    """The hold of a view: its principal and reason."""

    view: str
    held: Hold | None


def _rollback(call: OperationCall) -> ViewRollback:
    body: ViewRollbackRequest = call.body
    return call.services.features.rollback.view(
        call.scope, call.path["view"], body.to, reason=body.reason, principal=call.principal.id, hold=body.hold,
        dry_run=body.dry_run, seen=body.seen,
    )  # fmt: skip


def _hold(call: OperationCall) -> ViewHoldResponse:
    view, rollback = call.path["view"], call.services.features.rollback
    rollback.hold(call.scope, view, reason=call.body.reason, principal=call.principal.id)
    return ViewHoldResponse(view, rollback.held(call.scope).get(view))


def _resume(call: OperationCall) -> ViewHoldResponse:
    view, rollback = call.path["view"], call.services.features.rollback
    rollback.resume(call.scope, view, reason=call.body.reason, principal=call.principal.id)
    return ViewHoldResponse(view, rollback.held(call.scope).get(view))


def _last(call: OperationCall) -> LastSkew:
    view = call.path["view"]
    found = call.services.features.skew.last(call.scope, view)
    return LastSkew(
        view, None if found is None else differences_shown(call.services, call.scope, call.principal, found)
    )


def _skew_history(call: OperationCall) -> SkewHistory:
    view, query = call.path["view"], call.query
    return SkewHistory(view, tuple(call.services.features.skew.history(call.scope, view, query.limit)))


def _skew(call: OperationCall) -> SkewReport:
    body: SkewRequest = call.body
    view = call.path["view"]
    found = call.services.features.skew.measure(
        call.scope,
        [view],
        as_of=body.as_of,
        since=body.since,
        sample=body.sample,
        seconds=body.seconds,
        seed=body.seed,
        trigger=call.principal.id,
    )
    return differences_shown(call.services, call.scope, call.principal, found)


def _lineage(call: OperationCall) -> Lineage:
    body: EntityLineageQuery = call.body
    call.services.access.records.require_source(call.scope, call.principal, f"view/{call.path['view']}", body.entity)
    found = call.services.features.lineage.of_entity(
        call.scope, f"{call.path['view']}.{body.feature}", body.entity, body.as_of, body.limit
    )
    return found.placeless()


def _of_prediction(call: OperationCall) -> LineageList:
    prediction, query = call.path["prediction"], call.query
    found = lineage_of_prediction(call.services, call.scope, call.principal, prediction, query.feature, query.limit)
    return LineageList(prediction, tuple(one.placeless() for one in found))


def lineage_of_prediction(
    services: GatewayServices, scope: Scope, who: Principal, prediction: str, feature: str | None, limit: int
) -> tuple[Lineage, ...]:
    """The source rows behind one feature of a prediction or all, for somebody who may read them.

    Raises:
        NotFoundError: no such prediction or feature. ForbiddenError: policy keeps them from this principal.
    """
    receipt = services.access.records.require_prediction(scope, who, prediction)
    services.access.records.require_source_rows(scope, who, receipt)
    return services.features.lineage.of_prediction(scope, prediction, feature, limit)


def differences_shown(services: GatewayServices, scope: Scope, who: Principal, report: SkewReport) -> SkewReport:
    """A comparison with the examples of views whose values this principal may read; their entities are named to those
    who may publish the view."""
    views = {feature.view for feature in report.features}
    readable = {view for view in views if services.access.records.may_read_view(scope, who, view)}
    shown = msgspec.structs.replace(
        report,
        features=tuple(
            feature if feature.view in readable else msgspec.structs.replace(feature, examples=())
            for feature in report.features
        ),
    )
    return shown if all(may_publish(services, who, view) for view in views) else shown.without_entities()


def may_publish(services: GatewayServices, who: Principal, view: str) -> bool:
    """Tells whether policy lets a principal publish a view and order work on it."""
    try:
        services.access.authorize(who, "publish", f"view/{view}")
    except ForbiddenError:
        return False
    return True


OPERATIONS = (
    Operation(
        "GET", "/admin/features/{view}/skew", "What the last comparison of batch and online found.", "read", LastSkew,
        _last,
    ),
    Operation(
        "GET", "/admin/features/{view}/skew/history", "What comparisons of batch and online found over time.", "read",
        SkewHistory, _skew_history, SkewHistoryQuery,
    ),
    # It is up to a minute of work and names entities: for those who may publish the view.
    Operation(
        "POST", "/admin/features/{view}/skew", "Compare what is read online with what batch computes.", "publish",
        SkewReport, _skew, body=SkewRequest,
    ),
    # Source rows with all their columns, of any entity: for those who may publish the view.
    Operation(
        "POST", "/admin/features/{view}/lineage", "The source rows behind a value that is read.", "publish", Lineage,
        _lineage, body=EntityLineageQuery,
    ),
    Operation(
        "GET", "/admin/predictions/{prediction}/lineage", "The source rows behind a prediction's features.", "read",
        LineageList, _of_prediction, PredictionLineageQuery,
    ),
    # The rooms keep the evidence of these themselves, in the transaction of the change.
    Operation(
        "POST", "/admin/features/{view}/rollback", "Publish an earlier snapshot of a view again.", "publish",
        ViewRollback, _rollback, body=ViewRollbackRequest,
    ),
    Operation(
        "POST", "/admin/features/{view}/hold", "Let nothing replace what is published of a view.", "publish",
        ViewHoldResponse,
        _hold, body=ViewHoldRequest,
    ),
    Operation(
        "POST", "/admin/features/{view}/resume", "Let a held view go on with its next refresh.", "publish",
        ViewHoldResponse,
        _resume, body=ViewHoldRequest,
    ),
)  # fmt: skip
