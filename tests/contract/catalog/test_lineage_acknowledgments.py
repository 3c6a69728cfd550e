from __future__ import annotations

from datetime import timedelta

import pytest
from tests.unit.catalog.examples import DEV, OTHER

from antiphon.catalog.database import Database
from antiphon.catalog.lineage_acknowledgments import DueRun, LineageAcknowledgments
from antiphon.core.clock import ManualClock
from antiphon.durable.claims import ServedRuns
from antiphon.durable.run import Run
from antiphon.durable.runs import Runs

URL = "http://127.0.0.1:5000/api/v1/lineage"
MINUTE = timedelta(minutes=1)


def claimed(database: Database) -> Run:
    """A run that works."""
    runs = Runs(database)
    runs.submit(DEV, "refresh", {})
    run = runs.claim("worker", ServedRuns("dev"), timedelta(hours=1))
    assert run is not None
    return run


def ended(database: Database, clock: ManualClock) -> str:
    """A run that has ended, a minute after everything before."""
    run = claimed(database)
    clock.advance(MINUTE)
    Runs(database).end(run, {})
    return run.id


def test_runs_are_due_from_the_moment_on_that_a_receiver_is_named(database: Database, clock: ManualClock) -> None:
    acknowledgments = LineageAcknowledgments(database)
    ended(database, clock)
    assert acknowledgments.due(DEV, 10) == []
    clock.advance(MINUTE)
    begun = acknowledgments.begin(DEV, URL)
    assert acknowledgments.begin(DEV, URL) == begun
    assert acknowledgments.due(DEV, 10) == [], "what had ended before is sent on request alone"
    run = ended(database, clock)
    assert acknowledgments.due(DEV, 10) == [DueRun(run, 0)]
    assert (acknowledgments.due(OTHER, 10), acknowledgments.progress(OTHER)) == ([], None)
    assert acknowledgments.begin(DEV, f"{URL}/other") != begun
    assert acknowledgments.due(DEV, 10) == [DueRun(run, 0)], (
        "it ended in the very moment in which the other one was named"
    )


def test_a_run_is_due_twice_once_it_works_and_once_it_has_ended(database: Database, clock: ManualClock) -> None:
    acknowledgments, runs = LineageAcknowledgments(database), Runs(database)
    acknowledgments.begin(DEV, URL)
    waiting = runs.submit(DEV, "refresh", {})
    assert acknowledgments.due(DEV, 10) == [], "it waits"
    run = claimed(database)
    assert run.id == waiting
    assert acknowledgments.due(DEV, 10) == [DueRun(run.id, 0)]
    acknowledgments.acknowledge(DEV, run.id, 1)
    assert acknowledgments.due(DEV, 10) == []
    clock.advance(MINUTE)
    runs.fail(run, "it failed")
    assert acknowledgments.due(DEV, 10) == [DueRun(run.id, 1)]
    acknowledgments.acknowledge(DEV, run.id, 2)
    assert (acknowledgments.due(DEV, 10), acknowledgments.backlog(DEV).runs) == ([], 0)


def test_a_backlog_is_counted_and_sent_in_the_order_in_which_runs_ended(database: Database, clock: ManualClock) -> None:
    acknowledgments = LineageAcknowledgments(database)
    acknowledgments.begin(DEV, URL)
    first_ends = clock.now() + MINUTE
    ids = [ended(database, clock) for _ in range(5)]
    assert [one.run for one in acknowledgments.due(DEV, 3)] == ids[:3]
    assert (acknowledgments.backlog(DEV).runs, acknowledgments.backlog(DEV).since) == (5, first_ends)


def test_records_are_removed_once_nothing_before_them_is_missing(database: Database, clock: ManualClock) -> None:
    acknowledgments = LineageAcknowledgments(database)
    acknowledgments.begin(DEV, URL)
    old, new = ended(database, clock), ended(database, clock)
    for run in (old, new):
        acknowledgments.acknowledge(DEV, run, 2, refused="malformed" if run == old else None)
    assert [one.run for one in acknowledgments.refused(DEV)] == [old]
    acknowledgments.complete(DEV, clock.now())
    assert acknowledgments.refused(DEV) == []
    assert acknowledgments.due(DEV, 10) == [], "the record of the one that ended just then is there"
    clock.advance(MINUTE)
    acknowledgments.complete(DEV, clock.now())
    assert acknowledgments.due(DEV, 10) == []
    progress = acknowledgments.progress(DEV)
    assert progress is not None
    acknowledgments.complete(DEV, clock.now() - MINUTE)
    assert acknowledgments.progress(DEV) == progress, "it never goes back"


@pytest.mark.parametrize("times", [1, 3])
def test_failures_are_counted_until_something_was_taken(database: Database, clock: ManualClock, times: int) -> None:
    acknowledgments = LineageAcknowledgments(database)
    acknowledgments.begin(DEV, URL)
    for _ in range(times):
        acknowledgments.failed(DEV, "it is away")
    found = acknowledgments.progress(DEV)
    assert found is not None
    assert (found.failures, found.failed_at, found.error) == (times, clock.now(), "it is away")
    acknowledgments.succeeded(DEV)
    found = acknowledgments.progress(DEV)
    assert found is not None
    assert (found.failures, found.failed_at, found.error) == (0, None, None)
