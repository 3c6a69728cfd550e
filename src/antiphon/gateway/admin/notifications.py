"""Notifications, with what became of each in each channel."""

from __future__ import annotations

from typing import Annotated

import msgspec

from antiphon.gateway.http.bounds import Few, Number
from antiphon.gateway.operation import OperationCall, operation
from antiphon.services.notifications.project_notifications import DeliveryState, NotificationPage


class NotificationQuery(msgspec.Struct, frozen=True):
    """So many notifications before a number: of a kind and those below it, and with a delivery in a state."""

    limit: Few = 50
    kind: Annotated[str, msgspec.Meta(max_length=200)] = ""
    state: DeliveryState | None = None
    before: Number | None = None


@operation("GET", "/admin/notifications", "List notifications with their deliveries, the latest first.", "read")
def _list(call: OperationCall, query: NotificationQuery) -> NotificationPage:
    found = call.services.work.notifications(call.scope)
    found = found.of_reader(lambda name: call.may("read", f"application/{name}"))
    return found.page(query.limit, kind=query.kind, state=query.state, before=query.before)
