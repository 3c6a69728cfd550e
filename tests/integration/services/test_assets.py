"""Assets from definitions.py to runs: late days, outputs that come out equal, failures, crashes and changed code."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.catalogs import KINDS, catalog_url, postgres
from tests.harness.gated_project import MODEL_NAME, GatedProject
from tests.integration.services.test_gate_runs import REPLIES, SOUND, UNGATED, obeys
from tests.integration.services.test_schedules import conducting
from tests.unit.learning.evaluation.test_gates import GOOD

from antiphon.batch.orders import WORKFLOW as TABLE_JOB
from antiphon.core.clock import ManualClock
from antiphon.core.errors import ConflictError, InvalidInputError, NotFoundError, UnavailableError
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.run import ENDED, Run
from antiphon.governance.identity.principal import Principal
from antiphon.services.apply.apply import plan
from antiphon.services.batches import batch_context, table_jobs
from antiphon.services.conducting.assets import AssetPartLine, ProjectAssets
from antiphon.services.conducting.upcoming import upcoming_work
from antiphon.services.conducting.user_workflows import UserWorkflows
from antiphon.services.lineage.project import ProjectLineage
from antiphon.services.runs import ProjectRuns
from antiphon.services.workflows import USER_WORKFLOWS

ANN = Principal("ann", "default", "admin", "person", "restricted")
START = datetime(2026, 11, 5, 6, tzinfo=UTC)
MODULE = "asset_workflows"
WORKFLOWS = """
from pathlib import Path
from antiphon import daily, files, workflow

HERE = Path({folder!r})

def read(name):
    text = (HERE / name).read_text().strip()
    with (HERE / "log").open("a") as log:
        log.write(f"{{name}}\\n")
    if text == "bad":
        raise RuntimeError(f"{{name}} is bad")
    return text

@workflow(reads=[files("events/{{day}}.txt")], partitions=daily("2026-11-01"), attempts=1)
async def clean(run, day: str) -> dict:
    text = await run.step("read", read, f"events/{{day}}.txt")
    return {{"words": len(text.split())}}

@workflow(reads=[clean, files("rates.txt")])
async def total(run) -> dict:
    return {{"rate": await run.step("read", read, "rates.txt"), "run": run.id}}
"""
DEFINITIONS = f"""
from antiphon import Schedule, stale
from {MODULE} import clean, total
Schedule(clean, when=stale())
Schedule(total, when=stale())
"""
DAYS = ("2026-11-01", "2026-11-02", "2026-11-03", "2026-11-04")


@pytest.fixture
async def project(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[GatedProject]:
    (tmp_path / "events").mkdir()
    for day in DAYS:
        write_day(tmp_path, day, "one two")
    (tmp_path / "rates.txt").write_text("5")
    write_module(tmp_path)
    catalog = "" if getattr(request, "param", "sqlite") == "sqlite" else server(tmp_path / "server", monkeypatch)
    made = GatedProject(tmp_path, obeys, settings=catalog, own=f'workflow_modules = ["{MODULE}"]')
    made.store.database.clock = ManualClock(START)
    yield made
    await made.close()
    sys.modules.pop(MODULE, None)
    if str(tmp_path) in sys.path:
        sys.path.remove(str(tmp_path))


def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The settings of a catalog on PostgreSQL."""
    folder.mkdir()
    url = catalog_url(folder, "postgresql")
    monkeypatch.setenv("ASSETS_DATABASE", postgres().password)
    place = f"{url.partition('://')[0]}://{postgres().user}@{url.rpartition('@')[2]}"
    return f'[catalog]\nurl = "{place}"\npassword_variable = "ASSETS_DATABASE"\n'


def write_day(folder: Path, day: str, text: str) -> None:
    (folder / "events" / f"{day}.txt").write_text(text)


def write_module(folder: Path, change: tuple[str, str] = ("", "")) -> None:
    """Write the module anew, as an editor does; a process that starts then imports it."""
    (folder / f"{MODULE}.py").write_text(WORKFLOWS.format(folder=str(folder)).replace(*change))
    sys.modules.pop(MODULE, None)


def clock(project: GatedProject) -> ManualClock:
    found = project.store.database.clock
    assert isinstance(found, ManualClock)
    return found


def assets(project: GatedProject) -> ProjectAssets:
    return ProjectAssets(project.store, project.scope)


def parts(project: GatedProject, key: str) -> dict[str, AssetPartLine]:
    return {one.partition: one for one in assets(project).show(key).parts}


