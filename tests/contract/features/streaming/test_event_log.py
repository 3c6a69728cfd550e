"""The event log: what every one must do, in the catalog and on a NATS server, in plaintext and encrypted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

import pytest
from tests.servers import NatsProcess
from tests.unit.catalog.examples import DEV, NOON, OTHER
from tests.unit.governance.encryption.test_sealing import Keys

from antiphon.catalog.database import Database
from antiphon.catalog.features.events import Event, EventLog, StreamHomes
from antiphon.core.codec import Codec, PlainCodec
from antiphon.core.errors import CorruptionError, InvalidInputError
from antiphon.features.streaming.nats_log import NatsEventLog
from antiphon.features.streaming.nats_server import NatsServer
from antiphon.governance.encryption.sealing import AesGcmCodec

Log = EventLog | NatsEventLog


def event(number: int, **payload: object) -> Event:
    return Event(f"e{number}", NOON + timedelta(minutes=number), NOON, {"n": number, **payload})


@pytest.fixture(scope="module")
def process() -> Iterator[Callable[[], NatsProcess]]:
    started: list[NatsProcess] = []

    def of() -> NatsProcess:
        if not started:
            started.append(NatsProcess())
            started[0].start()
        return started[0]

    yield of
    for server in started:
        server.remove()


@pytest.fixture(params=["catalog plain", "catalog sealed", "nats plain", "nats sealed"])
def opening(
    request: pytest.FixtureRequest, database: Database, process: Callable[[], NatsProcess]
) -> Iterator[Callable[[], Log]]:
    """What opens the log once more, as another process would."""
    where, how = str(request.param).split()
    codec: Codec = AesGcmCodec(Keys()) if how == "sealed" else PlainCodec()
    database.codec = codec
    opened: list[NatsServer] = []

    def of() -> Log:
        if where == "catalog":
            return EventLog(database)
        opened.append(NatsServer(process().url))
        return NatsEventLog(opened[-1], StreamHomes(database), codec)

    yield of
    for server in opened:
        server.close()
    if where == "nats":
        process().clear()


@pytest.fixture
def log(opening: Callable[[], Log]) -> Log:
    return opening()


def ids(log: Log, after: int = 0, limit: int = 10_000) -> list[tuple[int, str]]:
    return [(each.offset, each.event.event_id) for each in log.read(DEV, "departures", after, limit)]


def test_events_are_read_back_in_order(log: Log) -> None:
    assert log.end(DEV, "departures") == 0
    assert log.read(DEV, "departures", 0, 10) == []
    assert log.append(DEV, "departures", []) == 0
    assert log.append(DEV, "departures", [event(3), event(1)]) == 2
    assert log.append(DEV, "departures", [event(2)]) == 3
    read = log.read(DEV, "departures", 0, 10)
    assert [(stored.offset, stored.event) for stored in read] == [(1, event(3)), (2, event(1)), (3, event(2))]
    assert ids(log, 1, 1) == [(2, "e1")]
    assert ids(log, 2, 0) == []
    assert log.read(DEV, "departures", 3, 10) == []


def test_an_event_id_counts_once_and_leaves_no_hole(opening: Callable[[], Log]) -> None:
    log = opening()
    log.append(DEV, "departures", [event(1), event(1, changed=True), event(2)])
    assert log.append(DEV, "departures", [event(2), event(3), event(1)]) == 3
    assert opening().append(DEV, "departures", [event(1)]) == 3
    read = log.read(DEV, "departures", 0, 10)
    assert [(stored.offset, stored.event.event_id) for stored in read] == [(1, "e1"), (2, "e2"), (3, "e3")]
    assert "changed" not in read[0].event.payload


def test_streams_and_scopes_do_not_meet(log: Log) -> None:
    log.append(DEV, "departures", [event(1)])
    assert log.append(DEV, "weather", [event(1)]) == 1
    assert log.append(OTHER, "departures", [event(1), event(2)]) == 2
    assert log.end(DEV, "departures") == 1
    assert ids(log) == [(1, "e1")]


def test_a_stream_of_a_server_is_erased_with_every_event(opening: Callable[[], Log]) -> None:
    log = opening()
    if not isinstance(log, NatsEventLog):
        return  # Its events are rows of the catalog.
    log.append(DEV, "departures", [event(1)])
    log.append(OTHER, "departures", [event(1)])
    assert log.erase(DEV, "departures")
    assert not log.erase(DEV, "departures"), "once more changes nothing"
    assert log.end(OTHER, "departures") == 1


def test_more_events_than_one_statement_takes(opening: Callable[[], Log]) -> None:
    log = opening()
    log.append(DEV, "departures", [event(n) for n in range(700)])
    assert log.append(DEV, "departures", [event(n) for n in range(600, 1400)]) == 1400
    assert [offset for offset, _ in ids(log)] == list(range(1, 1401))
    found, at = [], 0
    while page := opening().read(DEV, "departures", at, 333):
        found += [each.event.event_id for each in page]
        at = page[-1].offset
    assert found == [f"e{n}" for n in range(1400)]


def test_readers_at_different_places_do_not_disturb_each_other(log: Log) -> None:
    log.append(DEV, "departures", [event(n) for n in range(1, 41)])
    for _ in range(2):
        for after in (0, 20, 10, 20, 39, 0):
            assert ids(log, after, 10) == [(n, f"e{n}") for n in range(after + 1, min(after + 11, 41))]
    log.append(DEV, "departures", [event(41)])
    assert ids(log, 40, 10) == [(41, "e41")]
    assert ids(log, 30, 11) == [(n, f"e{n}") for n in range(31, 42)]


def test_the_same_batch_from_two_appenders_at_once_is_stored_once(
    opening: Callable[[], Log],
) -> None:
    first, second, failed = opening(), opening(), []

    def send(log: Log) -> None:
        try:
            for start in range(0, 200, 50):
                log.append(DEV, "departures", [event(n) for n in range(start, start + 50)])
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=send, args=(each,)) for each in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failed
    assert [offset for offset, _ in ids(first)] == list(range(1, 201))
    assert {identity for _, identity in ids(first)} == {f"e{n}" for n in range(200)}


def test_payloads_come_back_as_they_were(log: Log) -> None:
    odd = Event("ü/é. *>", NOON, NOON + timedelta(microseconds=1), {"a": None, "b": [1.5, "x"], "c": {"d": True}})
    log.append(DEV, "departures", [odd])
    assert log.append(DEV, "departures", [odd]) == 1
    assert [each.event for each in log.read(DEV, "departures", 0, 10)] == [odd]


def test_a_reader_ahead_of_the_log_is_told_that_it_was_set_back(log: Log) -> None:
    log.append(DEV, "departures", [event(1), event(2)])
    with pytest.raises(CorruptionError, match="ends at offset 2 and was read through 3"):
        log.read(DEV, "departures", 3, 10)


@pytest.mark.parametrize(
    "wrong",
    [
        Event("", NOON, NOON, {}),
        Event("e", datetime(2013, 1, 1), NOON, {}),  # noqa: DTZ001
        Event("e", NOON, datetime(2013, 1, 1), {}),  # noqa: DTZ001
    ],
)
def test_a_malformed_event_stores_nothing_of_its_batch(log: Log, wrong: Event) -> None:
    with pytest.raises(InvalidInputError):
        log.append(DEV, "departures", [event(1), wrong])
    with pytest.raises(InvalidInputError):
        log.append(DEV, "", [event(1)])
    assert log.end(DEV, "departures") == 0
