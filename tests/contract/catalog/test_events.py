from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from tests.unit.catalog.examples import DEV, NOON, OTHER

from antiphon.catalog.database import Database
from antiphon.catalog.events import Event, EventLog, StreamEnd
from antiphon.core.errors import InvalidInput


def event(number: int, **payload: object) -> Event:
    return Event(f"e{number}", NOON + timedelta(minutes=number), NOON, {"n": number, **payload})


def test_events_are_read_back_in_order(database: Database) -> None:
    log = EventLog(database)
    assert log.end(DEV, "departures") == 0
    assert log.append(DEV, "departures", [event(3), event(1)]) == 2
    assert log.append(DEV, "departures", [event(2)]) == 3
    read = log.read(DEV, "departures", 0, 10)
    assert [(stored.offset, stored.event) for stored in read] == [(1, event(3)), (2, event(1)), (3, event(2))]
    assert [stored.offset for stored in log.read(DEV, "departures", 1, 1)] == [2]
    assert log.read(DEV, "departures", 3, 10) == []
    assert log.streams(DEV) == [StreamEnd("departures", 3)]


def test_an_event_id_counts_once_and_leaves_no_hole(database: Database) -> None:
    log = EventLog(database)
    log.append(DEV, "departures", [event(1), event(1, changed=True), event(2)])
    assert log.append(DEV, "departures", [event(2), event(3), event(1)]) == 3
    assert log.append(DEV, "departures", [event(1)]) == 3
    read = log.read(DEV, "departures", 0, 10)
    assert [stored.event.event_id for stored in read] == ["e1", "e2", "e3"]
    assert [stored.offset for stored in read] == [1, 2, 3]
    assert "changed" not in read[0].event.payload


def test_streams_and_scopes_do_not_meet(database: Database) -> None:
    log = EventLog(database)
    log.append(DEV, "departures", [event(1)])
    assert log.append(DEV, "weather", [event(1)]) == 1
    assert log.append(OTHER, "departures", [event(1), event(2)]) == 2
    assert log.end(DEV, "departures") == 1


def test_more_events_than_one_statement_takes(database: Database) -> None:
    log = EventLog(database)
    log.append(DEV, "many", [event(n) for n in range(700)])
    assert log.append(DEV, "many", [event(n) for n in range(600, 1400)]) == 1400
    assert [s.offset for s in log.read(DEV, "many", 0, 2000)] == list(range(1, 1401))


@pytest.mark.parametrize(
    "wrong",
    [
        Event("", NOON, NOON, {}),
        Event("e", datetime(2013, 1, 1), NOON, {}),  # noqa: DTZ001
        Event("e", NOON, datetime(2013, 1, 1), {}),  # noqa: DTZ001
    ],
)
def test_a_malformed_event_stores_nothing_of_its_batch(database: Database, wrong: Event) -> None:
    log = EventLog(database)
    with pytest.raises(InvalidInput):
        log.append(DEV, "departures", [event(1), wrong])
    with pytest.raises(InvalidInput):
        log.append(DEV, "", [event(1)])
    assert log.end(DEV, "departures") == 0