def stages(project: GatedProject, key: str) -> dict[str, str]:
    return {name: one.stage for name, one in parts(project, key).items()}


def log(project: GatedProject) -> list[str]:
    """What was read since this was asked last."""
    file = project.folder / "log"
    lines = file.read_text().splitlines() if file.exists() else []
    file.unlink(missing_ok=True)
    return lines


def runs(project: GatedProject) -> list[Run]:
    return [run for run in project.store.runs.list(project.scope, 200) if run.schedule is not None]


async def make_all(project: GatedProject, rounds: int = 40) -> list[str]:
    """Conduct and work by turns until nothing is ordered any more; what was read, in that order."""
    look, _ = conducting(project)
    before = log(project)
    for _ in range(rounds):
        clock(project).advance(timedelta(minutes=1))  # What was just made settles.
        known = len(runs(project))
        look.look()
        if len(runs(project)) == known:
            return before + log(project)
        await work(project)
    raise AssertionError("it does not come to rest")


async def work(project: GatedProject) -> None:
    """Do the runs that wait, as a worker does."""
    registry = WorkflowRegistry()
    for name in USER_WORKFLOWS.values():
        registry.add(name, UserWorkflows(project.store).run)
    jobs = table_jobs(project.store, project.wired.features, project.ask, batch_context(project.store, "worker"))
    registry.add(TABLE_JOB, jobs.run, shared=True)
    executor = Executor(project.store.database, registry, "worker", project.scope, poll=0.05)
    stop = asyncio.Event()
    working = asyncio.create_task(executor.run_until(stop))
    try:
        async with asyncio.timeout(30):
            while any(run.status not in ENDED for run in runs(project)):
                await asyncio.sleep(0.02)
    finally:
        stop.set()
        await working


@pytest.mark.parametrize("project", KINDS, indirect=True)
async def test_what_is_stale_is_made_inputs_first_one_partition_a_run(project: GatedProject) -> None:
    project.apply(DEFINITIONS)
    assert set(stages(project, "workflow/clean").values()) == {"stale"}
    told = {one.what: one.why for one in upcoming_work(project.store, project.scope)}
    assert told["workflow/clean 2026-11-03"] == "it was never made"
    assert await make_all(project) == [*(f"events/{day}.txt" for day in DAYS), "rates.txt"]
    assert assets(project).list(stale=True) == ()
    first = runs(project)[-1]
    assert (first.schedule, first.cause) == ("clean", "workflow/clean 2026-11-01: it was never made, and 3 more")
    assert first.arguments["arguments"] == {"day": "2026-11-01"}
    made = parts(project, "workflow/clean")["2026-11-01"]
    assert (made.stage, made.made_by, made.run) == ("current", first.id, first.id)
    assert list(made.made_of) == ["file/events/{day}.txt"]


async def test_the_lineage_of_a_run_names_what_it_was_made_of_and_leads_back_to_files(project: GatedProject) -> None:
    project.apply(DEFINITIONS)
    await make_all(project)
    run = parts(project, "workflow/total")[""].run
    assert run is not None
    graph = ProjectLineage(project.store).graph(project.scope, run, "upstream")
    found = {(node.kind, node.name) for node in graph.nodes}
    assert {("file", "rates.txt"), ("workflow", "clean"), ("file", "events/2026-11-01.txt")} <= found
    _, complete = ProjectLineage(project.store).events(project.scope, run)
    assert {one.name for one in complete.inputs} == {"workflow/clean", "file/rates.txt"}
    assert [one.name for one in complete.outputs] == ["workflow/total"]


async def test_a_late_day_is_made_with_what_follows_and_a_day_that_never_came_says_so(project: GatedProject) -> None:
    project.apply(DEFINITIONS)
    (project.folder / "events/2026-11-02.txt").unlink()
    assert "events/2026-11-02.txt" not in await make_all(project)
    waits = parts(project, "workflow/clean")["2026-11-02"]
    assert (waits.stage, waits.causes) == ("waits", ("file/events/2026-11-02.txt: there is no such file",))
    assert "it waits for file/events/2026-11-02.txt: there is no such file" in waits.reason
    total = parts(project, "workflow/total")[""]
    assert total.reason == "it was never made; it waits for workflow/clean 2026-11-02, which waits itself"
    told = {one.what: one.why for one in upcoming_work(project.store, project.scope)}
    assert "there is no such file" in told["clean"]
    assert "waits itself" in told["total"]
    write_day(project.folder, "2026-11-02", "three")
    assert await make_all(project) == ["events/2026-11-02.txt", "rates.txt"]


