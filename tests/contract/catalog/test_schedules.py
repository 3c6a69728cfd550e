"""Schedules as they stand: each run is counted once, whoever orders it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.unit.catalog.examples import DEV, NOON, OTHER

from antiphon.catalog.database import Database
from antiphon.catalog.schedules import Schedules
from antiphon.core.clock import ManualClock
from antiphon.core.errors import NotFoundError


@pytest.fixture
def schedules(database: Database) -> Schedules:
    return Schedules(database)


def test_a_schedule_counts_from_when_it_was_first_seen(schedules: Schedules, clock: ManualClock) -> None:
    first = schedules.enroll(DEV, ["retrain-desk"])["retrain-desk"]
    assert (first.since, first.full_since, first.sequence, first.key) == (NOON, NOON, 0, "schedule:retrain-desk:1")
    clock.advance(timedelta(hours=1))
    again = schedules.enroll(DEV, ["retrain-desk", "nightly"])
    assert (again["retrain-desk"], again["nightly"].since) == (first, NOON + timedelta(hours=1))
    assert schedules.list(OTHER) == {}


def test_a_run_is_counted_once(schedules: Schedules, database: Database, clock: ManualClock) -> None:
    record = schedules.enroll(DEV, ["nightly"])["nightly"]
    at = clock.advance(timedelta(hours=1)) or clock.now()
    with database.transaction() as connection:
        assert schedules.advance(DEV, record, "run_1", at, full=False, within=connection)
        assert not schedules.advance(DEV, record, "run_2", at, full=True, within=connection)
    counted = schedules.get(DEV, "nightly")
    assert (counted.sequence, counted.run, counted.since, counted.full_since) == (1, "run_1", at, NOON)
    with database.transaction() as connection:
        assert schedules.advance(DEV, counted, "run_2", at, full=True, within=connection)
    assert schedules.get(DEV, "nightly").full_since == at


def test_a_refusal_is_kept_until_the_next_run(schedules: Schedules, database: Database, clock: ManualClock) -> None:
    record = schedules.enroll(DEV, ["nightly"])["nightly"]
    schedules.refuse(DEV, record, "no model", NOON)
    refused = schedules.get(DEV, "nightly")
    assert (refused.problem, refused.tried_at, refused.sequence) == ("no model", NOON, 0)
    with database.transaction() as connection:
        schedules.advance(DEV, refused, "run_1", clock.now(), full=False, within=connection)
    schedules.refuse(DEV, record, "late", NOON)  # By a process that had not seen the run counted.
    assert schedules.get(DEV, "nightly").problem is None


def test_a_pause_is_ordered_and_ended(schedules: Schedules, database: Database) -> None:
    schedules.enroll(DEV, ["nightly"])
    until = NOON + timedelta(hours=2)
    with database.transaction() as connection:
        paused = schedules.pause(DEV, "nightly", "ada", "the launch", until, within=connection)
        assert (paused.paused_by, paused.pause_reason, paused.paused_until) == ("ada", "the launch", until)
        assert schedules.resume(DEV, "nightly", within=connection).paused_until is None
        with pytest.raises(NotFoundError, match="no schedule 'hourly'"):
            schedules.pause(DEV, "hourly", "ada", "the launch", until, within=connection)


def test_what_is_due_is_noted_once_and_forgotten_with_its_run(
    schedules: Schedules, database: Database, clock: ManualClock
) -> None:
    record = schedules.enroll(DEV, ["nightly"])["nightly"]
    schedules.mark_due(DEV, record, "500 new outcomes", NOON)
    schedules.mark_due(DEV, record, "501 new outcomes", NOON + timedelta(hours=1))
    due = schedules.get(DEV, "nightly")
    assert (due.due_at, due.due_cause) == (NOON, "500 new outcomes")
    with database.transaction() as connection:
        schedules.advance(DEV, due, "run_1", clock.now(), full=False, within=connection)
    assert schedules.get(DEV, "nightly").due_at is None
