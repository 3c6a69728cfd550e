from __future__ import annotations

from datetime import timedelta

import pytest
from tests.unit.catalog.examples import DEV, NOON, OTHER

from antiphon.catalog.database import Database
from antiphon.catalog.learning.training_checkpoints import TrainingCheckpoint, TrainingCheckpoints
from antiphon.core.clock import ManualClock
from antiphon.core.scope import Scope
from antiphon.durable.claims import ServedRuns
from antiphon.durable.run import LeaseLostError
from antiphon.durable.runs import Runs


def checkpoint(run: str, step: int, content: str | None = None, scope: Scope = DEV) -> TrainingCheckpoint:
    return TrainingCheckpoint(scope, run, step, "this", content or f"sha-{step}", 10 * step, NOON)


def add(database: Database, *kept: TrainingCheckpoint) -> list[list[int]]:
    records = TrainingCheckpoints(database)
    steps = []
    for one in kept:
        with database.transaction() as connection:
            steps.append([gone.step for gone in records.add(one, within=connection)])
    return steps


def test_the_two_latest_steps_are_kept_and_it_is_told_whose_files_nothing_names(database: Database) -> None:
    run, other = (Runs(database).submit(DEV, "train", {}) for _ in range(2))
    records = TrainingCheckpoints(database)
    assert add(database, *(checkpoint(run, step) for step in (10, 20, 30)), checkpoint(other, 5)) == [[], [], [10], []]
    assert records.list(DEV, run) == [checkpoint(run, 30), checkpoint(run, 20)]
    assert {one.run for one in records.list(DEV)} == {run, other}
    assert records.list(OTHER) == []
    records.remove(DEV, run, 30)
    assert records.list(DEV, run) == [checkpoint(run, 20)]
    records.remove(DEV, run)
    assert records.list(DEV) == [checkpoint(other, 5)]


def test_a_step_that_is_done_again_takes_the_place_of_what_it_made_before(database: Database) -> None:
    run = Runs(database).submit(DEV, "train", {})
    first, again = checkpoint(run, 20), checkpoint(run, 20, "sha-again")
    with database.transaction() as connection:
        records = TrainingCheckpoints(database)
        records.add(first, within=connection)
        assert records.add(first, within=connection) == [], "the same content is the same file"
        assert records.add(again, within=connection) == [first]
    assert records.list(DEV, run) == [again]


def test_who_lost_the_run_moves_nothing_back(database: Database, clock: ManualClock) -> None:
    runs, records = Runs(database), TrainingCheckpoints(database)
    runs.submit(DEV, "train", {})
    late = runs.claim("host-a", ServedRuns("dev"), timedelta(seconds=10))
    assert late is not None
    runs.fenced(late, lambda within: records.add(checkpoint(late.id, 10), within=within))
    clock.advance(timedelta(seconds=11))
    taken = runs.claim("host-b", ServedRuns("dev"), timedelta(seconds=10))
    assert taken is not None
    runs.fenced(taken, lambda within: records.add(checkpoint(late.id, 40), within=within))
    for effect in (
        lambda within: records.add(checkpoint(late.id, 20), within=within),
        lambda within: records.remove(DEV, late.id, within=within),
    ):
        with pytest.raises(LeaseLostError):
            runs.fenced(late, effect)
    assert [one.step for one in records.list(DEV, late.id)] == [40, 10]