async def test_an_output_that_comes_out_equal_makes_nothing_anew(project: GatedProject) -> None:
    project.apply(DEFINITIONS)
    await make_all(project)
    write_day(project.folder, "2026-11-03", "other words")
    assert stages(project, "workflow/total") == {"": "waits"}
    assert await make_all(project) == ["events/2026-11-03.txt"]
    assert stages(project, "workflow/total") == {"": "current"}
    write_day(project.folder, "2026-11-03", "three other words")
    assert await make_all(project) == ["events/2026-11-03.txt", "rates.txt"]


async def test_a_day_that_fails_is_passed_over_and_tried_when_its_input_changes(project: GatedProject) -> None:
    project.apply(DEFINITIONS)
    write_day(project.folder, "2026-11-01", "bad")
    assert await make_all(project) == [f"events/{day}.txt" for day in DAYS]
    failed = parts(project, "workflow/clean")["2026-11-01"]
    assert failed.stage == "failed"
    assert "made again when an input or its definition changes" in failed.reason
    assert await make_all(project) == []
    (line,) = (one for one in assets(project).list(stale=True) if one.key == "workflow/clean")
    assert (line.stage, line.parts) == ("failed", {"failed": 1, "current": 3})
    write_day(project.folder, "2026-11-01", "good")
    assert await make_all(project) == ["events/2026-11-01.txt", "rates.txt"]


async def test_a_failed_run_that_is_retried_makes_its_part(project: GatedProject) -> None:
    project.apply(DEFINITIONS)
    write_day(project.folder, "2026-11-04", "bad")
    await make_all(project)
    run = parts(project, "workflow/clean")["2026-11-04"].run
    assert run is not None
    write_day(project.folder, "2026-11-04", "mended")
    ProjectRuns(project.store, project.wired.features).retry(project.scope, run, ANN)
    assert stages(project, "workflow/clean")["2026-11-04"] == "running"
    await work(project)
    # It was ordered with the file of before, so it is made once more of the one that there is.
    assert stages(project, "workflow/clean")["2026-11-04"] == "stale"
    await make_all(project)
    assert stages(project, "workflow/clean")["2026-11-04"] == "current"


