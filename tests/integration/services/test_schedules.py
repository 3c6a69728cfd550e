"""Schedules from definitions.py to runs: ordered once, in the schedule's own name, and held by freezes and windows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy.engine import Connection
from tests.contract.catalog.test_models import version
from tests.harness.gated_project import MODEL_NAME, GatedProject
from tests.integration.services.test_gate_runs import ANN, REPLIES, SOUND, UNGATED, obeys
from tests.unit.catalog.examples import receipt
from tests.unit.definitions.test_schedules import SOUND as DECLARED

from antiphon.catalog.releases.releases import ModelPin, Release
from antiphon.core.clock import ManualClock
from antiphon.core.errors import ForbiddenError, InvalidInputError, NotFoundError, UnavailableError
from antiphon.definitions.project import load
from antiphon.durable.claims import ServedRuns
from antiphon.durable.context import RunContext
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.run import ENDED, Run
from antiphon.governance.audit.log import AuditFilter
from antiphon.governance.identity.principal import schedule_principal
from antiphon.orchestration.conductor.conductor import Conductor
from antiphon.services.apply.apply import plan
from antiphon.services.batches import ProjectTableJobs, batch_context, table_jobs
from antiphon.services.conducting.run_waits import RunWaits
from antiphon.services.conducting.schedule_lines import schedule_lines
from antiphon.services.conducting.schedule_states import ScheduleStates
from antiphon.services.conducting.scheduled_orders import ScheduledOrders, conductor
from antiphon.services.conducting.schedules import ProjectSchedules
from antiphon.services.conducting.upcoming import upcoming_work
from antiphon.services.export.scheduled import ScheduledExports
from antiphon.services.rollouts import rollout_transitions
from antiphon.services.workflows import EVALUATE, TABLE_JOB, TRAIN
from antiphon.serving.request import AnswerRequest

START = datetime(2026, 6, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)

BRIEFING = """
from antiphon import Evaluate, Precompute, Window, every
Precompute("replies", entities="questions.jsonl", when=every("1h"), settle="1m")
"""
PEAK = 'Window("peak", "0 13 * * *", lasts="30m", work=("batch",))\n'


@pytest.fixture
async def project(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[GatedProject]:
    made = GatedProject(tmp_path, obeys, getattr(request, "param", "dev"))
    (tmp_path / "questions.jsonl").write_text('{"question": "Where is my order?"}\n{"question": "When?"}\n')
    made.store.database.clock = ManualClock(START)
    yield made
    await made.close()


def replies(declared: str = "", more: str = UNGATED, system: str = SOUND) -> str:
    return REPLIES.format(model=MODEL_NAME, system=system, more=more) + declared


def clock(project: GatedProject) -> ManualClock:
    found = project.store.database.clock
    assert isinstance(found, ManualClock)
    return found


def conducting(project: GatedProject) -> tuple[Conductor, ScheduledOrders]:
    tables = ProjectTableJobs(project.store, project.wired.features, confined=False)
    exports = partial(ScheduledExports, project.store, project.wired.features)
    orders = ScheduledOrders(project.store, lambda: project.learning().orders, tables.create, exports)
    return conductor(project.store, orders), orders


def schedules(project: GatedProject) -> ProjectSchedules:
    return ProjectSchedules(project.store, project.scope)


def runs(project: GatedProject, workflow: str = TABLE_JOB) -> list[Run]:
    return project.store.runs.list(project.scope, workflow=workflow)


@asynccontextmanager
async def working(project: GatedProject, registry: WorkflowRegistry) -> AsyncIterator[None]:
    """A worker of these workflows works meanwhile, for 30 seconds at most."""
    executor, stop = Executor(project.store.database, registry, "worker", project.scope, poll=0.05), asyncio.Event()
    running = asyncio.create_task(executor.run_until(stop))
    try:
        async with asyncio.timeout(30):
            yield
    finally:
        stop.set()
        await running


async def work(project: GatedProject) -> None:
    """Do the table jobs that wait, as a worker does."""
    registry = WorkflowRegistry()
    jobs = table_jobs(project.store, project.wired.features, project.ask, batch_context(project.store, "worker"))
    registry.add(TABLE_JOB, jobs.run, shared=True)
    async with working(project, registry):
        while any(run.status not in ENDED for run in runs(project)):
            await asyncio.sleep(0.02)


async def test_a_schedule_orders_its_run_when_it_is_due_and_not_again_before_that_has_ended(
    project: GatedProject,
) -> None:
    project.apply(replies(BRIEFING))
    look, _ = conducting(project)
    look.look()
    assert runs(project) == []
    (line,) = schedules(project).list()
    assert (line.outlook.stage, line.outlook.earliest, line.declared) == ("waits", START + HOUR, "every 1h")
    clock(project).advance(HOUR)
    look.look()
    look.look()
    (run,) = runs(project)
    assert (run.schedule, run.key) == ("precompute-replies", f"table_job:{run.arguments['job']}")
    assert run.cause == "1h have passed since 2026-06-01 12:00Z"
    clock(project).advance(2 * HOUR)
    look.look()
    assert len(runs(project)) == 1
    assert schedules(project).list()[0].outlook.reason == f"its run {run.id} is queued"
    await work(project)
    assert project.store.runs.get(project.scope, run.id).status == "succeeded"
    look.look()
    assert len(runs(project)) == 1  # It settles first.
    clock(project).advance(timedelta(minutes=1))
    look.look()
    assert len(runs(project)) == 2
    entry = project.store.audit.query(project.scope, AuditFilter(action="schedule.order"))[0]
    assert entry.principal == "schedule:precompute-replies"


async def test_what_was_ordered_before_a_crash_is_counted_and_not_ordered_again(
    project: GatedProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.apply(replies(BRIEFING))
    look, _ = conducting(project)
    look.look()
    clock(project).advance(HOUR)

    def dies(*_: Any, **__: Any) -> bool:
        raise UnavailableError("The process died here.", where="a test")

    with monkeypatch.context() as crash:
        crash.setattr(type(project.store.schedules), "advance", dies)
        with pytest.raises(UnavailableError):
            look.look()
    (run,) = runs(project)
    assert run.schedule is None
    clock(project).advance(timedelta(seconds=5))
    other, _ = conducting(project)
    other.look()
    (again,) = runs(project)
    assert (again.id, again.schedule) == (run.id, "precompute-replies")
    assert schedules(project).list()[0].record.sequence == 1


async def test_a_freeze_keeps_work_waiting_with_its_reason_until_it_is_over_or_the_run_is_exempted(
    project: GatedProject,
) -> None:
    project.apply(replies(BRIEFING))
    found = schedules(project)
    frozen = found.freeze("ada", "the launch", START + 3 * HOUR)
    look, _ = conducting(project)
    look.look()
    clock(project).advance(HOUR)
    look.look()
    (run,) = runs(project)
    wait = RunWaits(project.store).of(project.scope, [run])[run.id]
    assert (wait.kind, wait.earliest) == ("held", START + 3 * HOUR)
    assert wait.reason == "held until 2026-06-01 15:00Z by a freeze by ada: the launch"
    found.exempt("ada", run.id, "the demo needs it")
    assert RunWaits(project.store).of(project.scope, [project.store.runs.get(project.scope, run.id)])[run.id].kind != (
        "held"
    )
    await work(project)
    assert found.thaw("ada", frozen.id).until == START + HOUR
    assert found.holds() == ()
    said = {entry.action for entry in project.store.audit.query(project.scope)}
    assert {"freeze.begin", "freeze.end", "run.exempt"} <= said


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"until": START}, "is past"),
        ({"until": START + timedelta(days=91)}, "more than 90 days away"),
        ({"reason": " "}, "has a reason"),
        ({"work": ["sleep"]}, "no class of work 'sleep'"),
        ({"begins": START + 5 * HOUR}, "ends before it begins"),
    ],
)
async def test_a_freeze_that_makes_no_sense_is_refused(
    project: GatedProject, changes: dict[str, Any], part: str
) -> None:
    with pytest.raises(InvalidInputError, match=part):
        schedules(project).freeze(**({"principal": "ada", "reason": "why", "until": START + 3 * HOUR} | changes))
    assert schedules(project).holds() == ()


async def test_a_run_under_way_gives_way_to_a_freeze_at_its_next_step_and_goes_on_afterwards(
    project: GatedProject,
) -> None:
    entered: list[int] = []

    async def steps(run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        for number in range(3):

            async def one(number: int = number) -> int:
                entered.append(number)
                while len(entered) == 2 and not run.stopping:
                    await asyncio.sleep(0.01)
                return number

            await run.step(f"step {number}", one)
        return {}

    registry = WorkflowRegistry()
    registry.add(TABLE_JOB, steps)
    run = project.store.runs.submit(project.scope, TABLE_JOB, {})
    async with working(project, registry):
        while len(entered) < 2:
            await asyncio.sleep(0.01)
        frozen = schedules(project).freeze("ada", "the launch", START + HOUR, ["batch"])
        while project.store.runs.get(project.scope, run).status != "queued":
            await asyncio.sleep(0.01)
        found = project.store.runs.get(project.scope, run)
        assert (entered, found.attempts) == ([0, 1], 0)  # The step ended, the next did not begin.
        schedules(project).thaw("ada", frozen.id)
        while project.store.runs.get(project.scope, run).status != "succeeded":
            await asyncio.sleep(0.01)
    assert entered == [0, 1, 2]


async def test_a_step_that_does_not_end_is_cancelled_for_a_freeze_and_done_again(
    project: GatedProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("antiphon.durable.executor.YIELD_SECONDS", 0.05)
    entered: list[int] = []

    async def hangs(run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        async def step() -> None:
            entered.append(run.attempt)
            if len(entered) == 1:
                await asyncio.Event().wait()

        await run.step("step", step)
        return {}

    registry = WorkflowRegistry()
    registry.add(TABLE_JOB, hangs)
    run = project.store.runs.submit(project.scope, TABLE_JOB, {})
    async with working(project, registry):
        while not entered:
            await asyncio.sleep(0.01)
        frozen = schedules(project).freeze("ada", "the launch", START + HOUR, ["batch"])
        while project.store.runs.get(project.scope, run).status != "queued":
            await asyncio.sleep(0.01)
        schedules(project).thaw("ada", frozen.id)
        while project.store.runs.get(project.scope, run).status != "succeeded":
            await asyncio.sleep(0.01)
    assert entered == [1, 1]  # It was no attempt that failed.


async def test_a_declared_blackout_holds_by_the_calendar_and_goes_with_its_declaration(project: GatedProject) -> None:
    project.apply(replies(BRIEFING + PEAK))
    look, _ = conducting(project)
    look.look()
    first, *_ = schedules(project).holds()
    assert (first.kind, first.name, first.begins) == ("window", "peak", START + HOUR)
    assert len(schedules(project).windows()) == 3
    with pytest.raises(InvalidInputError, match="peak is a declared window"):
        schedules(project).thaw("ada", first.id)
    clock(project).advance(HOUR)
    look.look()
    (run,) = runs(project)
    assert RunWaits(project.store).of(project.scope, [run])[run.id].earliest == START + 1.5 * HOUR
    project.apply(replies(BRIEFING))
    look.look()
    assert schedules(project).holds() == ()


async def test_a_paused_schedule_orders_nothing(project: GatedProject) -> None:
    project.apply(replies(BRIEFING))
    look, _ = conducting(project)
    look.look()
    found = schedules(project)
    found.pause("ada", "precompute-replies", "wrong labels", START + 2 * HOUR)
    clock(project).advance(HOUR)
    look.look()
    assert runs(project) == []
    assert found.list()[0].outlook.reason == "paused by ada: wrong labels"
    found.resume("ada", "precompute-replies")
    look.look()
    assert len(runs(project)) == 1
    with pytest.raises(NotFoundError, match="no schedule 'precompute-reply'"):
        found.pause("ada", "precompute-reply", "why", START + 2 * HOUR)


async def test_what_cannot_be_ordered_is_said_and_tried_again(project: GatedProject) -> None:
    project.apply(replies(BRIEFING))
    look, _ = conducting(project)
    look.look()
    (project.folder / "questions.jsonl").rename(project.folder / "away.jsonl")
    clock(project).advance(HOUR)
    look.look()
    (line,) = schedules(project).list()
    assert line.outlook.stage == "refused"
    assert "questions.jsonl" in line.outlook.reason
    (project.folder / "away.jsonl").rename(project.folder / "questions.jsonl")
    look.look()
    assert runs(project) == []
    clock(project).advance(timedelta(minutes=1))
    look.look()
    assert len(runs(project)) == 1
    assert schedules(project).list()[0].record.problem is None


QUIET = """
from antiphon import Precompute, Retrain, Window, Evaluate, every
Evaluate("replies", when=every("1h"), within="12h")
Window("night", "0 22 * * *", lasts="4h", kind="preferred")
"""


async def test_work_that_may_wait_is_noted_as_due_and_begins_in_its_window(project: GatedProject) -> None:
    project.apply(replies(QUIET))
    look, _ = conducting(project)
    look.look()
    clock(project).advance(HOUR)
    look.look()
    (line,) = schedules(project).list()
    assert (line.outlook.earliest, line.record.due_at) == (START + 10 * HOUR, START + HOUR)
    clock(project).advance(5 * HOUR)
    look.look()  # It is counted from when it was due first.
    (line,) = schedules(project).list()
    assert (line.record.due_at, line.outlook.deadline) == (START + HOUR, START + 13 * HOUR)
    assert runs(project, EVALUATE) == []
    clock(project).advance(4 * HOUR)
    look.look()
    # Nothing of this application can be evaluated: the order is there all the same, or says why not.
    (line,) = schedules(project).list()
    assert line.record.sequence + (line.outlook.stage == "refused") == 1


async def test_the_work_to_come_is_told_in_its_order(project: GatedProject) -> None:
    project.apply(replies(BRIEFING + QUIET))
    look, _ = conducting(project)
    look.look()
    clock(project).advance(HOUR)
    schedules(project).freeze("ada", "the launch", START + 3 * HOUR)
    look.look()
    first, second = upcoming_work(project.store, project.scope)
    (run,) = runs(project)
    assert (first.what, first.state, first.earliest) == (
        f"table_job {run.arguments['job']}",
        "queued",
        START + 3 * HOUR,
    )
    assert (second.what, second.state, second.earliest) == ("evaluate-replies", "scheduled", START + 10 * HOUR)
    assert all(one.why for one in (first, second))


async def test_plan_says_what_will_happen_by_itself(project: GatedProject) -> None:
    (project.folder / "definitions.py").write_text(replies(BRIEFING + PEAK))
    planned = plan(project.store)
    assert {(one.noun, one.name, one.change) for one in planned.changes} >= {
        ("schedule", "precompute-replies", "new"),
        ("window", "peak", "new"),
    }
    (line,) = planned.schedules
    assert (line.name, line.outlook.stage, line.outlook.earliest) == ("precompute-replies", "waits", START + HOUR)
    assert project.store.schedules.list(project.scope) == {}  # A plan begins to count nothing.
    project.apply(replies(BRIEFING.replace("1h", "2h")))
    (project.folder / "definitions.py").write_text(replies(BRIEFING))
    (changed,) = (one for one in plan(project.store).changes if one.noun == "schedule")
    assert (changed.change, changed.fields) == ("changed", ("when",))


def candidate(project: GatedProject, like: Release, **changes: Any) -> str:
    """A release that a schedule's training made, validated."""
    application = msgspec.structs.replace(like.bundle.application, model="replies.v2", **changes)
    pin = ModelPin("replies.v2", "0" * 64, version="replies.v2")
    bundle = msgspec.structs.replace(like.bundle, application=application, model=pin)

    def add(connection: Connection) -> str:
        releases, author = project.store.releases, "schedule:retrain-replies"
        made = releases.add(bundle, project.scope, author, "trained", within=connection)
        releases.set_stage(project.scope, made.id, "validated", principal=author, reason="passed", within=connection)
        return made.id

    with project.store.database.transaction() as connection:
        return add(connection)


