"""States of objectives, and alerts that begin and end once."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy.exc import IntegrityError
from tests.unit.catalog.examples import DEV, NOON, OTHER

from antiphon.catalog.database import Database
from antiphon.catalog.objective_states import ObjectiveAlert, ObjectiveStates


@pytest.fixture
def states(database: Database) -> ObjectiveStates:
    return ObjectiveStates(database)


def alert(name: str = "one") -> ObjectiveAlert:
    return ObjectiveAlert(f"alert_{name}", "desk-errors", "desk", "critical", "It burns.", NOON, None)


def test_states_of_objectives_that_are_gone_are_forgotten(states: ObjectiveStates, database: Database) -> None:
    with database.transaction() as connection:
        states.put(DEV, {"desk-errors": b"{}", "desk-latency": b"{}"}, NOON, within=connection)
        states.put(OTHER, {"desk-errors": b"[]"}, NOON, within=connection)
        states.put(DEV, {"desk-errors": b'{"at":1}'}, NOON, within=connection)
    assert states.list(DEV) == {"desk-errors": b'{"at":1}'}
    assert states.list(OTHER) == {"desk-errors": b"[]"}
    with database.transaction() as connection:
        states.put(DEV, {}, NOON, within=connection)
    assert states.list(DEV) == {}


def test_one_alert_of_an_objective_and_severity_is_open_at_a_time(states: ObjectiveStates, database: Database) -> None:
    with database.transaction() as connection:
        states.begin(DEV, alert(), within=connection)
    assert [one.id for one in states.open_alerts(DEV)] == ["alert_one"]
    with pytest.raises(IntegrityError), database.transaction() as connection:
        states.begin(DEV, alert("two"), within=connection)
    with database.transaction() as connection:
        states.resolve(DEV, "alert_one", NOON + timedelta(minutes=5), within=connection)
        states.begin(DEV, alert("two"), within=connection)
    assert [one.id for one in states.open_alerts(DEV)] == ["alert_two"]
    assert {one.resolved_at for one in states.alerts(DEV)} == {None, NOON + timedelta(minutes=5)}
    assert states.alerts(OTHER) == ()
