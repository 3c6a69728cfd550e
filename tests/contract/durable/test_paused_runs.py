"""Pauses of single runs: nobody claims a paused one, its worker is asked to yield, and it goes on where it was."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.unit.catalog.examples import DEV, NOON, OTHER

from antiphon.catalog.database import Database
from antiphon.catalog.run_holds import RunHold, RunHolds
from antiphon.core.clock import ManualClock
from antiphon.core.errors import NotFoundError
from antiphon.durable.claims import ServedRuns
from antiphon.durable.runs import Runs

LEASE = timedelta(seconds=10)
ALL = ServedRuns("dev")


def test_a_paused_run_is_not_claimed_until_it_is_resumed_and_others_are(database: Database) -> None:
    runs = Runs(database)
    first, second = runs.submit(DEV, "backfill", {}), runs.submit(DEV, "backfill", {})
    assert runs.pause(DEV, first, "ada").paused_by == "ada"
    assert runs.pause(DEV, first, "bob").paused_by == "ada"
    found = runs.claim("w", ALL, LEASE)
    assert found is not None
    assert found.id == second
    assert runs.claim("w", ALL, LEASE) is None
    assert not runs.queued(ALL)
    runs.end(found, {})
    assert runs.next_due(ALL) is None  # The executor does not look again and again.
    assert runs.resume(DEV, first).paused_by is None
    found = runs.claim("w", ALL, LEASE)
    assert found is not None
    assert found.id == first


def test_the_worker_of_a_run_that_is_paused_is_asked_to_yield_and_no_attempt_is_counted(database: Database) -> None:
    runs = Runs(database)
    run = runs.submit(DEV, "backfill", {})
    found = runs.claim("w", ALL, LEASE)
    assert found is not None
    assert runs.heartbeat(found, LEASE) is None
    runs.pause(DEV, run, "ada")
    assert runs.heartbeat(found, LEASE) == "yield"
    runs.give_back(found)
    assert runs.get(DEV, run).attempts == 0
    assert runs.claim("w", ALL, LEASE) is None


def test_a_paused_run_whose_worker_died_is_neither_claimed_nor_looked_for(
    database: Database, clock: ManualClock
) -> None:
    runs = Runs(database)
    run = runs.submit(DEV, "backfill", {})
    runs.claim("w", ALL, LEASE)
    runs.pause(DEV, run, "ada")
    clock.advance(2 * LEASE)
    assert runs.claim("w", ALL, LEASE) is None
    assert runs.next_due(ALL) is None
    # A cancel ends the pause, or nobody would ever end the run.
    runs.cancel(DEV, run)
    assert runs.claim("w", ALL, LEASE) is None
    assert runs.get(DEV, run).status == "cancelled"


def test_a_pause_outlasts_a_freeze_and_an_exemption(database: Database, clock: ManualClock) -> None:
    runs, hour = Runs(database), timedelta(hours=1)
    run = runs.submit(DEV, "backfill", {})
    RunHolds(database).add(DEV, RunHold("f1", "freeze", "f1", ("backfill",), NOON, NOON + hour, "the launch", "ada"))
    runs.pause(DEV, run, "ada")
    runs.exempt(DEV, run, "ada")
    assert runs.claim("w", ALL, LEASE) is None
    clock.advance(2 * hour)
    assert runs.claim("w", ALL, LEASE) is None
    assert runs.next_due(ALL) is None
    runs.resume(DEV, run)
    assert runs.claim("w", ALL, LEASE) is not None


def test_a_run_that_ended_is_not_paused_and_one_of_another_scope_is_not_found(database: Database) -> None:
    runs = Runs(database)
    run = runs.submit(DEV, "backfill", {})
    runs.cancel(DEV, run)
    assert runs.pause(DEV, run, "ada").paused_by is None
    with pytest.raises(NotFoundError):
        runs.pause(OTHER, run, "ada")
