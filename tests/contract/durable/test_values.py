"""Values of runs: which one is claimed first, and nothing is passed over for ever."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.unit.catalog.examples import DEV

from antiphon.catalog.database import Database
from antiphon.core.clock import ManualClock
from antiphon.durable.claims import ServedRuns
from antiphon.durable.dead_letters import DeadLetters
from antiphon.durable.runs import Runs

LEASE, MINUTE = timedelta(seconds=10), timedelta(minutes=1)
NAMED = ServedRuns("dev", ("export", "table_job"), "default")


def valued(database: Database, workflow: str, value: float | None) -> str:
    runs = Runs(database)
    run = runs.submit(DEV, workflow, {})
    with database.transaction() as connection:
        runs.attribute(DEV, run, "nightly", "every 24h", None, value, within=connection)
    return run


def claimed(database: Database, served: ServedRuns = NAMED) -> str | None:
    found = Runs(database).claim("w", served, LEASE)
    return None if found is None else found.id


@pytest.mark.parametrize("served", [NAMED, ServedRuns("dev")])
@pytest.mark.parametrize(("waited", "first"), [(2.9, "valued"), (3.1, "old")])
def test_a_run_counts_as_waiting_its_value_times_as_long(
    database: Database, clock: ManualClock, served: ServedRuns, waited: float, first: str
) -> None:
    old = valued(database, "table_job", None)
    clock.advance((waited - 1) * MINUTE)
    worth = valued(database, "table_job", 3.0)
    clock.advance(MINUTE)
    assert claimed(database, served) == {"valued": worth, "old": old}[first]


def test_runs_of_a_low_value_go_last_and_of_equal_ones_the_oldest(database: Database, clock: ManualClock) -> None:
    low = valued(database, "export", 0.1)
    clock.advance(MINUTE)
    first = valued(database, "table_job", None)
    clock.advance(MINUTE / 60)
    second, high = valued(database, "table_job", None), valued(database, "export", 2.0)
    clock.advance(MINUTE)
    assert [claimed(database) for _ in range(5)] == [high, first, second, low, None]


def test_a_run_that_is_begun_anew_is_worth_as_much(database: Database) -> None:
    runs = Runs(database)
    run = valued(database, "export", 4.0)
    found = runs.claim("w", NAMED, LEASE)
    assert found is not None
    assert runs.worth(DEV, ("export", "table_job")) == 4.0
    assert runs.worth(DEV, ("table_job",)) == 1.0
    runs.record(found, "write", 0, 1, found.created_at)
    runs.fail(found, "The disk is full.")
    with database.transaction() as connection:
        assert DeadLetters(database).fork(DEV, run, "write", within=connection).value == 4.0
