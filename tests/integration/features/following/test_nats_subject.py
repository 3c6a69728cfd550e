"""Following a JetStream stream of a real NATS server that other programs publish to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.servers import NatsProcess

from antiphon import NatsSubject, Source
from antiphon.catalog.features.events import Event
from antiphon.core.clock import SystemClock
from antiphon.core.errors import InvalidInputError, SetupError, UnavailableError
from antiphon.features.following.nats_subject import NatsSubjectReader
from antiphon.features.ports import FollowedPage

AT = datetime(2026, 11, 30, 10, tzinfo=UTC)


@pytest.fixture(scope="module")
def process() -> Iterator[NatsProcess]:
    with NatsProcess() as found:
        yield found


@pytest.fixture
def server(process: NatsProcess) -> NatsProcess:
    process.clear()
    make(process)
    return process


def make(server: NatsProcess, **options: Any) -> None:
    server.ask("$JS.API.STREAM.CREATE.SHOP", name="SHOP", subjects=["shop.>"], **options)


def publish(server: NatsProcess, subject: str, *messages: object) -> None:
    for message in messages:
        server.put(subject, message if isinstance(message, bytes) else json.dumps(message).encode())


def orders(url: str, event_id: str = "id", **options: Any) -> Source:
    columns = {"amount": "order.total", "shop": "order.shop.name"}
    follow = NatsSubject(**{"url": url, "stream": "SHOP", "subject": "shop.orders.*", "columns": columns, **options})
    return Source.stream("orders", event_time="at", event_id=event_id, follow=follow)


class Reading:
    """What one reader has given so far."""

    def __init__(self, source: Source) -> None:
        self.reader = NatsSubjectReader(source.spec(), SystemClock())
        self.position: str | None = None
        self.page: FollowedPage | None = None
        self.lost = self.refused = 0

    def on(self, limit: int = 3) -> list[Event]:
        found: list[Event] = []
        while True:
            self.page = self.reader.read(self.position, limit)
            self.position, self.lost = self.page.position, self.lost + self.page.lost
            self.refused += self.page.refused
            found += self.page.events
            if not self.page.more:
                return found


Begin = Callable[[Source], Reading]


@pytest.fixture
def begin() -> Iterator[Begin]:
    with ExitStack() as stack:

        def made(source: Source) -> Reading:
            reading = Reading(source)
            stack.callback(reading.reader.close)
            return reading

        yield made


def order(number: int, **fields: Any) -> dict[str, Any]:
    shop = {"name": "tea"}
    return {"id": number, "at": AT.isoformat(), "order": {"total": number * 1.5, "shop": shop}, **fields}


def test_messages_come_in_order_with_columns_from_their_fields(server: NatsProcess, begin: Begin) -> None:
    publish(server, "shop.orders.web", *(order(number) for number in range(1, 6)))
    publish(server, "shop.returns", order(90))
    publish(server, "shop.orders.till", order(6, at=AT.timestamp() * 1000))
    reading = begin(orders(server.url))
    found = reading.on()
    assert [event.event_id for event in found] == ["1", "2", "3", "4", "5", "6"]
    assert {event.event_time for event in found} == {AT}
    payload = found[5].payload
    assert (payload["amount"], payload["shop"], payload["_subject"]) == (9.0, "tea", "shop.orders.till")
    assert reading.page is not None
    assert (reading.page.waiting, reading.page.caught_up_at is not None) == (0, True)
    assert reading.on() == []
    publish(server, "shop.returns", order(91))
    assert reading.on() == []
    publish(server, "shop.orders.web", order(7))
    assert [event.event_id for event in reading.on()] == ["7"]


def test_messages_that_are_no_events_are_counted_and_hold_up_no_other(server: NatsProcess, begin: Begin) -> None:
    publish(server, "shop.orders.web", b"\xff{", b"[1]", order(1, at="soon"), order(2, id=None), b'{"a":' * 900)
    publish(server, "shop.orders.web", order(3, at="9999999999-01-01"), order(4, at=1e300), order(5))
    reading = begin(orders(server.url))
    assert [event.event_id for event in reading.on()] == ["5"]
    assert reading.refused == 7


def test_reading_goes_on_after_the_server_was_killed_and_began_again(server: NatsProcess, begin: Begin) -> None:
    publish(server, "shop.orders.web", order(1))
    reading = begin(orders(server.url))
    reading.on()
    server.kill()
    with pytest.raises(UnavailableError, match="source orders"):
        reading.on()
    server.start()
    publish(server, "shop.orders.web", order(2))
    found: list[Event] = []
    while not found:
        try:
            found = reading.on()
        except UnavailableError:
            continue
    assert [event.event_id for event in found] == ["2"]


def test_a_stream_that_was_made_anew_is_read_from_its_beginning_with_other_ids(
    server: NatsProcess, begin: Begin
) -> None:
    publish(server, "shop.orders.web", order(1), order(2))
    reading = begin(orders(server.url, event_id="_sequence"))
    first = reading.on()
    server.clear()
    make(server)
    publish(server, "shop.orders.web", order(1))
    again = reading.on()
    assert len(again) == 1
    assert again[0].event_id not in {event.event_id for event in first}


def test_messages_that_were_removed_before_they_were_read_are_counted(server: NatsProcess, begin: Begin) -> None:
    server.clear()
    make(server, max_msgs=4)
    reading = begin(orders(server.url))
    publish(server, "shop.orders.web", *(order(number) for number in range(6)))
    assert len(reading.on()) == 4
    assert reading.lost == 0, "nobody followed it when they were removed"
    publish(server, "shop.orders.web", *(order(number) for number in range(6, 13)))
    assert [event.event_id for event in reading.on()] == ["9", "10", "11", "12"]
    assert reading.lost == 3


def test_what_cannot_be_followed_is_said_with_the_next_step(
    server: NatsProcess, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidInputError, match="no JetStream stream 'NONE'"):
        begin(orders(server.url, stream="NONE")).on()
    server.clear()
    make(server, retention="workqueue")
    with pytest.raises(InvalidInputError, match="work queue"):
        begin(orders(server.url)).on()
    with pytest.raises(SetupError, match="ORDERS_TOKEN is not set"):
        begin(orders(server.url, password_variable="ORDERS_TOKEN"))
    with NatsProcess("--auth", "s3cret") as guarded:
        monkeypatch.setenv("ORDERS_TOKEN", "wrong")
        with pytest.raises(SetupError, match="refuses access") as refused:
            begin(orders(guarded.url, password_variable="ORDERS_TOKEN")).on()
        assert "password_variable" in str(refused.value)
        monkeypatch.setenv("ORDERS_TOKEN", "s3cret")
        with pytest.raises(InvalidInputError, match="no JetStream stream"):
            begin(orders(guarded.url, password_variable="ORDERS_TOKEN")).on()
