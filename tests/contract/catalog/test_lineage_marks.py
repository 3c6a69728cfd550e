from __future__ import annotations

from datetime import timedelta

import pytest
from tests.unit.catalog.examples import DEV, OTHER

from antiphon.catalog.database import Database
from antiphon.catalog.lineage_marks import DueRun, LineageMarks
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
    marks = LineageMarks(database)
    ended(database, clock)
    assert marks.due(DEV, 10) == []
    clock.advance(MINUTE)
    begun = marks.begin(DEV, URL)
    assert marks.begin(DEV, URL) == begun
    assert marks.due(DEV, 10) == [], "what had ended before is sent on request alone"
    run = ended(database, clock)
    assert marks.due(DEV, 10) == [DueRun(run, 0)]
    assert (marks.due(OTHER, 10), marks.progress(OTHER)) == ([], None)
    assert marks.begin(DEV, f"{URL}/other") != begun
    assert marks.due(DEV, 10) == [DueRun(run, 0)], "it ended in the very moment in which the other one was named"


def test_a_run_is_due_twice_once_it_works_and_once_it_has_ended(database: Database, clock: ManualClock) -> None:
    marks, runs = LineageMarks(database), Runs(database)
    marks.begin(DEV, URL)
    waiting = runs.submit(DEV, "refresh", {})
    assert marks.due(DEV, 10) == [], "it waits"
    run = claimed(database)
    assert run.id == waiting
    assert marks.due(DEV, 10) == [DueRun(run.id, 0)]
    marks.mark(DEV, run.id, 1)
    assert marks.due(DEV, 10) == []
    clock.advance(MINUTE)
    runs.fail(run, "it failed")
    assert marks.due(DEV, 10) == [DueRun(run.id, 1)]
    marks.mark(DEV, run.id, 2)
    assert (marks.due(DEV, 10), marks.backlog(DEV).runs) == ([], 0)


def test_a_backlog_is_counted_and_sent_in_the_order_in_which_runs_ended(database: Database, clock: ManualClock) -> None:
    marks = LineageMarks(database)
    marks.begin(DEV, URL)
    first_ends = clock.now() + MINUTE
    ids = [ended(database, clock) for _ in range(5)]
    assert [one.run for one in marks.due(DEV, 3)] == ids[:3]
    assert (marks.backlog(DEV).runs, marks.backlog(DEV).since) == (5, first_ends)


def test_marks_are_removed_once_nothing_before_them_is_missing(database: Database, clock: ManualClock) -> None:
    marks = LineageMarks(database)
    marks.begin(DEV, URL)
    old, new = ended(database, clock), ended(database, clock)
    for run in (old, new):
        marks.mark(DEV, run, 2, refused="malformed" if run == old else None)
    assert [one.run for one in marks.refused(DEV)] == [old]
    marks.complete(DEV, clock.now())
    assert marks.refused(DEV) == []
    assert marks.due(DEV, 10) == [], "the mark of the one that ended just then is there"
    clock.advance(MINUTE)
    marks.complete(DEV, clock.now())
    assert marks.due(DEV, 10) == []
    progress = marks.progress(DEV)
    assert progress is not None
    marks.complete(DEV, clock.now() - MINUTE)
    assert marks.progress(DEV) == progress, "it never goes back"


@pytest.mark.parametrize("times", [1, 3])
def test_failures_are_counted_until_something_was_taken(database: Database, clock: ManualClock, times: int) -> None:
    marks = LineageMarks(database)
    marks.begin(DEV, URL)
    for _ in range(times):
        marks.failed(DEV, "it is away")
    found = marks.progress(DEV)
    assert found is not None
    assert (found.failures, found.failed_at, found.error) == (times, clock.now(), "it is away")
    marks.succeeded(DEV)
    found = marks.progress(DEV)
    assert found is not None
    assert (found.failures, found.failed_at, found.error) == (0, None, None)
