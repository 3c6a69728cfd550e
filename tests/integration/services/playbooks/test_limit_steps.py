"""Playbooks limit batch work for the time of an incident: once, beside a freeze, and no longer than it lasts."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.harness.mended_desk import MendedDesk
from tests.integration.services.playbooks.test_playbook_runs import Crash

from antiphon.catalog.run_holds import RunHold
from antiphon.definitions.playbooks import PlaybookSpec, PlaybookStep
from antiphon.durable.runs import Runs
from antiphon.services.conducting.schedules import ProjectSchedules
from antiphon.services.workflows import EXPORT, TABLE_JOB

FEWER = PlaybookSpec(
    "fewer", "Less batch work",
    (PlaybookStep("limit-batch", slots=2, duration="2h"), PlaybookStep("freeze", work=("training",))),
    classes=("overload",),
)  # fmt: skip
FAILS = PlaybookSpec(
    "fails", "Less batch work, then fail", (PlaybookStep("limit-batch"), PlaybookStep("roll-back-release")),
    roots=("application",),
)  # fmt: skip


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[MendedDesk]:
    desk = MendedDesk(tmp_path / "desk")
    desk.declare(FEWER, FAILS)
    desk.incident("application/desk", "traffic", "overload")
    desk.look()
    yield desk
    desk.store.close()


def holds(desk: MendedDesk) -> list[RunHold]:
    return sorted(ProjectSchedules(desk.store, desk.scope).holds(), key=lambda one: one.kind)


@pytest.mark.parametrize("place", range(8))
async def test_a_crash_at_any_record_limits_once_and_ends_it_once(desk: MendedDesk, place: int) -> None:
    Runs(desk.store.database).submit(desk.scope, EXPORT, {})
    assert desk.playbooks.rehearse("fewer", "inc_1").hindrances == ("", "")
    desk.playbooks.approve("inc_1.fewer", "ben", "users wait")
    crash = Crash(place)
    await desk.work(crash.of)
    desk.look()
    freeze, limit = holds(desk)
    assert (freeze.kind, freeze.slots) == ("freeze", 0)
    assert (limit.kind, limit.slots, limit.principal) == ("limit", 2, "playbook:fewer")
    assert {EXPORT, TABLE_JOB} <= set(limit.workflows)
    assert limit.until == desk.clock.now() + timedelta(hours=2)
    run = desk.run("fewer")
    assert run.outcomes[0].sentence.startswith("batch is limited to 2 at once until")
    desk.resolve()
    desk.look()
    await desk.work(crash.of)
    desk.look()
    assert crash.crashed
    assert desk.run("fewer").state == "ended"
    assert holds(desk) == []
    acts = [one.action for one in desk.store.audit.query(desk.scope)]
    assert [acts.count(act) for act in ("limit.begin", "limit.end", "freeze.begin", "freeze.end")] == [1, 1, 1, 1]


async def test_a_later_step_that_fails_ends_it(desk: MendedDesk) -> None:
    desk.playbooks.approve("inc_1.fails", "ben", "try it")
    await desk.work()
    desk.look()
    assert desk.run("fails").state == "failed"
    assert "Undone: 1 limit-batch" in desk.run("fails").problem
    assert holds(desk) == []


async def test_it_ends_by_itself_and_by_a_person(desk: MendedDesk) -> None:
    desk.playbooks.approve("inc_1.fewer", "ben", "users wait")
    await desk.work()
    desk.look()
    freeze, limit = holds(desk)
    ProjectSchedules(desk.store, desk.scope).thaw("ada", limit.id)
    assert holds(desk) == [freeze]
    desk.clock.advance(timedelta(hours=2))
    assert holds(desk) == []
    desk.resolve()
    desk.look()
    await desk.work()
    desk.look()
    assert desk.run("fewer").state == "ended"
