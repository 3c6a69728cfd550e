"""Orders of deliveries on both catalogs: in order where it matters, once each, and bounded in a flood."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from tests.unit.catalog.examples import DEV, NOON

from antiphon.catalog.database import Database
from antiphon.catalog.notification_deliveries import NotificationDeliveries
from antiphon.catalog.notifications import Notification, Notifications
from antiphon.core.clock import ManualClock
from antiphon.core.settings import Settings
from antiphon.core.settings_notifications import WebhookChannel
from antiphon.durable.claims import ServedRuns
from antiphon.durable.runs import Runs
from antiphon.services.notifications.orders import MOST_OPEN, SUMMARY, NotificationOrders
from antiphon.services.project.store import Store
from antiphon.services.workflows import NOTIFY


class Platform:
    """The stores of a project with the channels ``team``, and ``grave`` which takes what is critical."""

    def __init__(self, database: Database) -> None:
        self.store = SimpleNamespace(
            database=database,
            scope=DEV,
            settings=Settings(notifications={"team": channel(), "grave": channel(severity="critical")}),
            notifications=Notifications(database),
            notification_deliveries=NotificationDeliveries(database),
            runs=Runs(database),
        )
        self.orders = NotificationOrders(cast(Store, self.store))
        self.orders.begin()

    def say(self, id: str, **fields: Any) -> None:
        made = Notification(id, "burn", "warning", "firing", id, NOON)
        self.store.notifications.append(DEV, msgspec.structs.replace(made, **fields))

    def look(self, channel: str = "team") -> list[str]:
        """Order what is due; the notifications that have a run in the channel now, with their state."""
        self.orders.order_due()
        ordered = self.store.notification_deliveries.list(DEV, channel, status="ordered")
        return [f"{one.notification} {one.state}" for one in ordered]

    def statuses(self, channel: str = "team") -> dict[str, str]:
        found = self.store.notification_deliveries.list(DEV, channel)
        return {f"{one.notification} {one.state}": one.status for one in found}

    def end(self, id: str, status: str = "sent", state: str = "firing") -> None:
        for one in self.store.notification_deliveries.list(DEV, status="ordered"):
            if (one.notification, one.state) == (id, state):
                self.store.notification_deliveries.end(DEV, one.channel, one.sequence, status)


def channel(**fields: Any) -> WebhookChannel:
    return WebhookChannel(url="https://hooks.example.com", secret_variable="SECRET", **fields)


@pytest.fixture
def platform(database: Database) -> Platform:
    return Platform(database)


def test_each_channel_gets_what_it_takes_once(platform: Platform, database: Database) -> None:
    platform.say("a")
    platform.say("b", severity="critical")
    assert platform.look() == ["a firing", "b firing"]
    assert platform.look("grave") == ["b firing"]
    assert Platform(database).look() == ["a firing", "b firing"], "another worker orders nothing twice"
    assert len(platform.store.runs.list(DEV, workflow=NOTIFY)) == 3


def test_a_new_channel_gets_what_is_said_from_then_on(platform: Platform) -> None:
    platform.say("before")
    platform.store.settings = Settings(notifications={"team": channel(), "late": channel()})
    assert platform.look("late") == []
    platform.say("after")
    assert platform.look("late") == ["after firing"]
    platform.store.settings = Settings(notifications={"team": channel()})
    platform.look()
    assert platform.statuses("late") == {"after firing": "dropped"}
    assert set(platform.store.notification_deliveries.channels(DEV)) == {"team"}


def test_what_is_over_waits_for_its_beginning(platform: Platform) -> None:
    platform.say("a")
    assert platform.look() == ["a firing"]
    platform.store.notifications.resolve(DEV, "a", NOON)
    assert platform.look() == ["a firing"], "its beginning is being sent"
    platform.end("a")
    assert platform.look() == ["a resolved"]


@pytest.mark.parametrize("how", ["failed", "collapsed"])
def test_what_is_over_is_said_where_its_beginning_did_not_arrive(platform: Platform, how: str) -> None:
    platform.say("a")
    platform.look()
    platform.store.notifications.resolve(DEV, "a", NOON)
    platform.end("a", how)
    assert platform.look() == ["a resolved"]


def test_a_beginning_that_was_overtaken_before_its_order_is_collapsed(platform: Platform) -> None:
    platform.say("a")
    platform.store.notifications.resolve(DEV, "a", NOON)
    assert platform.look() == ["a resolved"]
    assert platform.statuses() == {"a firing": "collapsed", "a resolved": "ordered"}


def test_a_dead_letter_ends_its_delivery(platform: Platform, clock: ManualClock) -> None:
    platform.say("a")
    platform.look()
    claimed = platform.store.runs.claim("worker", ServedRuns("dev", (NOTIFY,)), timedelta(minutes=1))
    assert claimed is not None
    platform.store.runs.fail(claimed, "it answered 400")
    assert platform.look() == []
    assert platform.statuses() == {"a firing": "failed"}


def test_a_flood_is_a_bounded_number_of_runs_and_one_summary(platform: Platform) -> None:
    for number in range(500):
        platform.say(f"n{number}", severity="critical" if number in (250, 400) else "warning")
    ordered = platform.look()
    assert len(ordered) == MOST_OPEN
    assert {"n250 firing", "n400 firing", "n0 firing"} <= set(ordered), "the gravest, then the oldest"
    statuses = list(platform.statuses().values())
    assert (statuses.count("summarized"), statuses.count("waiting")) == (500 - MOST_OPEN + 1, 0)
    (summed,) = [one for one in ordered if one.startswith(SUMMARY)]
    said = platform.store.notifications.get(DEV, summed.split()[0], "firing")
    assert said is not None
    assert (said.title, said.severity) == ("481 more notifications", "warning")
    assert "481 of burn, firing" in said.text
    assert len(platform.look()) == MOST_OPEN
    assert len(platform.look("grave")) == 2, "a summary is of its channel alone"


def test_a_flood_while_the_receiver_is_away_waits_and_is_summed_once_there_is_room(platform: Platform) -> None:
    for number in range(MOST_OPEN):
        platform.say(f"first{number}")
    assert len(platform.look()) == MOST_OPEN
    for burst in range(3):
        for number in range(100):
            platform.say(f"burst{burst}-{number}")
        assert len(platform.look()) == MOST_OPEN
    assert list(platform.statuses().values()).count("waiting") == 300
    platform.end("first0")
    ordered = platform.look()
    assert len(ordered) == MOST_OPEN
    assert [one for one in ordered if one.startswith(SUMMARY)], "the one place goes to the summary"
    statuses = list(platform.statuses().values())
    assert (statuses.count("summarized"), statuses.count("waiting")) == (300 - MOST_OPEN + 1, MOST_OPEN - 1)


def test_a_few_that_wait_are_said_each_by_itself(platform: Platform) -> None:
    for number in range(MOST_OPEN + 5):
        platform.say(f"n{number}")
        platform.look()
    assert list(platform.statuses().values()).count("waiting") == 5
    for number in range(5):
        platform.end(f"n{number}")
    assert len(platform.look()) == MOST_OPEN
    assert "summarized" not in platform.statuses().values()