@pytest.mark.parametrize("project", ["dev", "prod"], indirect=True)
async def test_a_schedule_promotes_other_weights_and_nothing_that_a_person_has_to_approve(
    project: GatedProject,
) -> None:
    project.apply(replies(), activate=False)
    (first,) = project.store.releases.list(project.scope, "replies")
    with project.store.database.transaction() as connection:  # As another person does.
        project.store.releases.activate(project.scope, "replies", first.id, "bea", "approved", within=connection)
    live = project.live("replies")
    assert live is not None
    by = schedule_principal(project.scope.tenant, "retrain-replies")
    transitions = rollout_transitions(project.store)

    def require(release: str, by: Any = by, force: bool = False) -> None:
        transitions.require_permission(project.scope, "replies", release, reason="trained", by=by, force=force)

    require(candidate(project, live))
    other = msgspec.structs.replace(live.bundle.application.prompt, system="Sell more.")
    with pytest.raises(ForbiddenError, match="no retraining of what is live: its definitions are not those of release"):
        require(candidate(project, live, prompt=other))


WORTH = """
from antiphon import Precompute, every, requests
Precompute("replies", entities="questions.jsonl", when=every("1h"), value=3)
Precompute("replies", entities="questions.jsonl", when=requests(2), debounce="30s", name="after-a-burst")
"""


