"""Failed runs that are queued again: with what they work on, as their schedule's open run, and on record."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.harness.gated_project import GatedProject
from tests.integration.services.test_gate_runs import obeys
from tests.integration.services.test_schedules import (
    BRIEFING,
    HOUR,
    START,
    clock,
    conducting,
    replies,
    runs,
    schedules,
    work,
)

from antiphon.core.clock import ManualClock
from antiphon.core.errors import ConflictError, ForbiddenError, InvalidInputError
from antiphon.durable.claims import ServedRuns
from antiphon.durable.run import Run, StepUnderWay
from antiphon.governance.audit.log import AuditFilter
from antiphon.governance.identity.principal import Principal
from antiphon.services.governance import identity
from antiphon.services.runs import ProjectRuns
from antiphon.services.workflows import OPENAI_BATCH, SKEW


@pytest.fixture
async def project(tmp_path: Path) -> AsyncIterator[GatedProject]:
    made = GatedProject(tmp_path, obeys, "dev")
    (tmp_path / "questions.jsonl").write_text('{"question": "Where is my order?"}\n{"question": "When?"}\n')
    made.store.database.clock = ManualClock(START)
    yield made
    await made.close()


def project_runs(project: GatedProject) -> ProjectRuns:
    return ProjectRuns(project.store, project.wired.features)


def administrator(project: GatedProject) -> Principal:
    return identity.at_terminal(project.store)


def fail(project: GatedProject, *under_way: StepUnderWay) -> Run:
    """Claim the run that is due and let it fail for good."""
    store = project.store
    held = store.runs.claim("worker", ServedRuns("dev"), HOUR)
    assert held is not None
    if "job" in held.arguments:
        store.jobs.set_status(project.scope, held.arguments["job"], "failed", error="The engine is gone.")
    store.runs.fail(held, "The engine is gone.", under_way=under_way)
    return store.runs.get(project.scope, held.id)


async def test_a_schedules_failed_job_is_its_open_run_again_and_is_finished(project: GatedProject) -> None:
    project.apply(replies(BRIEFING))
    look, _ = conducting(project)
    look.look()
    clock(project).advance(HOUR)
    look.look()
    run = fail(project)
    queued = project_runs(project).retry(project.scope, run.id, administrator(project), "the engine is back")
    assert (queued.id, queued.status, queued.schedule) == (run.id, "queued", "precompute-replies")
    clock(project).advance(HOUR)
    look.look()
    assert [one.id for one in runs(project)] == [run.id]
    assert schedules(project).list()[0].outlook.reason == f"its run {run.id} is queued"
    await work(project)
    assert project.store.runs.get(project.scope, run.id).status == "succeeded"
    assert project.store.jobs.get(project.scope, run.arguments["job"]).status == "completed"
    (entry,) = project.store.audit.query(project.scope, AuditFilter(action="run.retry"))
    assert (entry.subject, entry.detail["reason"]) == (run.id, "the engine is back")


async def test_a_run_is_not_retried_beside_another_one_of_its_schedule(project: GatedProject) -> None:
    project.apply(replies(BRIEFING))
    look, _ = conducting(project)
    look.look()
    clock(project).advance(HOUR)
    look.look()
    first = fail(project)
    clock(project).advance(HOUR)
    look.look()
    second = next(one for one in runs(project) if one.id != first.id)
    with pytest.raises(ConflictError, match=f"has another run open: {second.id}"):
        project_runs(project).retry(project.scope, first.id, administrator(project))
    assert project.store.runs.get(project.scope, first.id).status == "failed"
    assert project.store.jobs.get(project.scope, first.arguments["job"]).status == "failed"
    assert project.store.audit.query(project.scope, AuditFilter(action="run.retry")) == []
    clock(project).advance(timedelta(minutes=1))
    fail(project)
    project_runs(project).retry(project.scope, first.id, administrator(project))
    assert schedules(project).list()[0].record.run == first.id


async def test_a_fork_and_a_skipped_step_are_on_record(project: GatedProject) -> None:
    submit, service, who = project.store.runs.submit, project_runs(project), administrator(project)
    submit(project.scope, SKEW, {}, max_attempts=1)
    run = fail(project, StepUnderWay("compare"))
    fork = service.retry(project.scope, run.id, who, "", "compare")
    with pytest.raises(InvalidInputError, match="for a reason"):
        service.skip(project.scope, run.id, "compare", {"lines": 0}, who, " ")
    skipped = service.skip(project.scope, run.id, "compare", {"lines": 0}, who, "nothing to compare")
    assert (skipped.status, skipped.forked_to, fork.forked_from) == ("queued", fork.id, run.id)
    said = {entry.action: entry.detail for entry in project.store.audit.query(project.scope)}
    assert said["run.fork"] == {"reason": "", "name": "compare", "run": fork.id}
    assert said["run.skip"] == {"reason": "nothing to compare", "name": "compare"}


async def test_a_failed_run_is_retried_by_those_who_may_order_it(project: GatedProject) -> None:
    project.store.runs.submit(project.scope, SKEW, {}, max_attempts=1)
    run, service = fail(project, StepUnderWay("compare")), project_runs(project)
    viewer = Principal("eve", project.scope.tenant, "viewer")
    assert service.moves(project.scope, [run], administrator(project)) == {run.id: "retry"}
    assert service.moves(project.scope, [run], viewer) == {}
    with pytest.raises(ForbiddenError):
        service.retry(project.scope, run.id, viewer)
    with pytest.raises(ForbiddenError):
        service.skip(project.scope, run.id, "compare", {}, viewer, "mine")


async def test_a_batch_that_ended_is_not_queued_again(project: GatedProject) -> None:
    store = project.store
    ordered = {"application": "", "release": None, "input": "", "output": "", "principal": "ann", "job": "batch_1"}
    store.jobs.create(project.scope, **ordered)
    store.runs.submit(project.scope, OPENAI_BATCH, {"batch": "batch_1"}, max_attempts=1)
    run = fail(project)
    with pytest.raises(ConflictError, match="has the files of what was done"):
        project_runs(project).retry(project.scope, run.id, administrator(project))
    assert store.runs.get(project.scope, run.id).status == "failed"
