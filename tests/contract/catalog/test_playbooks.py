"""Runs of playbooks are written whole and again, found by what they are about, and forgotten long after their end."""

from __future__ import annotations

from datetime import timedelta

import msgspec
import pytest
from tests.unit.catalog.examples import DEV, NOON, OTHER

from antiphon.catalog.database import Database
from antiphon.catalog.playbooks import (
    KEPT_FOR,
    PlannedStep,
    PlaybookPermission,
    PlaybookPermissions,
    PlaybookRun,
    PlaybookRuns,
    run_id,
)
from antiphon.core.errors import NotFoundError
from antiphon.definitions.playbooks import PlaybookStep

FREEZE = PlannedStep(1, PlaybookStep("freeze"))
PAGE = PlannedStep(1, PlaybookStep("page"))


def run(incident: str = "inc_1", playbook: str = "freeze-batch", **fields: object) -> PlaybookRun:
    made = PlaybookRun(run_id(incident, playbook), playbook, incident, "waiting", (FREEZE,), "slow", NOON, NOON)
    return msgspec.structs.replace(made, **fields)


@pytest.fixture
def runs(database: Database) -> PlaybookRuns:
    return PlaybookRuns(database)


def put(database: Database, *written: PlaybookRun) -> None:
    with database.transaction() as connection:
        for one in written:
            PlaybookRuns(database).put(DEV, one, within=connection)


def test_a_run_is_written_and_changed(runs: PlaybookRuns, database: Database) -> None:
    put(database, run(), run("inc_2", created_at=NOON + timedelta(minutes=1)))
    assert [one.incident for one in runs.active(DEV)] == ["inc_1", "inc_2"]
    assert [one.incident for one in runs.list(DEV)] == ["inc_2", "inc_1"]
    assert [one.id for one in runs.list(DEV, incident="inc_1", playbook="freeze-batch")] == ["inc_1.freeze-batch"]
    rejected = run(state="rejected", updated_at=NOON + timedelta(minutes=5))
    put(database, rejected)
    assert runs.get(DEV, rejected.id) == rejected
    assert runs.list(DEV, since=NOON + timedelta(minutes=5)) == [rejected]
    assert [one.incident for one in runs.active(DEV)] == ["inc_2"]
    assert runs.find(OTHER, rejected.id) is None
    with pytest.raises(NotFoundError):
        runs.get(OTHER, rejected.id)


def test_what_is_undone_at_the_end_keeps_a_run_active(runs: PlaybookRuns, database: Database) -> None:
    put(database, run(state="done"), run("inc_2", "page-person", state="done", plan=(PAGE,)))
    assert [one.incident for one in runs.active(DEV)] == ["inc_1"]


def test_what_was_over_long_ago_is_forgotten(runs: PlaybookRuns, database: Database) -> None:
    old = database.clock.now() - KEPT_FOR - timedelta(days=1)
    put(database, run(state="ended", updated_at=old), run("inc_2", updated_at=old), run("inc_3", state="ended",
        updated_at=database.clock.now()))  # fmt: skip
    assert runs.prune(DEV) == 1
    assert {one.incident for one in runs.list(DEV)} == {"inc_2", "inc_3"}


def test_a_permission_takes_the_place_of_the_one_before(database: Database) -> None:
    permissions = PlaybookPermissions(database)
    with database.transaction() as connection:
        for alone, reason in ((True, "seen to work"), (False, "it did not")):
            permissions.put(DEV, PlaybookPermission("freeze-batch", alone, "ada", reason, NOON), within=connection)
    assert permissions.all(DEV) == {
        "freeze-batch": PlaybookPermission("freeze-batch", False, "ada", "it did not", NOON)
    }
    assert permissions.all(OTHER) == {}
