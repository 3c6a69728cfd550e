"""Publications, streams and source events."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec

from antiphon.catalog.features.events import Event as IncomingEvent
from antiphon.features.streaming.consumer import StreamStatus
from antiphon.gateway.admin.shapes import ListQuery, RunLine, read, read_all
from antiphon.gateway.admin.views import readable_statuses
from antiphon.gateway.http.bounds import MOST
from antiphon.gateway.operation import OperationCall, operation
from antiphon.services.features.view_status import ViewStatus


class PublicationRollbackRequest(msgspec.Struct, frozen=True):
    """Publish the snapshots of publication ``to`` again, as the next number, and why."""

    to: Annotated[int, msgspec.Meta(ge=1, le=MOST)]
    reason: str


class Refresh(msgspec.Struct, frozen=True):
    """Selects the views to refresh (all when none is named), the moment (now), a key under which it is done once,
    whether all of each source is read, taking nothing over from the snapshot before, and whether values as of a moment
    of the past are to be published."""

    views: tuple[str, ...] = ()
    as_of: datetime | None = None
    key: str | None = None
    whole: bool = False
    publish: bool = False


class FeatureList(msgspec.Struct, frozen=True):
    """Every served view."""

    views: tuple[ViewStatus, ...]


class IncomingEvents(msgspec.Struct, frozen=True):
    """Events of one stream, in their source's order. Times carry an offset."""

    events: Annotated[tuple[IncomingEvent, ...], msgspec.Meta(min_length=1, max_length=20_000)]


class PublicationLine(msgspec.Struct, frozen=True):
    """A publication: which snapshot of each ``view@definition_version`` is online with it since ``served_at``; without
    that moment it is announced only, or was passed over."""

    number: int
    snapshots: dict[str, str]
    reason: str
    principal: str
    created_at: datetime
    served_at: datetime | None = None
    base: int | None = None


class PublicationList(msgspec.Struct, frozen=True):
    """Newest first; the first that has a ``served_at`` is current."""

    publications: tuple[PublicationLine, ...]


class EventsResponse(msgspec.Struct, frozen=True):
    """``end`` is the stream's last offset; the features know the events once ``consumed`` reaches it."""

    stream: str
    end: int


class StreamList(msgspec.Struct, frozen=True):
    """Every stream of the scope."""

    streams: tuple[StreamStatus, ...]


@operation("GET", "/admin/features", "How fresh each served view is.", "read")
def _views(call: OperationCall) -> FeatureList:
    return FeatureList(view_statuses(call))


def view_statuses(call: OperationCall) -> tuple[ViewStatus, ...]:
    """Returns the status of every view that the principal may see."""
    services, scope = call.services, call.scope
    return readable_statuses(services, scope, call.principal, services.features.view_status(scope))


@operation(
    "POST",
    "/admin/features/refresh",
    "Compute views anew, gate and publish them; follow the run.",
    "publish",
    changes=True,
    status=202,
)
def _refresh(call: OperationCall, body: Refresh) -> RunLine:
    refresh = call.services.work.runs.refresh
    return read(refresh(call.scope, body.views, body.as_of, body.key, body.whole, body.publish), RunLine)


@operation("GET", "/admin/publications", "List publications, newest first.", "read")
def _list(call: OperationCall, query: ListQuery) -> PublicationList:
    found = call.services.features.publications.list(call.scope, query.limit)
    return PublicationList(read_all(found, PublicationLine))


@operation("POST", "/admin/publications/rollback", "Publish earlier snapshots again.", "publish")
def _rollback(call: OperationCall, body: PublicationRollbackRequest) -> PublicationLine:
    rollback, who = call.services.features.rollback, call.principal.id
    return read(rollback.publication(call.scope, body.to, reason=body.reason, principal=who), PublicationLine)


@operation(
    "POST", "/admin/events/{stream}", "Append source events to a stream; an event id seen before is ignored.", "publish"
)
def _append(call: OperationCall, body: IncomingEvents) -> EventsResponse:
    stream = call.path["stream"]
    return EventsResponse(stream, call.services.features.streams.append(call.scope, stream, body.events))


@operation("GET", "/admin/streams", "How far each stream has been consumed.", "read")
def _streams(call: OperationCall) -> StreamList:
    return StreamList(tuple(call.services.features.streams.status(call.scope)))