async def test_what_work_is_worth_is_told_and_stands_in_its_run(project: GatedProject) -> None:
    project.apply(replies(WORTH))
    look, _ = conducting(project)
    look.look()
    clock(project).advance(HOUR)
    look.look()
    (run,) = runs(project)
    assert run.value == 3.0
    assert {line.name: line.value for line in schedules(project).list()} == {
        "precompute-replies": 3.0,
        "after-a-burst": 1.0,
    }
    assert {one.what: one.value for one in upcoming_work(project.store, project.scope)} == {
        f"table_job {run.arguments['job']}": 3.0,
        "after-a-burst": None,
    }


async def test_requests_that_come_in_a_burst_cause_one_run_once_they_are_over(project: GatedProject) -> None:
    project.apply(replies(WORTH))
    look, _ = conducting(project)
    look.look()

    async def asked(after: float, times: int = 1) -> float:
        """Ask so many seconds later; the seconds until the conductor looks again."""
        clock(project).advance(timedelta(seconds=after))
        for _ in range(times):
            await project.ask(AnswerRequest(project.scope, ANN, "replies", question="When?"))
        return look.look()

    await asked(10, 2)
    line = {one.name: one for one in schedules(project).list()}["after-a-burst"]
    assert (line.outlook.stage, line.record.due_at) == ("waits", START + timedelta(seconds=10))
    assert "it waits until nothing new came for 30 s" in line.outlook.reason
    for _ in range(3):
        assert await asked(20) == 10.0
    assert runs(project) == []
    clock(project).advance(timedelta(seconds=29))
    assert look.look() == pytest.approx(1.0)
    clock(project).advance(timedelta(seconds=1))
    look.look()
    (run,) = runs(project)
    assert (run.schedule, run.cause) == ("after-a-burst", "2 of 2 new requests since 2026-06-01 12:00Z")
    # A new process knows since when it is calm.
    assert schedules(project).list()[0].record.calm_since == START + timedelta(seconds=70)


