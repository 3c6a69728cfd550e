"""Deliveries of notifications: what became of each in each channel that takes it.

Invariants:
- A channel considers each notification once: that, and the deliveries that follow from it, are one transaction.
- A delivery has one status; one that has ended is left as it is, but that a failed one may still be sent.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

import msgspec
from sqlalchemy import and_, delete, func, insert, select, update
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.notifications import NotificationState
from antiphon.catalog.rows import value_of
from antiphon.core.scope import Scope

DeliveryStatus = Literal["waiting", "ordered", "sent", "failed", "collapsed", "summarized", "dropped"]
"""``waiting`` for its order, ``ordered`` as a run, ``sent``; ``failed`` for good; ``collapsed`` into the notification
that it is over; ``summarized`` by another one; ``dropped`` because the settings name its channel no longer."""

OPEN: tuple[DeliveryStatus, ...] = ("waiting", "ordered")
"""Statuses of deliveries that have not ended."""

_channels, _deliveries, _notifications = (
    schema.notification_channels,
    schema.notification_deliveries,
    schema.notifications,
)


class NotificationDelivery(msgspec.Struct, frozen=True):
    """A notification on its way to a channel.

    Attributes:
        sequence: the notification's number; ``notification`` and ``state``: its id and state.
        run: that sends it.
        answer: of the receiver, in a word or a number.
    """

    channel: str
    sequence: int
    notification: str
    state: NotificationState
    status: DeliveryStatus
    created_at: datetime
    run: str | None = None
    answer: str | None = None
    ended_at: datetime | None = None


class NotificationDeliveries:
    """Repository of the deliveries of each scope, and of how far its channels are."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, scope: Scope, channel: str, considered: int, *, within: Connection | None = None) -> int:
        """Let a channel that is new begin after a notification; the number up to which it has considered them."""
        with self._database.writing(within) as connection:
            known = connection.execute(
                select(_channels.c.considered).where(schema.owned(_channels, scope, channel=channel))
            ).scalar()
            if known is not None:
                return int(known)
            values = {"tenant": scope.tenant, "environment": scope.environment, "channel": channel}
            now = self._database.clock.now()
            connection.execute(insert(_channels).values(**values, considered=considered, begun_at=now))
        return considered

    def consider(
        self, scope: Scope, channel: str, until: int, taken: Sequence[NotificationDelivery], *, within: Connection
    ) -> None:
        """Note that a channel has considered everything up to a number, and which of it is to be sent."""
        within.execute(
            update(_channels).where(schema.owned(_channels, scope, channel=channel)).values(considered=until)
        )
        self.add(scope, taken, within=within)

    def add(self, scope: Scope, taken: Sequence[NotificationDelivery], *, within: Connection | None = None) -> None:
        """Add deliveries."""
        owner = {"tenant": scope.tenant, "environment": scope.environment}
        with self._database.writing(within) as connection:
            for one in taken:
                connection.execute(insert(_deliveries).values(**owner, **msgspec.structs.asdict(one)))

    def list(
        self,
        scope: Scope,
        channel: str | None = None,
        *,
        status: DeliveryStatus | None = None,
        limit: int = 1_000,
        newest: bool = False,
        within: Connection | None = None,
    ) -> builtins.list[NotificationDelivery]:
        """Deliveries in the order of their notifications, or the newest first."""
        found = select(_deliveries).where(
            schema.owned(_deliveries, scope), *schema.given(_deliveries, channel=channel, status=status)
        )
        number = _deliveries.c.sequence.desc() if newest else _deliveries.c.sequence
        rows = self._database.rows(found.order_by(number, _deliveries.c.channel).limit(limit), within)
        return [value_of(NotificationDelivery, row) for row in rows]

    def of_notifications(
        self, scope: Scope, numbers: Sequence[int], *, within: Connection | None = None
    ) -> builtins.list[NotificationDelivery]:
        """The deliveries of these notifications to every channel, by the channel's name."""
        found = select(_deliveries).where(schema.owned(_deliveries, scope), _deliveries.c.sequence.in_(numbers))
        rows = self._database.rows(found.order_by(_deliveries.c.channel), within)
        return [value_of(NotificationDelivery, row) for row in rows]

    def get(
        self, scope: Scope, channel: str, sequence: int, *, within: Connection | None = None
    ) -> NotificationDelivery | None:
        """One delivery, if there is one."""
        found = select(_deliveries).where(schema.owned(_deliveries, scope, channel=channel, sequence=sequence))
        row = self._database.first(found, within)
        return None if row is None else value_of(NotificationDelivery, row)

    def beginnings(
        self, scope: Scope, channel: str, ids: Sequence[str], *, within: Connection | None = None
    ) -> Mapping[str, NotificationDelivery]:
        """The deliveries to a channel of the beginnings of these, by their ids."""
        found = select(_deliveries).where(
            schema.owned(_deliveries, scope, channel=channel, state="firing"), _deliveries.c.notification.in_(ids)
        )
        return {row.notification: value_of(NotificationDelivery, row) for row in self._database.rows(found, within)}

    def counts(self, scope: Scope, *, within: Connection | None = None) -> Mapping[tuple[str, DeliveryStatus], int]:
        """Deliveries by channel and status."""
        by = (_deliveries.c.channel, _deliveries.c.status)
        counted = select(*by, func.count().label("deliveries")).where(schema.owned(_deliveries, scope)).group_by(*by)
        return {(row.channel, row.status): row.deliveries for row in self._database.rows(counted, within)}

    def order(self, scope: Scope, channel: str, sequence: int, run: str, *, within: Connection | None = None) -> None:
        """Note the run that sends one."""
        of = schema.owned(_deliveries, scope, channel=channel, sequence=sequence)
        self._database.write(update(_deliveries).where(of).values(status="ordered", run=run), within)

    def end(
        self,
        scope: Scope,
        channel: str,
        sequence: int,
        status: DeliveryStatus,
        reply: str | None = None,
        *,
        within: Connection | None = None,
    ) -> None:
        """Note how one ended, and what the receiver replied. What was sent stays so."""
        of = schema.owned(_deliveries, scope, channel=channel, sequence=sequence)
        values = {"status": status, "answer": reply, "ended_at": self._database.clock.now()}
        self._database.write(update(_deliveries).where(of, _deliveries.c.status != "sent").values(values), within)

    def channels(self, scope: Scope, *, within: Connection | None = None) -> Mapping[str, int]:
        """Channels that have begun, each with the number up to which it has considered notifications."""
        rows = self._database.rows(select(_channels).where(schema.owned(_channels, scope)), within)
        return {row.channel: row.considered for row in rows}

    def has_open(self, scope: Scope, channel: str, *, within: Connection | None = None) -> bool:
        """Tells whether a delivery to a channel has not ended."""
        of_channel = schema.owned(_deliveries, scope, channel=channel), _deliveries.c.status.in_(OPEN)
        return self._database.first(select(_deliveries.c.sequence).where(*of_channel).limit(1), within) is not None

    def end_channel(self, scope: Scope, channel: str, *, within: Connection | None = None) -> None:
        """Forget a channel and drop what waits for it; one of the same name begins anew."""
        now = self._database.clock.now()
        with self._database.writing(within) as connection:
            connection.execute(delete(_channels).where(schema.owned(_channels, scope, channel=channel)))
            waits = and_(schema.owned(_deliveries, scope, channel=channel), _deliveries.c.status.in_(OPEN))
            connection.execute(update(_deliveries).where(waits).values(status="dropped", ended_at=now))

    def prune(self, scope: Scope, *, within: Connection | None = None) -> int:
        """Remove deliveries of notifications that are there no more; how many they were."""
        left = select(_notifications.c.sequence).where(schema.owned(_notifications, scope))
        gone = schema.owned(_deliveries, scope), _deliveries.c.sequence.not_in(left)
        return self._database.write(delete(_deliveries).where(*gone), within)
