"""Orders of deliveries: each notification is held against the filters of each channel once, and becomes a run there.

Invariants:
- Considering notifications and adding their deliveries is one transaction, and so is ordering a run and noting it:
  a crash between loses nothing and orders nothing twice.
- What is over waits until the delivery of its beginning has ended. A beginning that was not delivered by then is
  collapsed: the notification that it is over says both.
- A channel has at most :data:`MOST_OPEN` runs that have not ended. Where more wait than that, the gravest are said each
  by itself and the others by one summary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
from sqlalchemy.engine import Connection

from antiphon.catalog.notification_deliveries import OPEN, NotificationDelivery
from antiphon.catalog.notifications import Notification, NumberedNotification
from antiphon.core.settings_notifications import SEVERITIES, Channel
from antiphon.durable.run import ENDED
from antiphon.services.notifications.channels import is_public, takes
from antiphon.services.project.store import Store
from antiphon.services.workflows import NOTIFY

MOST_OPEN = 20
"""Deliveries to a channel that have a run; as many more may wait by themselves."""

AT_ONCE = 1_000
"""Notifications that one transaction considers, and that one summary stands for at most."""

SUMMARY = "notifications.summary"
"""Kind of the notification that stands for others."""


class DeliveryArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Arguments of a run: the channel, the notification's number, and its id and state for people."""

    channel: str
    sequence: int
    notification: str
    state: str