async def test_a_burst_that_does_not_end_is_waited_for_no_longer_than_its_bound(project: GatedProject) -> None:
    project.apply(replies(WORTH))
    look, _ = conducting(project)
    look.look()
    for _ in range(40):
        clock(project).advance(timedelta(seconds=10))
        await project.ask(AnswerRequest(project.scope, ANN, "replies", question="When?"))
        look.look()
    (run,) = (one for one in runs(project) if one.schedule == "after-a-burst")
    # The second request made it due.
    assert run.created_at == START + timedelta(seconds=20 + 300)


async def test_requests_that_the_forecast_expects_are_worked_for_beforehand(project: GatedProject) -> None:
    ahead = BRIEFING.replace('every("1h")', 'expected(2, within="1h")').replace("every", "expected")
    project.apply(replies(ahead))
    look, _ = conducting(project)
    for number in range(96):
        at = clock(project).now()
        asked = receipt(f"pred_{number}", scope=project.scope, application="replies", created_at=at)
        project.store.receipts.add(asked)
        look.look()
        assert runs(project) == []  # Nothing is expected before there was a day of requests.
        clock(project).advance(HOUR / 4)
    look.look()
    (run,) = runs(project)
    assert run.cause is not None
    assert run.cause.endswith("of 2 requests are expected within 1h")
    await work(project)
    clock(project).advance(HOUR / 2)
    look.look()
    assert len(runs(project)) == 1  # For the hour that was looked at it has been done.
    assert "counts from" in schedules(project).list()[0].outlook.reason


