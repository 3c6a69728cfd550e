"""Delivery of notifications: the workflow that sends one to one channel, what lasts said again, tests, and the log.

Invariants:
- A delivery is sent at least once, each time under the same id; a crash between sending and its record sends it again.
- Its end is noted in the transaction of a step of its run.
- Nothing that is logged, stored or shown holds a secret, a receiver's text or the path of its URL.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy.engine import Connection

from antiphon.catalog.notification_deliveries import OPEN, DeliveryStatus, NotificationDelivery
from antiphon.catalog.notifications import Notification
from antiphon.core.errors import AntiphonError, NotFoundError, UnavailableError
from antiphon.core.settings_notifications import AlertmanagerChannel, Channel, Severity
from antiphon.durable.context import RunContext
from antiphon.durable.run import Run
from antiphon.services.notifications import alertmanager
from antiphon.services.notifications.channels import receiver, send, takes
from antiphon.services.notifications.orders import DeliveryArguments
from antiphon.services.notifications.posting import Destination
from antiphon.services.project.store import Store
from antiphon.services.workflows import NOTIFY

LOOK_SECONDS = 5.0
"""Interval of looks for what no ring has said."""

KEPT = timedelta(days=14)
"""Age at which notifications and their deliveries are removed, unless they last."""

TEST = "test"
"""Kind of the notification that a test sends."""

_log = logging.getLogger("antiphon.notifications")


class ChannelStatus(msgspec.Struct, frozen=True):
    """A channel of the settings, for people.

    Attributes:
        waiting: deliveries that have not ended. sent, failed, summarized: of those that are kept.
        last_sent: when it took something last. error: of the latest delivery that waits for another attempt or failed.
    """

    channel: str
    kind: str
    receiver: str
    events: tuple[str, ...]
    severity: Severity
    applications: tuple[str, ...]
    waiting: int
    sent: int
    failed: int
    summarized: int
    last_sent: datetime | None
    error: str | None


class LogEntry(msgspec.Struct, frozen=True):
    """A delivery, for people.

    Attributes:
        at: when it was to be sent; ``ended_at``: when that ended.
        attempts, error: of its run so far; ``next_attempt``: when it is sent again at the earliest.
    """

    at: datetime
    channel: str
    notification: str
    state: str
    kind: str | None
    severity: str | None
    title: str | None
    status: DeliveryStatus
    answer: str | None
    ended_at: datetime | None
    run: str | None
    attempts: int
    error: str | None
    next_attempt: datetime | None = None


class NotificationSender:
    """Sends the notifications of one project."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def deliver(self, run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        """The workflow: send one notification to one channel.

        Raises:
            UnavailableError: the receiver did not take it; it is sent again. SetupError: a secret is not set.
            InvalidInputError: the receiver refuses it, or its address may not be called.
        """
        order = msgspec.convert(arguments, DeliveryArguments)
        sent = await run.step("send", self._send, order)

        def note(connection: Connection) -> dict[str, Any]:
            deliveries = self._store.notification_deliveries
            deliveries.end(run.scope, order.channel, order.sequence, sent["status"], sent["answer"], within=connection)
            return dict(sent)

        return await run.transaction("note", note)

    def repeat(self) -> int:
        """Post what lasts again to each Alertmanager; how many alerts it were. One that does not answer gets them at
        the next look."""
        repeated = 0
        for name, channel in self._store.settings.notifications.items():
            if isinstance(channel, AlertmanagerChannel) and (lasting := self._lasting(name, channel)):
                try:
                    alertmanager.send(self._destination(name), channel, lasting)
                    repeated += len(lasting)
                except AntiphonError as error:
                    _log.warning("%s", error)
        return repeated

    def prune(self) -> int:
        """Remove notifications that are old and over, and their deliveries; how many they were."""
        scope, before = self._store.scope, self._store.database.clock.now() - KEPT
        with self._store.database.transaction() as connection:
            removed = self._store.notifications.prune(scope, before, within=connection)
            self._store.notification_deliveries.prune(scope, within=connection)
        return removed

    def test(self, name: str) -> str:
        """Send a test notification at once, past the filters; what the receiver answered.

        Raises:
            NotFoundError: the settings have no such channel.
            UnavailableError, InvalidInputError, SetupError: as a delivery.
        """
        channel = require_channel(self._store, name)
        now = self._store.database.clock.now()
        said = Notification(
            f"{TEST}:{int(now.timestamp())}", TEST, "info", "firing", "A test of this channel", now,
            text="Nothing has happened.", ended_at=now, public="A test of this channel.",
        )  # fmt: skip
        try:
            return send(self._destination(name), channel, said)
        except UnavailableError as error:
            once = "Check its settings and its receiver; a test is sent once."
            raise UnavailableError(error.what, where=error.where, next_step=once) from error

    def statuses(self) -> list[ChannelStatus]:
        """The channels of the settings, each with what became of its notifications."""
        store, scope = self._store, self._store.scope
        counts, latest = store.notification_deliveries.counts(scope), store.runs.list(scope, 200, workflow=NOTIFY)
        return [self._status(name, channel, counts, latest) for name, channel in store.settings.notifications.items()]

    def log(self, channel: str | None, limit: int) -> list[LogEntry]:
        """Deliveries, the latest first."""
        store, scope = self._store, self._store.scope
        found = store.notification_deliveries.list(scope, channel, limit=limit, newest=True)
        numbers = list(dict.fromkeys(one.sequence for one in found))
        known = {one.sequence: one.notification for one in store.notifications.numbered(scope, numbers)}
        runs = store.runs.by_id(scope, [one.run for one in found if one.run is not None])
        return [entry_of(one, known.get(one.sequence), runs.get(one.run or "")) for one in found]

    def _send(self, order: DeliveryArguments) -> dict[str, str | None]:
        """Send it, unless it is not to be sent any more."""
        store, scope = self._store, self._store.scope
        channel = store.settings.notifications.get(order.channel)
        found = store.notifications.numbered(scope, [order.sequence])
        if channel is None or not found:
            return _ended("dropped")
        one = found[0].notification
        if one.lasts and store.notifications.known(scope, one.id, "resolved"):
            return _ended("collapsed")
        return _ended("sent", send(self._destination(order.channel), channel, one))

    def _lasting(self, name: str, channel: Channel) -> list[Notification]:
        store, scope = self._store, self._store.scope
        active = [one for one in store.notifications.active(scope) if takes(channel, one)]
        deliveries = store.notification_deliveries.beginnings(scope, name, [one.id for one in active])
        said = {id for id, one in deliveries.items() if one.status in ("sent", "summarized")}
        return [one for one in active if one.id in said]

    def _destination(self, name: str) -> Destination:
        store = self._store
        return Destination(name, store.scope, store.paths.root, store.database.clock.now())

    def _status(self, name: str, channel: Channel, counts: Any, latest: Sequence[Run]) -> ChannelStatus:
        sent = self._store.notification_deliveries.list(self._store.scope, name, status="sent", limit=1, newest=True)
        of_channel = [run for run in latest if run.arguments["channel"] == name]
        error = next((run.error for run in of_channel if run.error is not None and run.status != "succeeded"), None)

        def count(*statuses: DeliveryStatus) -> int:
            return sum(counts.get((name, status), 0) for status in statuses)

        return ChannelStatus(
            name, channel.kind, receiver(channel), channel.events, channel.severity, channel.applications,
            count("waiting", "ordered"), count("sent"), count("failed"), count("summarized"),
            sent[0].ended_at if sent else None, error,
        )  # fmt: skip


def require_channel(store: Store, name: str) -> Channel:
    """A channel of the settings.

    Raises:
        NotFoundError: there is none of this name.
    """
    channel = store.settings.notifications.get(name)
    if channel is None:
        known = ", ".join(store.settings.notifications) or "none"
        raise NotFoundError(
            f"There is no channel {name!r}.", where="[notifications]", next_step=f"The settings have: {known}."
        )
    return channel


def entry_of(delivery: NotificationDelivery, said: Notification | None, run: Run | None) -> LogEntry:
    """A delivery with what it says and how far its run is."""
    waits = run is not None and run.status == "queued" and run.error is not None and delivery.status in OPEN
    return LogEntry(
        delivery.created_at, delivery.channel, delivery.notification, delivery.state,
        None if said is None else said.kind, None if said is None else said.severity,
        None if said is None else said.title, delivery.status, delivery.answer, delivery.ended_at, delivery.run,
        0 if run is None else run.attempts, None if run is None else run.error,
        run.not_before if run is not None and waits else None,
    )  # fmt: skip


def _ended(status: DeliveryStatus, answer: str | None = None) -> dict[str, str | None]:
    return {"status": status, "answer": answer}
