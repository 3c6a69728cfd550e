"""Backfills: views computed as of moments of the past, apart from what is served."""

from __future__ import annotations

import msgspec

from antiphon.features.publication.promote import BackfillPromotion
from antiphon.gateway.admin.shapes import ListQuery, Reason, ReasonRequest, RunLine, read
from antiphon.gateway.admin.views import without_reasons
from antiphon.gateway.operation import OperationCall, operation
from antiphon.services.features.backfills import BackfillLine, BackfillOrder, BackfillOutlook, BackfillReport


class BackfillList(msgspec.Struct, frozen=True):
    """Latest first."""

    backfills: tuple[BackfillLine, ...]


class PromotionRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A promotion with its reason, for the record.

    Attributes:
        older: also where what is served is newer.
        dry_run: only say what would be published.
    """

    reason: Reason
    older: bool = False
    dry_run: bool = False


@operation("GET", "/admin/backfills", "List backfills, latest first.", "read")
def _list(call: OperationCall, query: ListQuery) -> BackfillList:
    return BackfillList(call.services.features.backfills.list(call.scope, query.limit))


@operation(
    "POST", "/admin/backfills", "Compute views as of past moments, and publish nothing.", "publish",
    status=202,
)  # fmt: skip
def _order(call: OperationCall, body: BackfillOrder) -> RunLine:
    return read(call.services.features.backfills.order(call.scope, call.principal, body), RunLine)


@operation(
    "POST", "/admin/backfills-outlook", "How many partitions a backfill would be, how long and how large.", "publish"
)
def _outlook(call: OperationCall, body: BackfillOrder) -> BackfillOutlook:
    return call.services.features.backfills.outlook(call.scope, body)


@operation("GET", "/admin/backfills/{run}", "One backfill, with what each partition came to.", "read")
def _report(call: OperationCall) -> BackfillReport:
    found = call.services.features.backfills.report(call.scope, call.path["run"])
    may = call.services.access.records.may_read_view
    readable = {view: may(call.scope, call.principal, view) for view in {one.view for one in found.partitions}}
    partitions = tuple(
        one
        if readable[one.view]
        else msgspec.structs.replace(one, findings=without_reasons(one.findings), null_shares={}, shifts={})
        for one in found.partitions
    )
    return msgspec.structs.replace(found, partitions=partitions)


@operation("POST", "/admin/backfills/{run}/promote", "Publish the newest snapshots of a backfill together.", "publish")
def _promote(call: OperationCall, body: PromotionRequest) -> BackfillPromotion:
    found = call.services.features.backfills.promote(
        call.scope, call.principal, call.path["run"], reason=body.reason, older=body.older, dry_run=body.dry_run
    )
    may = call.services.access.records.may_read_view
    views = tuple(
        one
        if may(call.scope, call.principal, one.view)
        else msgspec.structs.replace(one, findings=without_reasons(one.findings))
        for one in found.views
    )
    return msgspec.structs.replace(found, views=views)


@operation("POST", "/admin/backfills/{run}/discard", "Give up what is kept of a backfill.", "publish")
def _discard(call: OperationCall, body: ReasonRequest) -> BackfillLine:
    discard = call.services.features.backfills.discard
    return discard(call.scope, call.principal, call.path["run"], reason=body.reason).backfill
