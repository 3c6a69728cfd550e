"""Publications, streams and source events."""

from __future__ import annotations

from typing import Annotated

import msgspec

from antiphon.catalog.events import Event
from antiphon.gateway.admin import shapes
from antiphon.gateway.operation import Call, Operation


class Limit(msgspec.Struct, frozen=True):
    """How many at most."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 50


class Rollback(msgspec.Struct, frozen=True):
    """Publish the snapshots of publication ``to`` again, as the next number, and why."""

    to: Annotated[int, msgspec.Meta(ge=1)]
    reason: str


class IncomingEvents(msgspec.Struct, frozen=True):
    """Events of one stream, in their source's order. Times carry an offset."""

    events: Annotated[tuple[Event, ...], msgspec.Meta(min_length=1, max_length=20_000)]


def _list(call: Call) -> shapes.PublicationList:
    return shapes.PublicationList(
        shapes.read_all(call.services.publications.list(call.scope, call.query.limit), shapes.PublicationLine)
    )


def _rollback(call: Call) -> shapes.PublicationLine:
    wanted: Rollback = call.body
    made = call.services.publications.rollback(
        call.scope, wanted.to, reason=wanted.reason, principal=call.principal.id
    )
    return shapes.read(made, shapes.PublicationLine)


def _append(call: Call) -> shapes.Appended:
    stream = call.path["stream"]
    return shapes.Appended(stream, call.services.events.append(call.scope, stream, call.body.events))


def _streams(call: Call) -> shapes.StreamList:
    return shapes.StreamList(tuple(call.services.streams(call.scope)))


OPERATIONS = (
    Operation(
        "GET", "/admin/publications", "List publications, newest first.", "read", shapes.PublicationList, _list, Limit
    ),
    Operation(
        "POST",
        "/admin/publications/rollback",
        "Publish earlier snapshots again.",
        "publish",
        shapes.PublicationLine,
        _rollback,
        body=Rollback,
        changes=True,
    ),
    Operation(
        "POST",
        "/admin/events/{stream}",
        "Append source events to a stream; an event id seen before is ignored.",
        "publish",
        shapes.Appended,
        _append,
        body=IncomingEvents,
    ),
    Operation("GET", "/admin/streams", "How far each stream has been consumed.", "read", shapes.StreamList, _streams),
)
