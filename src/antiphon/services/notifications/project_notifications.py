"""Notifications of one tenant as people read them: what was said, and what became of it in each channel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from antiphon.catalog.notification_deliveries import DeliveryStatus
from antiphon.catalog.notifications import Notification
from antiphon.core.errors import ForbiddenError
from antiphon.core.scope import Scope
from antiphon.governance.identity.principal import Principal
from antiphon.services.incidents.readable import IncidentReader
from antiphon.services.notifications.delivery import (
    ChannelStatus,
    LogEntry,
    NotificationSender,
    entry_of,
    require_channel,
)
from antiphon.services.project.store import Store
from antiphon.services.workflows import NOTIFY

DeliveryState = Literal["waiting", "sent", "given-up", "passed-over", "untaken"]

STATES: dict[DeliveryState, tuple[DeliveryStatus, ...]] = {
    "waiting": ("waiting", "ordered"),
    "sent": ("sent",),
    "given-up": ("failed",),
    "passed-over": ("collapsed", "summarized", "dropped"),
    "untaken": (),
}
"""States that are searched by, each with the statuses of a delivery that are one; ``untaken`` has no delivery."""

_LATEST_RUNS = 50


class NotificationLine(msgspec.Struct, frozen=True):
    """A notification with its number and a delivery for each channel that took it."""

    sequence: int
    notification: Notification
    deliveries: tuple[LogEntry, ...]


class NotificationPage(msgspec.Struct, frozen=True):
    """Some notifications, the latest first; the next page begins before ``behind``, if there is one."""

    lines: tuple[NotificationLine, ...]
    behind: int | None


class ProjectNotifications:
    """The notifications of one tenant. The channels are those of the tenant that the project's settings name.

    Args:
        reader: the one whom they are shown to; without one all of them are shown as they are.
    """

    def __init__(self, store: Store, scope: Scope, reader: IncidentReader | None = None) -> None:
        self._store = store
        self._scope = scope
        self._reader = reader

    def of_reader(self, may_read: Callable[[str], bool]) -> ProjectNotifications:
        """The same for somebody who may read these applications alone: notifications about others are not there, and
        the rest does not name them."""
        applications = self._store.releases.applications(self._scope)
        return ProjectNotifications(self._store, self._scope, IncidentReader(may_read, applications))

    @property
    def has_channels(self) -> bool:
        """Tells whether the channels of the settings are this tenant's."""
        return self._scope == self._store.scope

    def page(
        self, limit: int, *, kind: str = "", state: DeliveryState | None = None, before: int | None = None
    ) -> NotificationPage:
        """Notifications before a number: of one kind and those below it, and with a delivery in a state.

        There may be fewer than ``limit`` on a page with more behind it: those that the reader may not read are left
        out.
        """
        store, scope = self._store, self._scope
        with store.database.read() as connection:
            numbers = store.notifications.latest(
                scope, limit + 1, kind=kind, statuses=None if state is None else STATES[state], before=before,
                within=connection,
            )  # fmt: skip
            shown = numbers[:limit]
            found = store.notifications.numbered(scope, shown, within=connection)
            deliveries = store.notification_deliveries.of_notifications(scope, shown, within=connection)
        runs = store.runs.by_id(scope, [one.run for one in deliveries if one.run is not None])
        lines = tuple(
            NotificationLine(
                one.sequence,
                said,
                tuple(
                    entry_of(delivery, said, runs.get(delivery.run or ""))
                    for delivery in deliveries
                    if delivery.sequence == one.sequence
                ),
            )
            for one in reversed(found)
            if (said := one.notification if self._reader is None else self._reader.notified(one.notification))
        )
        return NotificationPage(lines, shown[-1] if len(numbers) > limit else None)

    def kinds(self) -> Sequence[str]:
        """Kinds of the notifications that are kept."""
        return self._store.notifications.kinds(self._scope)

    def channels(self) -> list[ChannelStatus]:
        """The channels, each with what became of its notifications; none of another tenant."""
        return NotificationSender(self._store).statuses() if self.has_channels else []

    def test(self, channel: str, by: Principal, reason: str) -> str:
        """Send a test to a channel at once; what the receiver answered. It is in the audit log from before it is sent.

        Raises:
            ForbiddenError: another tenant than the project's own asks.
            NotFoundError, UnavailableError, InvalidInputError, SetupError: as :meth:`NotificationSender.test`.
        """
        store = self._store
        if by.tenant != store.scope.tenant or not self.has_channels:
            raise ForbiddenError(
                "Channels are those of the installation.", where="channel", next_step="Ask who administers it."
            )
        require_channel(store, channel)
        with store.database.transaction() as connection:
            detail = {"reason": reason}
            store.audit.append(store.scope, by.id, "notifications.test", channel, detail, within=connection)
        return NotificationSender(store).test(channel)

    def stamp(self) -> object:
        """A value that is another one once a notification or a delivery has changed."""
        store, scope = self._store, self._scope
        runs = store.runs.list(scope, _LATEST_RUNS, workflow=NOTIFY)
        return (
            store.notifications.last(scope),
            store.notification_deliveries.counts(scope),
            [(run.id, run.status, run.attempts) for run in runs],
        )
