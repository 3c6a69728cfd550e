"""Playbooks have an application answer from store alone: once, while the incident lasts, and not against a person."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.harness.mended_desk import MendedDesk
from tests.integration.services.playbooks.test_playbook_runs import Crash

from antiphon.core.errors import ConflictError, InvalidInputError, NotFoundError
from antiphon.definitions.playbooks import PlaybookSpec, PlaybookStep
from antiphon.services.precomputed import ProjectPrecomputedModes, precomputed_modes

STORED = PlaybookSpec(
    "stored", "Answer from store", (PlaybookStep("serve-precomputed", duration="30m"), PlaybookStep("page")),
    roots=("application",), signals=("traffic",),
)  # fmt: skip
FAILS = PlaybookSpec(
    "fails", "Answer from store, then fail", (PlaybookStep("serve-precomputed"), PlaybookStep("roll-back-release")),
    roots=("application",), signals=("slow",),
)  # fmt: skip


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[MendedDesk]:
    desk = MendedDesk(tmp_path / "desk")
    desk.go_live()
    desk.declare(STORED, FAILS)
    yield desk
    desk.store.close()


def modes(desk: MendedDesk) -> dict[str, str]:
    """Who has which application answer from store alone."""
    return {one.application: one.principal for one in ProjectPrecomputedModes(desk.store, desk.scope).list()}


def overload(desk: MendedDesk, signal: str = "traffic") -> None:
    desk.incident("application/desk", signal, "overload")
    desk.look()


@pytest.mark.parametrize("place", range(8))
async def test_a_crash_at_any_record_begins_and_ends_it_once(desk: MendedDesk, place: int) -> None:
    overload(desk)
    assert desk.playbooks.rehearse("stored", "inc_1").hindrances == ("", "")
    desk.playbooks.approve("inc_1.stored", "ben", "users wait")
    crash = Crash(place)
    await desk.work(crash.of)
    desk.look()
    assert desk.run("stored").state == "done"
    assert modes(desk) == {"desk": "playbook:stored"}
    mode = precomputed_modes(desk.store)(desk.scope, "desk")
    assert mode is not None
    assert mode.until == desk.clock.now() + timedelta(minutes=30)
    desk.resolve()
    desk.look()
    await desk.work(crash.of)
    desk.look()
    assert crash.crashed
    assert desk.run("stored").state == "ended"
    assert modes(desk) == {}
    acts = [one.action for one in desk.store.audit.query(desk.scope)]
    assert (acts.count("precomputed.begin"), acts.count("precomputed.end")) == (1, 1)


async def test_a_later_step_that_fails_ends_it(desk: MendedDesk) -> None:
    desk.put(desk.incident("application/desk", "slow", "overload"))
    desk.look()
    with desk.store.database.transaction() as connection:  # The release before is gone from the stack.
        desk.store.releases.rollback(desk.scope, "desk", principal="ada", reason="a drill", within=connection)
    desk.playbooks.approve("inc_1.fails", "ben", "try it")
    await desk.work()
    desk.look()
    assert desk.run("fails").state == "failed", desk.run("fails").problem
    assert "Undone: 1 serve-precomputed desk" in desk.run("fails").problem
    assert modes(desk) == {}


async def test_what_a_person_ordered_stays(desk: MendedDesk) -> None:
    ProjectPrecomputedModes(desk.store, desk.scope).begin("ada", "desk", "an update", "1h")
    overload(desk)
    assert "ada has desk answer from store alone: an update" in desk.playbooks.rehearse("stored", "inc_1").hindrances[0]
    desk.playbooks.approve("inc_1.stored", "ben", "try it")
    await desk.work()
    desk.look()
    assert desk.run("stored").state == "failed"
    assert modes(desk) == {"desk": "ada"}


async def test_what_a_person_ordered_since_stays(desk: MendedDesk) -> None:
    overload(desk)
    desk.playbooks.approve("inc_1.stored", "ben", "users wait")
    await desk.work()
    desk.look()
    found = ProjectPrecomputedModes(desk.store, desk.scope)
    found.end("ada", "desk", "mine now")
    found.begin("ada", "desk", "an update", "1h")
    desk.resolve()
    desk.look()
    await desk.work()
    desk.look()
    assert desk.run("stored").state == "ended"
    assert modes(desk) == {"desk": "ada"}


async def test_it_ends_by_itself(desk: MendedDesk) -> None:
    overload(desk)
    desk.playbooks.approve("inc_1.stored", "ben", "users wait")
    await desk.work()
    desk.clock.advance(timedelta(minutes=30, seconds=1))
    assert modes(desk) == {}
    assert precomputed_modes(desk.store)(desk.scope, "desk") is None


def test_people_do_the_same_with_a_reason(desk: MendedDesk) -> None:
    found = ProjectPrecomputedModes(desk.store, desk.scope)
    mode = found.begin("ada", "desk", "an update", "1h")
    assert found.begin("ada", "desk", "an update", "2h") == mode
    with pytest.raises(ConflictError):
        found.begin("ben", "desk", "mine", "1h")
    with pytest.raises(NotFoundError, match="No release of 'dsk' is live"):
        found.begin("ben", "dsk", "mine", "1h")
    for reason, duration in ((" ", "1h"), ("mine", "8d"), ("mine", "soon")):
        with pytest.raises(InvalidInputError):
            found.begin("ben", "desk", reason, duration)
    assert found.end("ben", "desk", "done") == mode
    assert found.end("ben", "desk", "done") is None
