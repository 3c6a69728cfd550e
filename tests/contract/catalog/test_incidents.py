"""Incidents are written whole and again, found by state, and forgotten long after their end."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from tests.unit.catalog.examples import DEV, NOON, OTHER

from antiphon.catalog.database import Database
from antiphon.catalog.incidents import KEPT_FOR, MOST_ENTRIES, Incident, Incidents, TimelineEntry
from antiphon.core.errors import NotFoundError


@pytest.fixture
def incidents(database: Database) -> Incidents:
    return Incidents(database)


def incident(name: str = "inc_1", **fields: object) -> Incident:
    made = Incident(name, "open", "warning", "infrastructure", "engine/engine: It ended.", NOON, NOON)
    return msgspec.structs.replace(made, **fields)


def test_an_incident_is_written_and_changed(incidents: Incidents, database: Database) -> None:
    with database.transaction() as connection:
        incidents.put(DEV, incident(applications=("desk",)), within=connection)
        incidents.put(OTHER, incident("inc_2"), within=connection)
    assert [one.id for one in incidents.active(DEV)] == ["inc_1"]
    assert incidents.applications(DEV) == {"desk"}
    ended = incident(state="resolved", resolved_at=NOON, updated_at=NOON + timedelta(minutes=5))
    with database.transaction() as connection:
        incidents.put(DEV, ended, within=connection)
    assert incidents.active(DEV) == []
    assert incidents.get(DEV, "inc_1") == ended
    assert incidents.list(DEV, state="resolved", since=NOON + timedelta(minutes=5)) == [ended]
    assert incidents.list(DEV, state="resolved", since=NOON + timedelta(minutes=6)) == []
    with pytest.raises(NotFoundError):
        incidents.get(DEV, "inc_2")


def test_a_timeline_is_cut_and_says_so(incidents: Incidents, database: Database) -> None:
    entries = tuple(TimelineEntry(NOON, "note", str(number)) for number in range(MOST_ENTRIES + 5))
    with database.transaction() as connection:
        incidents.put(DEV, incident(timeline=entries), within=connection)
    kept = incidents.get(DEV, "inc_1").timeline
    assert (len(kept), kept[-1].kind) == (MOST_ENTRIES, "cut")


def test_what_was_resolved_long_ago_is_forgotten(incidents: Incidents, database: Database) -> None:
    old = database.clock.now() - KEPT_FOR - timedelta(days=1)
    with database.transaction() as connection:
        incidents.put(DEV, incident(updated_at=old, state="resolved"), within=connection)
        incidents.put(DEV, incident("inc_2", updated_at=old), within=connection)
    assert incidents.prune(DEV) == 1
    assert [one.id for one in incidents.list(DEV)] == ["inc_2"]
