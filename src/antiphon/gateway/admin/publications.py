"""Publications, streams and source events."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec

from antiphon.catalog.events import Event as IncomingEvent
from antiphon.core.scope import Scope
from antiphon.gateway.admin import shapes
from antiphon.gateway.admin.views import readable_statuses
from antiphon.gateway.bounds import MOST
from antiphon.gateway.operation import Operation, OperationCall
from antiphon.gateway.services import GatewayServices
from antiphon.governance.identity.principal import Principal
from antiphon.services.features.view_status import ViewStatus


class PublicationQuery(msgspec.Struct, frozen=True):
    """Bounds the number of publications."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 50


class PublicationRollbackRequest(msgspec.Struct, frozen=True):
    """Publish the snapshots of publication ``to`` again, as the next number, and why."""

    to: Annotated[int, msgspec.Meta(ge=1, le=MOST)]
    reason: str


class Refresh(msgspec.Struct, frozen=True):
    """Selects the views to refresh (all when none is named), the moment (now), a key under which it is done once,
    and whether all of"""

    views: tuple[str, ...] = ()
    as_of: datetime | None = None
    key: str | None = None
    whole: bool = False


class FeatureList(msgspec.Struct, frozen=True):
    """Every served view."""

    views: tuple[ViewStatus, ...]


class IncomingEvents(msgspec.Struct, frozen=True):
    """Events of one stream, in their source's order. Times carry an offset."""

    events: Annotated[tuple[IncomingEvent, ...], msgspec.Meta(min_length=1, max_length=20_000)]


def _list(call: OperationCall) -> shapes.PublicationList:
    return shapes.PublicationList(
        shapes.read_all(call.services.features.publications.list(call.scope, call.query.limit), shapes.PublicationLine)
    )


def _rollback(call: OperationCall) -> shapes.PublicationLine:
    body: PublicationRollbackRequest = call.body
    rollback = call.services.features.rollback
    made = rollback.publication(call.scope, body.to, reason=body.reason, principal=call.principal.id)
    return shapes.read(made, shapes.PublicationLine)


def _views(call: OperationCall) -> FeatureList:
    return FeatureList(view_statuses(call.services, call.scope, call.principal))


def view_statuses(services: GatewayServices, scope: Scope, who: Principal) -> tuple[ViewStatus, ...]:
    """Returns the status of every view that the principal may see."""
    return readable_statuses(services, scope, who, services.features.view_status(scope))


def _refresh(call: OperationCall) -> shapes.RunLine:
    body: Refresh = call.body
    as_of = body.as_of.isoformat() if body.as_of else None
    run = call.services.work.runs.refresh(call.scope, body.views, as_of, body.key, body.whole)
    return shapes.read(run, shapes.RunLine)


def _append(call: OperationCall) -> shapes.EventsResponse:
    stream = call.path["stream"]
    return shapes.EventsResponse(stream, call.services.features.streams.append(call.scope, stream, call.body.events))


def _streams(call: OperationCall) -> shapes.StreamList:
    return shapes.StreamList(tuple(call.services.features.streams.status(call.scope)))


OPERATIONS = (
    Operation("GET", "/admin/features", "How fresh each served view is.", "read", FeatureList, _views),
    Operation(
        "POST",
        "/admin/features/refresh",
        "Compute views anew, gate and publish them; follow the run.",
        "publish",
        shapes.RunLine,
        _refresh,
        body=Refresh,
        changes=True,
        status=202,
    ),
    Operation(
        "GET",
        "/admin/publications",
        "List publications, newest first.",
        "read",
        shapes.PublicationList,
        _list,
        PublicationQuery,
    ),
    Operation(
        "POST",
        "/admin/publications/rollback",
        "Publish earlier snapshots again.",
        "publish",
        shapes.PublicationLine,
        _rollback,
        body=PublicationRollbackRequest,
    ),
    Operation(
        "POST",
        "/admin/events/{stream}",
        "Append source events to a stream; an event id seen before is ignored.",
        "publish",
        shapes.EventsResponse,
        _append,
        body=IncomingEvents,
    ),
    Operation("GET", "/admin/streams", "How far each stream has been consumed.", "read", shapes.StreamList, _streams),
)