@pytest.mark.parametrize("project", KINDS, indirect=True)
async def test_an_order_that_a_crash_left_uncounted_is_counted_as_what_it_makes(
    project: GatedProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.apply(DEFINITIONS)
    (project.folder / "events/2026-11-01.txt").unlink()
    look, _ = conducting(project)

    def dies(*_: Any, **__: Any) -> bool:
        raise UnavailableError("The process died here.", where="a test")

    with monkeypatch.context() as crash:
        crash.setattr(type(project.store.schedules), "advance", dies)
        with pytest.raises(UnavailableError):
            look.look()
    write_day(project.folder, "2026-11-01", "late")  # So that the next look would begin with it.
    conducting(project)[0].look()
    found = stages(project, "workflow/clean")
    assert (found["2026-11-01"], found["2026-11-02"]) == ("stale", "running")
    assert (runs(project)[0].cause or "").startswith("workflow/clean 2026-11-02: it was never made")
    await work(project)
    assert sorted(await make_all(project)) == sorted([*(f"events/{day}.txt" for day in DAYS), "rates.txt"])


async def test_changed_code_makes_its_parts_stale_and_plan_says_so(project: GatedProject) -> None:
    project.apply(DEFINITIONS)
    await make_all(project)
    write_module(project.folder, ("len(text.split())", "len(text)"))
    planned = plan(project.store)
    assert [(one.asset, one.parts, one.reason) for one in planned.stale] == [
        ("workflow/clean", 4, "its definition changed"),
        ("workflow/total", 1, "its definition changed; workflow/clean 2026-11-01 is made first"),
    ]
    assert assets(project).list(stale=True) == ()  # What is applied is what happens.
    project.apply(DEFINITIONS)
    assert await make_all(project) == [*(f"events/{day}.txt" for day in DAYS), "rates.txt"]


async def test_a_worker_with_other_code_than_was_applied_makes_nothing_by_it(project: GatedProject) -> None:
    project.apply(DEFINITIONS)
    write_module(project.folder, ("len(text.split())", "len(text)"))
    look, _ = conducting(project)
    look.look()
    assert runs(project) == []
    problem = project.store.schedules.get(project.scope, "clean").problem or ""
    assert "is another than what was applied" in problem
    assert "`antiphon restart worker`" in problem


async def test_a_partition_is_made_by_hand(project: GatedProject) -> None:
    project.apply(DEFINITIONS)
    _, orders = conducting(project)
    run = project.store.runs.get(project.scope, orders.begin("clean", ANN, "the board asks", "2026-11-03"))
    assert run.arguments["arguments"] == {"day": "2026-11-03"}
    assert stages(project, "workflow/clean")["2026-11-03"] == "running"
    with pytest.raises(ConflictError, match=run.id):
        orders.begin("clean", ANN, "again", "2026-11-02")
    await work(project)
    with pytest.raises(NotFoundError, match="no partition '2026-11-09'"):
        orders.begin("clean", ANN, "again", "2026-11-09")
    with pytest.raises(InvalidInputError, match="workflow/total has no partitions"):
        orders.begin("total", ANN, "why", "2026-11-03")
    await make_all(project)
    with pytest.raises(InvalidInputError, match="No partition of workflow/clean is stale"):
        orders.begin("clean", ANN, "why")


async def test_a_day_that_is_over_is_made_when_it_comes(project: GatedProject) -> None:
    project.apply(DEFINITIONS)
    await make_all(project)
    (line,) = (one for one in assets(project).list() if one.key == "workflow/clean")
    assert (line.parts, line.made_by, line.when) == ({"current": 4}, "clean", "what it makes is stale")
    write_day(project.folder, "2026-11-05", "today so far")
    assert await make_all(project) == []
    clock(project).advance(timedelta(hours=19))
    assert await make_all(project) == ["events/2026-11-05.txt", "rates.txt"]


async def test_answers_are_made_anew_when_the_live_release_or_their_entities_are_others(
    project: GatedProject,
) -> None:
    (project.folder / "questions.jsonl").write_text('{"question": "When?"}\n')
    answers = (
        '\nfrom antiphon import Precompute, stale\nPrecompute("replies", entities="questions.jsonl", when=stale())'
    )
    definitions = REPLIES.format(model=MODEL_NAME, system=SOUND, more=UNGATED) + answers
    project.apply(definitions)
    await make_all(project)
    assert [run.workflow for run in runs(project)] == [TABLE_JOB]
    assert stages(project, "answers/replies") == {"": "current"}
    detail = assets(project).show("answers/replies")
    assert detail.asset.reads == ("release/replies", "file/questions.jsonl")
    (project.folder / "questions.jsonl").write_text('{"question": "When?"}\n{"question": "Where?"}\n')
    (part,) = assets(project).show("answers/replies").parts
    assert (part.stage, part.reason) == ("stale", "file/questions.jsonl changed")
    await make_all(project)
    assert len(runs(project)) == 2
    project.apply(definitions.replace(SOUND, f"{SOUND} Be kind."))
    (part,) = assets(project).show("answers/replies").parts
    assert (part.stage, part.reason) == ("stale", "release/replies changed")


def test_an_evaluation_is_stale_when_another_release_is_live_and_not_by_that_of_a_candidate(
    project: GatedProject,
) -> None:
    definitions = REPLIES.format(model=MODEL_NAME, system=SOUND, more=UNGATED)
    declared = '\nfrom antiphon import Evaluate, stale\nEvaluate("replies", when=stale())\n'
    project.apply(definitions + declared)

    def stage() -> tuple[str, str]:
        (part,) = assets(project).show("evaluation/replies").parts
        return part.stage, part.reason

    def measure(name: str, release: str | None, minutes: int) -> None:
        at = START + timedelta(minutes=minutes)
        fields = {"id": name, "application": "replies", "release": release, "created_at": at}
        project.store.evaluations.add(msgspec.structs.replace(GOOD, scope=project.scope, **fields))

    assert stage() == ("stale", "it was never made")
    first = project.live_id("replies")
    measure("eval_1", first, 0)
    measure("eval_2", "rel_candidate", 1)
    assert stage() == ("current", "it is made of what there is")
    project.apply(definitions.replace(SOUND, f"{SOUND} Be kind.") + declared)
    assert project.live_id("replies") != first
    assert stage() == ("stale", "release/replies changed")
    measure("eval_3", project.live_id("replies"), 2)
    assert stage() == ("current", "it is made of what there is")


def test_an_asset_that_is_not_there_is_answered_with_the_nearest(project: GatedProject) -> None:
    project.apply(DEFINITIONS)
    with pytest.raises(NotFoundError, match="no asset 'workflow/claen'") as refused:
        assets(project).show("workflow/claen")
    assert "Did you mean 'workflow/clean'?" in str(refused.value.next_step)
