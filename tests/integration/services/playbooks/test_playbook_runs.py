"""Playbooks meet incidents: alone, by approval, undone half-way, undone at the end, and gone on with after a crash."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.harness.mended_desk import MendedDesk

from antiphon.catalog.incidents import TimelineEntry
from antiphon.catalog.playbooks import ACTED
from antiphon.core.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError, UnavailableError
from antiphon.definitions.playbooks import PlaybookSpec, PlaybookStep
from antiphon.definitions.shipped_playbooks import SHIPPED
from antiphon.durable.context import RunContext
from antiphon.operations.processes import ProcessRecord, started_ticks, write_record
from antiphon.services.conducting.schedules import ProjectSchedules
from antiphon.services.playbooks import engine_actions

CALM = PlaybookSpec(
    "calm", "Freeze work", (PlaybookStep("freeze"), PlaybookStep("page")), classes=("overload",), mode="alone"
)
HALF = PlaybookSpec(
    "half", "Freeze work, then fail",
    (PlaybookStep("freeze"), PlaybookStep("restart-engine")),
    roots=("engine",), mode="alone",
)  # fmt: skip


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[MendedDesk]:
    desk = MendedDesk(tmp_path / "desk")
    yield desk
    desk.store.close()


def freezes(desk: MendedDesk) -> list[str]:
    return [one.principal for one in ProjectSchedules(desk.store, desk.scope).holds()]


def overload(desk: MendedDesk, name: str = "inc_1") -> None:
    desk.incident("application/desk", "traffic", "overload", name=name)


async def test_a_trusted_playbook_acts_alone_and_is_undone_when_the_incident_is_over(desk: MendedDesk) -> None:
    desk.declare(CALM)
    desk.playbooks.allow("calm", "ada", "it is a drill")
    desk.playbooks.allow("freeze-batch", "ada", "not beside it", alone=False)
    overload(desk)
    desk.look()
    assert desk.run("calm").state == "ordered"
    assert desk.run("freeze-batch").state == "waiting"
    await desk.work()
    desk.look()
    run = desk.run("calm")
    assert (run.state, run.decided_by, [one.action for one in run.outcomes]) == (
        "done", "playbook:calm", ["freeze", "page"],
    )  # fmt: skip
    assert freezes(desk) == ["playbook:calm"]
    desk.look()
    assert desk.run("calm").state == "done"
    desk.resolve()
    desk.look()
    assert desk.run("calm").state == "ending"
    assert desk.run("freeze-batch").state == "expired"
    await desk.work()
    desk.look()
    assert desk.run("calm").state == "ended"
    assert freezes(desk) == []
    assert [act for by, act in desk.acts() if by == "playbook:calm"] == [
        "playbook.order", "playbook.step", "playbook.step", "playbook.undo",
    ]  # fmt: skip


async def test_without_trust_it_waits_for_a_person(desk: MendedDesk) -> None:
    desk.declare(CALM)
    overload(desk)
    desk.look()
    assert desk.run("calm").state == "waiting"
    told = [one.notification for one in desk.store.notifications.page(desk.scope, 0, 50)]
    assert "incident.approval:inc_1.calm" in [one.id for one in told if one.state == "firing"]
    await desk.work()
    assert freezes(desk) == []
    with pytest.raises(InvalidInputError):
        desk.playbooks.approve("inc_1.calm", "ben", " ")
    approved = desk.playbooks.approve("inc_1.calm", "ben", "users wait")
    assert (approved.state, approved.decided_by) == ("ordered", "ben")
    for decide in (desk.playbooks.approve, desk.playbooks.reject):
        with pytest.raises(ConflictError):
            decide("inc_1.calm", "cleo", "late")
    await desk.work()
    assert freezes(desk) == ["playbook:calm"]
    over = [one.notification for one in desk.store.notifications.page(desk.scope, 0, 50)]
    assert "incident.approval:inc_1.calm" in [one.id for one in over if one.state == "resolved"]


async def test_what_is_rejected_does_nothing(desk: MendedDesk) -> None:
    desk.declare(CALM)
    overload(desk)
    desk.look()
    assert desk.playbooks.reject("inc_1.calm", "ben", "a load test").state == "rejected"
    desk.look()
    await desk.work()
    assert freezes(desk) == []
    assert desk.timeline()[-1] == "calm was rejected: a load test"


async def test_a_step_that_fails_half_way_undoes_those_before_and_pages(desk: MendedDesk) -> None:
    desk.declare(HALF)
    desk.playbooks.allow("half", "ada", "it is a drill")
    desk.incident("engine/engine", "standstill", "infrastructure", record="process/engine")
    desk.look()
    await desk.work()
    desk.look()
    run = desk.run("half")
    assert run.state == "failed"
    assert "engine does not run" in run.problem
    assert "Undone: 1 freeze" in run.problem
    assert [(one.action, one.undo) for one in run.outcomes] == [("freeze", False), ("freeze", True)]
    assert freezes(desk) == []
    pages = [one.notification for one in desk.store.notifications.page(desk.scope, 0, 50)]
    assert [one.id for one in pages if one.kind == "incident.page"] == ["incident.page:inc_1:half.failed"]
    assert any("It failed" in text for text in desk.timeline())


@pytest.mark.parametrize("place", range(8))
async def test_a_crash_at_any_record_does_no_step_twice(desk: MendedDesk, place: int) -> None:
    desk.declare(CALM)
    desk.playbooks.allow("calm", "ada", "it is a drill")
    overload(desk)
    desk.look()
    crash = Crash(place)
    await desk.work(crash.of)
    desk.look()
    assert crash.crashed
    run = desk.run("calm")
    assert (run.state, len(run.outcomes)) == ("done", 2)
    assert freezes(desk) == ["playbook:calm"]
    assert len([act for _, act in desk.acts() if act == "playbook.step"]) == 2
    assert len([text for text in desk.timeline() if text.startswith("Work is frozen")]) == 1
    pages = [one.notification for one in desk.store.notifications.page(desk.scope, 0, 50)]
    assert len([one for one in pages if one.kind == "incident.page"]) == 1


class Crash:
    """Loses the record of the step at one place, after its effect."""

    def __init__(self, place: int) -> None:
        self.left = place
        self.crashed = False

    def of(self, context: RunContext) -> RunContext:
        runs = context._runs
        for name in ("record", "transact"):
            setattr(runs, name, self._lossy(getattr(type(runs), name).__get__(runs)))
        return context

    def _lossy(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def record(*arguments: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left == -1:
                self.crashed = True
                raise UnavailableError("The worker is gone.")
            return real(*arguments, **options)

        return record


async def test_a_release_is_rolled_back_once_a_person_approves(desk: MendedDesk) -> None:
    desk.go_live()
    desk.incident("release/desk", "released", "change", record=f"release/{desk.live}")
    desk.look()
    assert desk.run("roll-back-release").state == "waiting"
    assert desk.playbooks.rehearse("roll-back-release", "inc_1").hindrances == ("",)
    desk.playbooks.approve("inc_1.roll-back-release", "ben", "it began with it")
    await desk.work()
    desk.look()
    live = desk.store.releases.live(desk.scope, "desk")
    assert live is not None
    assert (live.id, desk.run("roll-back-release").state) == (desk.before, "done")
    assert desk.store.releases.history(desk.scope, "desk")[-1].principal == "playbook:roll-back-release"


@pytest.mark.parametrize("cases", [9, 10])
async def test_a_release_is_rolled_back_alone_from_ten_cases_on(desk: MendedDesk, cases: int) -> None:
    desk.go_live()
    for number in range(cases):
        blamed_release(desk, str(desk.live), f"inc_past_{number}")
        desk.resolve(f"inc_past_{number}")
    blamed_release(desk, str(desk.live))
    desk.look()
    assert desk.run("roll-back-release").state == ("ordered" if cases == 10 else "waiting")
    await desk.work()
    live = desk.store.releases.live(desk.scope, "desk")
    assert live is not None
    assert live.id == (desk.before if cases == 10 else desk.live)


@pytest.mark.parametrize("blamed", ["another", ""])
async def test_a_release_that_is_not_the_blamed_one_is_not_rolled_back(desk: MendedDesk, blamed: str) -> None:
    desk.go_live()
    desk.playbooks.allow("roll-back-release", "ada", "it is a drill")
    blamed_release(desk, blamed)
    desk.look()
    await desk.work()
    desk.look()
    run, live = desk.run("roll-back-release"), desk.store.releases.live(desk.scope, "desk")
    assert live is not None
    assert (live.id, run.state) == (desk.live, "failed")
    assert "The guard release-live does not hold" in run.problem


def blamed_release(desk: MendedDesk, release: str, name: str = "inc_1") -> None:
    """An incident that blames the release, as the watch writes one."""
    record = f"release/{release}" if release else ""
    cause = TimelineEntry(desk.clock.now(), "cause", "It began with it.", component="release/desk", class_="change")
    desk.incident("release/desk", "released", "change", record, name, timeline=(cause,))


async def test_a_guard_that_does_not_hold_fails_the_playbook(desk: MendedDesk) -> None:
    ProjectSchedules(desk.store, desk.scope).freeze("ben", "an audit", desk.clock.now() + timedelta(hours=2))
    overload(desk)
    desk.look()
    assert "ben froze work: an audit." in desk.playbooks.rehearse("freeze-batch", "inc_1").hindrances[0]
    desk.playbooks.approve("inc_1.freeze-batch", "ben", "try it")
    await desk.work()
    desk.look()
    assert desk.run("freeze-batch").state == "failed"
    assert freezes(desk) == ["ben"]


async def test_nothing_is_done_once_all_is_normal(desk: MendedDesk) -> None:
    overload(desk)
    desk.look()
    desk.playbooks.approve("inc_1.freeze-batch", "ben", "users wait")
    desk.resolve()
    await desk.work()
    desk.look()
    assert desk.run("freeze-batch").state == "stopped"
    assert freezes(desk) == []


async def test_a_step_is_done_so_often_an_hour(desk: MendedDesk) -> None:
    often = msgspec.structs.replace(
        CALM, steps=(PlaybookStep("freeze", most_per_hour=2),), cooldown="0s", mode="approve"
    )
    desk.declare(often)
    for number in range(3):
        name = f"inc_{number}"
        overload(desk, name)
        desk.look()
        desk.playbooks.approve(f"{name}.calm", "ben", "users wait")
        await desk.work()
        desk.look()
    states = [desk.run("calm", f"inc_{number}").state for number in range(3)]
    assert states == ["done", "done", "failed"]
    assert "as often as it may be" in desk.run("calm", "inc_2").problem


async def test_it_cools_down_for_the_same_target(desk: MendedDesk) -> None:
    overload(desk)
    desk.look()
    desk.playbooks.approve("inc_1.freeze-batch", "ben", "users wait")
    await desk.work()
    overload(desk, "inc_2")
    desk.look()
    with pytest.raises(NotFoundError):
        desk.run("freeze-batch", "inc_2")
    desk.clock.advance(timedelta(minutes=31))
    desk.look()
    assert desk.run("freeze-batch", "inc_2").state == "waiting"


async def test_the_tenants_policies_may_forbid_it(desk: MendedDesk) -> None:
    desk.store.decider.require = lambda *_, **__: (_ for _ in ()).throw(  # type: ignore[method-assign]
        ForbiddenError("playbook:freeze-batch may not release application/*.", where="policy")
    )
    overload(desk)
    desk.look()
    desk.playbooks.approve("inc_1.freeze-batch", "ben", "users wait")
    await desk.work()
    desk.look()
    assert "may not release" in desk.run("freeze-batch").problem
    assert freezes(desk) == []


async def test_its_backtest_makes_it_trusted(desk: MendedDesk) -> None:
    for number in range(SHIPPED["freeze-batch"].least_cases):
        overload(desk, f"inc_{number}")
        found = desk.store.incidents.get(desk.scope, f"inc_{number}")
        cause = TimelineEntry(
            found.opened_at, "cause", "application/desk (overload)", component="application/desk", class_="overload"
        )
        desk.put(msgspec.structs.replace(found, timeline=(cause,)))
        assert not desk.playbooks.show("freeze-batch").alone
        desk.resolve(f"inc_{number}")
    assert desk.playbooks.show("freeze-batch").alone
    overload(desk, "inc_now")
    desk.look()
    assert desk.run("freeze-batch", "inc_now").state in ACTED


async def test_a_view_goes_back_and_goes_on_when_a_later_step_fails(desk: MendedDesk) -> None:
    steps = (PlaybookStep("roll-back-view"), PlaybookStep("roll-back-release"))
    desk.declare(PlaybookSpec("both", "Both", steps, roots=("view", "release")))
    incident = desk.incident("view/congestion", "warned", "data quality")
    other = msgspec.structs.replace(incident.roots[0], component="release/desk")
    desk.put(msgspec.structs.replace(incident, roots=(*incident.roots, other)))
    desk.look()
    desk.playbooks.reject("inc_1.roll-back-features", "ben", "not beside it")
    desk.playbooks.approve("inc_1.both", "ben", "try it")
    await desk.work()
    desk.look()
    assert desk.views.moves == [("congestion", None)]
    assert desk.views.holds == {}
    assert "No release of desk was live before" in desk.run("both").problem


async def test_an_engine_is_restarted_once(desk: MendedDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_actions, "_ENDING_SECONDS", -1.0)  # It stands still, and ends by SIGKILL alone.
    folder = desk.store.paths.run
    folder.mkdir(parents=True)
    with Supervised(folder, "engine") as engine:
        os.kill(engine.process.pid, signal.SIGSTOP)
        before = engine.process.pid
        desk.playbooks.allow("restart-engine", "ada", "it is a drill")
        desk.incident("engine/engine", "standstill", "infrastructure", record="process/engine")
        desk.look()
        crash = Crash(1)  # The step was taken, and is not recorded.
        await desk.work(crash.of)
        assert crash.crashed
        desk.look()
        run = desk.run("restart-engine")
        assert run.state == "done", run.problem
        assert engine.started == 2
        assert run.outcomes[0].sentence == f"The process engine was restarted: {before}, now {engine.process.pid}."


class Supervised:
    """A process that is started again when it ends, with its record, as the supervisor does."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._over = threading.Event()
        self.started = 0

    def __enter__(self) -> Supervised:
        self._start()
        self._thread = threading.Thread(target=self._keep)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.process.kill()
        self._thread.join()

    def _start(self) -> None:
        self.process = subprocess.Popen(["sleep", "600"], start_new_session=True)
        pid, self.started = self.process.pid, self.started + 1
        write_record(self._folder, ProcessRecord(self._name, pid, started_ticks(pid) or 0, datetime.now(UTC)))

    def _keep(self) -> None:
        while True:
            self.process.wait()
            if self._over.is_set():
                return
            self._start()