class NotificationOrders:
    """Orders what the channels of one project have not got."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def begin(self) -> Mapping[str, int]:
        """Let channels of the settings that are new begin now, and end those that are named no longer; up to which
        notification each has considered them."""
        deliveries, scope = self._store.notification_deliveries, self._store.scope
        known = deliveries.channels(scope)
        for name in self._store.settings.notifications.keys() - known.keys():
            with self._store.database.transaction() as connection:
                last = self._store.notifications.last(scope, within=connection)
                deliveries.begin(scope, name, last, within=connection)
        for name in known.keys() - self._store.settings.notifications.keys():
            deliveries.end_channel(scope, name)
        return deliveries.channels(scope)

    def order_due(self) -> int:
        """Order what is due in every channel; how many deliveries it were."""
        store, considered, ordered = self._store, self.begin(), 0
        last = store.notifications.last(store.scope)
        for name, channel in store.settings.notifications.items():
            # Most looks find nothing: they do not take the write lock.
            if considered[name] == last and not store.notification_deliveries.has_open(store.scope, name):
                continue
            more = True
            while more:
                with store.database.transaction() as connection:
                    more = self._consider(name, channel, connection)
            with store.database.transaction() as connection:
                self._settle(name, connection)
                ordered += self._order(name, channel, connection)
        return ordered

    def _consider(self, name: str, channel: Channel, within: Connection) -> bool:
        """Consider the next notifications; true while there may be more."""
        store, scope = self._store, self._store.scope
        last = store.notifications.last(scope, within=within)
        considered = store.notification_deliveries.begin(scope, name, last, within=within)
        if not (found := store.notifications.page(scope, considered, AT_ONCE, within=within)):
            return False
        taken = [
            self._delivery(name, one)
            for one in found
            if one.notification.kind != SUMMARY and takes(channel, one.notification)
        ]
        store.notification_deliveries.consider(scope, name, found[-1].sequence, taken, within=within)
        return len(found) == AT_ONCE

    def _delivery(self, name: str, numbered: NumberedNotification) -> NotificationDelivery:
        one, now = numbered.notification, self._store.database.clock.now()
        return NotificationDelivery(name, numbered.sequence, one.id, one.state, "waiting", now)

    def _settle(self, name: str, within: Connection) -> None:
        """End deliveries whose run has ended without one, which are dead letters, and those whose run is gone."""
        store, scope = self._store, self._store.scope
        ordered = store.notification_deliveries.list(scope, name, status="ordered", within=within)
        runs = store.runs.by_id(scope, [one.run for one in ordered if one.run is not None])
        for one in ordered:
            run = runs.get(one.run or "")
            if run is None or run.status in ENDED:
                store.notification_deliveries.end(scope, name, one.sequence, "failed", within=within)

    def _order(self, name: str, channel: Channel, within: Connection) -> int:
        store, scope = self._store, self._store.scope
        deliveries = store.notification_deliveries
        room = MOST_OPEN - len(deliveries.list(scope, name, status="ordered", within=within))
        waiting = deliveries.list(scope, name, status="waiting", limit=AT_ONCE, within=within)
        if room <= 0 or not waiting:
            return 0
        beginnings = deliveries.beginnings(scope, name, [one.notification for one in waiting], within=within)
        for one in overtaken(waiting, beginnings):
            deliveries.end(scope, name, one.sequence, "collapsed", within=within)
        due = due_of(waiting, beginnings)
        known = {one.sequence: one.notification for one in store.notifications.numbered(
            scope, [one.sequence for one in due], within=within)}  # fmt: skip
        due = [one for one in due if one.sequence in known]
        chosen, others = choice(due, known, room)
        if others:
            summed = self._summarize(name, channel, [known[one.sequence] for one in others], within)
            for one in others:
                deliveries.end(scope, name, one.sequence, "summarized", summed.notification, within=within)
            chosen = [*chosen, summed]
        for one in chosen:
            built = msgspec.to_builtins(DeliveryArguments(name, one.sequence, one.notification, one.state))
            run = store.runs.submit(scope, NOTIFY, built, run_key(one), within=within)
            deliveries.order(scope, name, one.sequence, run, within=within)
        return len(chosen)

    def _summarize(
        self, name: str, channel: Channel, others: Sequence[Notification], within: Connection
    ) -> NotificationDelivery:
        """Hand over the notification that stands for others in this channel, and add its delivery."""
        store, scope = self._store, self._store.scope
        number = store.notifications.last(scope, within=within) + 1
        said = summary(f"{SUMMARY}:{name}:{number}", others, public=is_public(channel))
        assert store.notifications.append(scope, said, within=within) == number
        delivery = self._delivery(name, NumberedNotification(number, said))
        store.notification_deliveries.add(scope, [delivery], within=within)
        return delivery


def run_key(delivery: NotificationDelivery) -> str:
    """The key of the run that sends a delivery."""
    return f"notify:{delivery.channel}:{delivery.notification}:{delivery.state}"


def overtaken(
    waiting: Sequence[NotificationDelivery], beginnings: Mapping[str, NotificationDelivery]
) -> list[NotificationDelivery]:
    """The beginnings that wait while it waits to be said that they are over."""
    over = {one.notification for one in waiting if one.state == "resolved"}
    return [one for id, one in beginnings.items() if id in over and one.status == "waiting"]


def due_of(
    waiting: Sequence[NotificationDelivery], beginnings: Mapping[str, NotificationDelivery]
) -> list[NotificationDelivery]:
    """The deliveries that may be ordered now: not what is over while its beginning is being sent, nor a beginning that
    is over already."""
    collapsed = {one.sequence for one in overtaken(waiting, beginnings)}
    sending = {id for id, one in beginnings.items() if one.status in OPEN and one.sequence not in collapsed}
    return [
        one
        for one in waiting
        if one.sequence not in collapsed and not (one.state == "resolved" and one.notification in sending)
    ]


def choice(
    due: Sequence[NotificationDelivery], known: Mapping[int, Notification], room: int
) -> tuple[list[NotificationDelivery], list[NotificationDelivery]]:
    """The deliveries that are ordered now, and those that a summary stands for: none, unless more than
    :data:`MOST_OPEN` wait."""
    if len(due) <= MOST_OPEN:
        return list(due[:room]), []
    gravest = sorted(due, key=lambda one: (-SEVERITIES.index(known[one.sequence].severity), one.sequence))
    by_itself = {one.sequence for one in gravest[: MOST_OPEN - 1]}
    each = [one for one in due if one.sequence in by_itself]
    return each[: room - 1], [one for one in due if one.sequence not in by_itself]


def summary(id: str, others: Sequence[Notification], *, public: bool) -> Notification:
    """One notification for many: how many of each kind and state, and how grave the gravest is."""
    kinds = Counter((one.kind, one.state) for one in others)
    gravest = max((one.severity for one in others), key=SEVERITIES.index)
    title = f"{len(others)} more notifications"
    lines = [f"{count} of {kind}, {state}" for (kind, state), count in sorted(kinds.items())]
    applications = sorted({one.application for one in others if one.application is not None})
    if applications:
        lines.append(f"About: {', '.join(applications)}")
    begun, ended = min(one.started_at for one in others), max(one.ended_at or one.started_at for one in others)
    return Notification(
        id, SUMMARY, gravest, "firing", title, begun,
        text="\n".join([*lines, "`antiphon notifications log` lists each."]), ended_at=ended,
        public=f"{title}." if public else None,
    )  # fmt: skip
