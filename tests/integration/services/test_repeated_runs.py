"""Runs of schedules under a clock that is set apart and set right again, over a real catalog."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update
from tests.integration.services.test_apply_compatibility import Project
from tests.integration.services.test_built_in_schedules import DAY, NAME, NOON, Conducted

from antiphon.catalog import schema
from antiphon.features.offline.refresh import WORKFLOW
from antiphon.services.chaos.repeated_runs import repeated_runs


@pytest.fixture
def conducted(tmp_path: Path) -> Iterator[Conducted]:
    project = Project(tmp_path)
    found = Conducted(project)
    found.apply()
    yield found
    project.store.close()


def refreshed(conducted: Conducted) -> int:
    """Order what is due and do it; the number of refreshes so far."""
    conducted.look()
    for run in conducted.store.runs.open(conducted.store.scope, WORKFLOW):
        conducted.refresh(run.id)
        with conducted.store.database.transaction() as connection:
            connection.execute(update(schema.runs).where(schema.runs.c.id == run.id).values(status="succeeded"))
    return len(conducted.runs())


def test_nothing_is_done_twice_under_a_clock_that_was_ahead_and_a_repetition_is_counted(conducted: Conducted) -> None:
    week = 7 * DAY
    assert refreshed(conducted) == 1
    conducted.clock.advance(DAY)
    assert refreshed(conducted) == 2
    conducted.clock.set(NOON + timedelta(minutes=1))
    assert refreshed(conducted) == 2, "its period was refreshed under the wrong clock already"
    conducted.clock.set(NOON + DAY)
    assert refreshed(conducted) == 2
    conducted.clock.set(NOON + 2 * DAY)
    assert refreshed(conducted) == 3
    store = conducted.store
    assert repeated_runs(store, week) == 0

    def again(cause: str) -> str:
        run = store.runs.submit(store.scope, WORKFLOW, conducted.runs()[0].arguments, key=f"again:{cause}")
        with store.database.transaction() as connection:
            store.runs.attribute(store.scope, run, NAME, cause, None, within=connection)
        return run

    again("begun by ann: for a look")
    assert repeated_runs(store, week) == 0
    run = again("its views were not refreshed")
    assert repeated_runs(store, week) == 1
    store.runs.cancel(store.scope, run)
    assert repeated_runs(store, week) == 0
    again("its views were not refreshed, again")
    conducted.clock.advance(DAY)
    assert repeated_runs(store, timedelta(hours=1)) == 0
