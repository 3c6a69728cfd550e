"""Skew and lineage of a view, holding it or rolling it back, and the nearest neighbors among its entities."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated

import msgspec

from antiphon.catalog.features.publications import Hold
from antiphon.catalog.features.skew_reports import SkewReport, ViewSkew
from antiphon.features.embedding.neighbors import MOST, NeighborQuery, Neighbors
from antiphon.features.offline.lineage import Lineage
from antiphon.features.publication.rollback import ViewRollback
from antiphon.gateway.http.bounds import Few, Number
from antiphon.gateway.operation import OperationCall, operation


class SkewRequest(msgspec.Struct, frozen=True):
    """Bounds of a comparison: entities of the view, and as many predictions that were made ``since`` then; and of its
    time."""

    sample: Few = 50
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

    limit: Few = 100


class SkewHistory(msgspec.Struct, frozen=True):
    """Comparisons of a view, latest first."""

    view: str
    comparisons: tuple[ViewSkew, ...]


class ViewRollbackRequest(msgspec.Struct, frozen=True):
    """Selects the snapshot to roll back to, by its id or by the number of a publication (the one before the present by
    default); ``seen`` is the publication that the caller has seen as current."""

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
    limit: Few = 20


class PredictionLineageQuery(msgspec.Struct, frozen=True):
    """Selects a feature by its full name (all of them), and the most source rows of each."""

    feature: str | None = None
    limit: Few = 20


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


class NeighborsRequest(msgspec.Struct, frozen=True):
    """Neighbors of a text, of an entity's own text, or of a vector with the model that made it; what for; and in
    which publication (the current one)."""

    feature: str
    text: str | None = None
    entity: dict[str, str] | None = None
    vector: tuple[float, ...] | None = None
    model: str | None = None
    top: Annotated[int, msgspec.Meta(ge=1, le=MOST)] = 10
    publication: Number | None = None
    purpose: str = ""


@operation("GET", "/admin/features/{view}/skew", "What the last comparison of batch and online found.", "read")
def _last(call: OperationCall) -> LastSkew:
    view = call.path["view"]
    found = call.services.features.skew.last(call.scope, view)
    return LastSkew(view, None if found is None else differences_shown(call, found))


@operation(
    "GET", "/admin/features/{view}/skew/history", "What comparisons of batch and online found over time.", "read"
)
def _skew_history(call: OperationCall, query: SkewHistoryQuery) -> SkewHistory:
    view = call.path["view"]
    return SkewHistory(view, tuple(call.services.features.skew.history(call.scope, view, query.limit)))


# It is up to a minute of work and names entities: for those who may publish the view.
@operation("POST", "/admin/features/{view}/skew", "Compare what is read online with what batch computes.", "publish")
def _skew(call: OperationCall, body: SkewRequest) -> SkewReport:
    measure, bounds = call.services.features.skew.measure, msgspec.structs.asdict(body)
    return differences_shown(call, measure(call.scope, [call.path["view"]], trigger=call.principal.id, **bounds))


# Source rows with all their columns, of any entity: for those who may publish the view.
@operation("POST", "/admin/features/{view}/lineage", "The source rows behind a value that is read.", "publish")
def _lineage(call: OperationCall, body: EntityLineageQuery) -> Lineage:
    view, lineage = call.path["view"], call.services.features.lineage
    call.services.access.records.require_source(call.scope, call.principal, f"view/{view}", body.entity)
    return lineage.of_entity(call.scope, f"{view}.{body.feature}", body.entity, body.as_of, body.limit).placeless()


@operation("GET", "/admin/predictions/{prediction}/lineage", "The source rows behind a prediction's features.", "read")
def _of_prediction(call: OperationCall, query: PredictionLineageQuery) -> LineageList:
    prediction = call.path["prediction"]
    found = lineage_of_prediction(call, prediction, query.feature, query.limit)
    return LineageList(prediction, tuple(one.placeless() for one in found))


# The rooms keep the evidence of these three themselves, in the transaction of the change.
@operation("POST", "/admin/features/{view}/rollback", "Publish an earlier snapshot of a view again.", "publish")
def _rollback(call: OperationCall, body: ViewRollbackRequest) -> ViewRollback:
    return call.services.features.rollback.view(
        call.scope, call.path["view"], principal=call.principal.id, **msgspec.structs.asdict(body)
    )


@operation("POST", "/admin/features/{view}/hold", "Let nothing replace what is published of a view.", "publish")
def _hold(call: OperationCall, body: ViewHoldRequest) -> ViewHoldResponse:
    return _holding(call, call.services.features.rollback.hold, body)


@operation("POST", "/admin/features/{view}/resume", "Let a held view go on with its next refresh.", "publish")
def _resume(call: OperationCall, body: ViewHoldRequest) -> ViewHoldResponse:
    return _holding(call, call.services.features.rollback.resume, body)


def _holding(call: OperationCall, act: Callable[..., object], body: ViewHoldRequest) -> ViewHoldResponse:
    view = call.path["view"]
    act(call.scope, view, reason=body.reason, principal=call.principal.id)
    return ViewHoldResponse(view, call.services.features.rollback.held(call.scope).get(view))


@operation("POST", "/admin/features/{view}/neighbors", "The entities whose texts are nearest to a text.", "answer")
def _neighbors(call: OperationCall, body: NeighborsRequest) -> Neighbors:
    view = call.path["view"]
    question = NeighborQuery(body.feature, body.text, body.entity, body.vector, body.model, body.top, body.publication)
    # Which entities they are is for those who may publish the view; others get what stands for them.
    see_keys = call.may("publish", f"view/{view}")
    find = call.services.features.neighbors.find
    return find(call.scope, call.principal, view, question, purpose=body.purpose, see_keys=see_keys)


def lineage_of_prediction(call: OperationCall, prediction: str, feature: str | None, limit: int) -> tuple[Lineage, ...]:
    """The source rows behind one feature of a prediction or all, for somebody who may read them.

    Raises:
        NotFoundError: no such prediction or feature. ForbiddenError: policy keeps them from this principal.
    """
    records = call.services.access.records
    receipt = records.require_prediction(call.scope, call.principal, prediction)
    records.require_source_rows(call.scope, call.principal, receipt)
    return call.services.features.lineage.of_prediction(call.scope, prediction, feature, limit)


def differences_shown(call: OperationCall, report: SkewReport) -> SkewReport:
    """A comparison with the examples of views whose values this principal may read; their entities are named to those
    who may publish the view."""
    views = {feature.view for feature in report.features}
    may_read = call.services.access.records.may_read_view
    readable = {view for view in views if may_read(call.scope, call.principal, view)}
    shown = msgspec.structs.replace(
        report,
        features=tuple(
            feature if feature.view in readable else msgspec.structs.replace(feature, examples=())
            for feature in report.features
        ),
    )
    return shown if all(call.may("publish", f"view/{view}") for view in views) else shown.without_entities()