FORGETS = {"evaluation_set": "d", "evaluation": "e", "before": {}, "after": {}}


def trained(project: GatedProject, number: int, change: float | None, parent: str | None = "desk.v1") -> str:
    """A training that has ended and measured that the Brier score of what was known changed by so much."""
    store, runs = project.store, project.store.runs
    run = runs.submit(project.scope, TRAIN, {"application": "desk", "number": number})
    estimate = {"value": change, "low": (change or 0) - 0.01, "high": (change or 0) + 0.01}
    forgetting = None if change is None else FORGETS | {"difference": {"brier": estimate}}
    made = version(number, scope=project.scope, id=f"desk.v{number}", run=run, parent=parent)
    with store.database.transaction() as connection:
        store.models.add(made, within=connection)
    held = runs.claim("w", ServedRuns("dev", (TRAIN,), project.scope.tenant), HOUR)
    assert held is not None
    runs.end(held, {"forgetting": forgetting})
    return run


async def test_the_last_training_that_measured_what_it_forgot_is_found(project: GatedProject) -> None:
    text = DECLARED.replace('full_when=every("30d")', "full_when=forgetting(0.02)")
    (project.folder / "definitions.py").write_text(text)
    spec = load(project.folder)

    project.store.schedules.enroll(project.scope, spec.schedules)

    def forgotten() -> str:
        states = {one.spec.name: one for one in ScheduleStates(project.store, project.scope).of(spec)}
        return str(states["retrain-desk"].observed_full.forgotten)

    lines = {one.name: one.declared for one in schedule_lines(project.store, project.scope, spec)}
    assert lines["retrain-desk"] == "500 new outcomes or every 24h; in full at more than 0.02 forgotten"
    assert forgotten() == "None"
    clock(project).advance(HOUR)
    trained(project, 1, 0.5, parent=None)  # A full one.
    assert forgotten() == "None"
    trained(project, 2, 0.031)
    assert forgotten() == "0.031 of Brier score (0.021 to 0.041)"
    clock(project).advance(HOUR)
    trained(project, 3, None)
    assert forgotten().startswith("0.031")
    clock(project).advance(HOUR)
    trained(project, 4, -0.01)
    assert forgotten().startswith("-0.01")
