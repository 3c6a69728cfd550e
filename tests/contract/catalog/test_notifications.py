"""Notifications and their deliveries, on both catalogs."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from tests.unit.catalog.examples import DEV, NOON, OTHER

from antiphon.catalog.database import Database
from antiphon.catalog.notification_deliveries import NotificationDeliveries, NotificationDelivery
from antiphon.catalog.notifications import MOST_TEXT, MOST_TITLE, Notification, Notifications
from antiphon.core.clock import ManualClock
from antiphon.core.errors import InvalidInputError


def notification(id: str = "one", **fields: object) -> Notification:
    made = Notification(id, "objective.burn", "warning", "firing", f"{id} burns", NOON, "much", "desk")
    return msgspec.structs.replace(made, **fields)


def test_an_id_and_a_state_are_kept_once_and_numbered_without_a_gap(database: Database) -> None:
    notifications = Notifications(database)
    assert notifications.append(DEV, notification()) == 1
    assert notifications.append(DEV, notification(title="said otherwise")) is None
    assert notifications.append(DEV, notification("two")) == 2
    assert notifications.append(OTHER, notification()) == 1, "another tenant counts by itself"
    assert [one.notification.title for one in notifications.page(DEV, 0, 10)] == ["one burns", "two burns"]
    assert [one.sequence for one in notifications.page(DEV, 1, 10)] == [2]


def test_it_is_handed_over_with_its_transaction_or_not_at_all(database: Database) -> None:
    notifications = Notifications(database)

    def fail_after_it() -> None:
        with database.transaction() as connection:
            notifications.append(DEV, notification(), within=connection)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_after_it()
    assert notifications.last(DEV) == 0
    with database.transaction() as connection:
        notifications.append(DEV, notification(), within=connection)
        notifications.append(DEV, notification("two"), within=connection)
    assert notifications.last(DEV) == 2


def test_what_is_over_is_said_in_the_words_of_its_beginning(database: Database) -> None:
    notifications = Notifications(database)
    notifications.append(DEV, notification(labels={"window": "1h"}, link="https://antiphon.example/x", public="slow"))
    assert [one.id for one in notifications.active(DEV)] == ["one"]
    assert notifications.resolve(DEV, "one", NOON + timedelta(hours=1), "fast again") == 2
    assert notifications.resolve(DEV, "one", NOON + timedelta(hours=2)) is None
    assert notifications.resolve(DEV, "never", NOON) is None
    assert notifications.active(DEV) == []
    over = notifications.get(DEV, "one", "resolved")
    assert over is not None
    assert (over.title, over.text, over.labels, over.ended_at) == (
        "one burns", "fast again", {"window": "1h"}, NOON + timedelta(hours=1)
    )  # fmt: skip


def test_what_has_no_duration_is_not_active(database: Database) -> None:
    notifications = Notifications(database)
    notifications.append(DEV, notification(ended_at=NOON))
    assert notifications.active(DEV) == []
    assert notifications.resolve(DEV, "one", NOON) is None


def test_titles_are_one_line_and_long_texts_are_cut(database: Database) -> None:
    notifications = Notifications(database)
    notifications.append(DEV, notification(title="a\r\nBcc: b\x00\u2028c" + "x" * 500, text="y" * 50_000))
    kept = notifications.get(DEV, "one", "firing")
    assert kept is not None
    assert kept.title.startswith("a Bcc: b c")
    assert (len(kept.title), len(kept.text)) == (MOST_TITLE, MOST_TEXT)


@pytest.mark.parametrize(
    "wrong",
    [{"id": ""}, {"id": "a\nb"}, {"id": "ü"}, {"kind": "Burn!"}, {"severity": "loud"}, {"state": "open"}],
    ids=str,
)
def test_what_is_none_is_refused(database: Database, wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError, match=f"no usable {next(iter(wrong))}"):
        Notifications(database).append(DEV, notification(**wrong))


def test_old_ones_go_but_for_what_lasts_and_the_newest(database: Database, clock: ManualClock) -> None:
    notifications, deliveries = Notifications(database), NotificationDeliveries(database)
    notifications.append(DEV, notification("lasts"))
    notifications.append(DEV, notification("over"))
    notifications.append(DEV, notification("moment", ended_at=NOON))
    notifications.resolve(DEV, "over", NOON)
    deliveries.add(DEV, [delivery(number) for number in (1, 2, 3, 4)])
    clock.advance(timedelta(days=20))
    assert notifications.prune(DEV, clock.now() - timedelta(days=14)) == 2
    assert deliveries.prune(DEV) == 2
    assert [one.sequence for one in notifications.page(DEV, 0, 10)] == [1, 4]
    assert notifications.append(DEV, notification("next")) == 5, "numbers go on"
    assert [one.id for one in notifications.active(DEV)] == ["lasts", "next"]


def delivery(sequence: int, channel: str = "team", **fields: object) -> NotificationDelivery:
    made = NotificationDelivery(channel, sequence, f"n{sequence}", "firing", "waiting", NOON)
    return msgspec.structs.replace(made, **fields)


def test_a_channel_begins_once_and_begins_anew_after_its_end(database: Database) -> None:
    deliveries = NotificationDeliveries(database)
    assert (deliveries.begin(DEV, "team", 7), deliveries.begin(DEV, "team", 9)) == (7, 7)
    with database.transaction() as connection:
        deliveries.consider(DEV, "team", 8, [delivery(8)], within=connection)
    assert deliveries.begin(DEV, "team", 0) == 8
    deliveries.end_channel(DEV, "team")
    assert [one.status for one in deliveries.list(DEV, "team")] == ["dropped"]
    assert deliveries.channels(DEV) == {}
    assert deliveries.begin(DEV, "team", 9) == 9


def test_a_delivery_that_failed_may_be_sent_and_what_was_sent_stays(database: Database, clock: ManualClock) -> None:
    deliveries = NotificationDeliveries(database)
    deliveries.add(DEV, [delivery(1), delivery(2), delivery(1, "other")])
    deliveries.order(DEV, "team", 1, "run_1")
    deliveries.end(DEV, "team", 1, "failed")
    deliveries.end(DEV, "team", 1, "sent", "204")
    clock.advance(timedelta(hours=1))
    deliveries.end(DEV, "team", 1, "failed")
    found = deliveries.get(DEV, "team", 1)
    assert found is not None
    assert (found.status, found.answer, found.run, found.ended_at) == ("sent", "204", "run_1", NOON)
    assert deliveries.counts(DEV) == {("team", "sent"): 1, ("team", "waiting"): 1, ("other", "waiting"): 1}
    assert set(deliveries.beginnings(DEV, "team", ["n1", "n9"])) == {"n1"}
    assert [one.sequence for one in deliveries.list(DEV, "team", newest=True)] == [2, 1]
    assert deliveries.list(OTHER) == []


def test_the_latest_are_found_by_kind_and_by_what_became_of_them(database: Database) -> None:
    notifications, deliveries = Notifications(database), NotificationDeliveries(database)
    for id, kind in (("a", "objective.burn"), ("b", "objective"), ("c", "objectives"), ("d", "drift")):
        notifications.append(DEV, notification(id, kind=kind))
    notifications.append(OTHER, notification())
    deliveries.add(DEV, [NotificationDelivery("team", 1, "a", "firing", "sent", NOON)])
    deliveries.add(DEV, [NotificationDelivery("chat", 1, "a", "firing", "failed", NOON)])
    deliveries.add(DEV, [NotificationDelivery("team", 4, "d", "firing", "waiting", NOON)])
    deliveries.add(OTHER, [NotificationDelivery("team", 2, "b", "firing", "sent", NOON)])
    assert notifications.latest(DEV, 10) == [4, 3, 2, 1]
    assert notifications.latest(DEV, 2, before=4) == [3, 2]
    assert notifications.latest(DEV, 10, kind="objective") == [2, 1]
    assert notifications.latest(DEV, 10, kind="%") == []
    assert notifications.latest(DEV, 10, statuses=("sent",)) == [1]
    assert notifications.latest(DEV, 10, statuses=("failed", "waiting")) == [4, 1]
    assert notifications.latest(DEV, 10, statuses=()) == [3, 2]
    assert notifications.latest(DEV, 10, kind="objective", statuses=(), before=2) == []
    assert notifications.kinds(DEV) == ["drift", "objective", "objective.burn", "objectives"]
    assert [(one.channel, one.sequence) for one in deliveries.of_notifications(DEV, [1, 2, 4])] == [
        ("chat", 1), ("team", 1), ("team", 4),
    ]  # fmt: skip
