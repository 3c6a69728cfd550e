"""Workflows of the user's own: steps that are done once, code that changed, arguments that do not fit."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.harness.gated_project import GatedProject
from tests.integration.services.test_gate_runs import obeys
from tests.integration.services.test_schedules import conducting

from antiphon.core.errors import ConflictError, InvalidDefinitionsError, InvalidInputError, NotFoundError, SetupError
from antiphon.core.ids import content_hash
from antiphon.durable.claims import ServedRuns
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.run import ENDED, Run
from antiphon.governance.identity.principal import Principal
from antiphon.services.conducting.schedule_lines import schedule_lines
from antiphon.services.conducting.user_workflows import UserWorkflows
from antiphon.services.governance.identity import at_terminal
from antiphon.services.runs import ProjectRuns
from antiphon.services.workflows import USER_WORKFLOWS

ANN = Principal("ann", "default", "admin", "person", "restricted")
MODULE = "workflows_of_a_test"
REPORTS = """
from pathlib import Path

from antiphon import workflow

LOG = Path({log!r})

def write(part, word):
    with LOG.open("a") as file:
        file.write(f"{{word}} {{part}}\\n")
    if (LOG.parent / f"fail {{part}}").exists():
        raise RuntimeError(f"part {{part}} fails")
    return part

@workflow(work="batch", attempts=5)
async def nightly_report(run, parts: int = 2) -> dict:
    for number in range(parts):
        run.progress(number, parts)
        await run.step(f"write {{number}}", write, number, "{word}")
    return {{"parts": parts}}
"""
DEFINITIONS = """
from antiphon import Schedule, every
from workflows_of_a_test import nightly_report
Schedule(nightly_report, {more})
"""


@pytest.fixture
async def project(tmp_path: Path) -> AsyncIterator[GatedProject]:
    write_module(tmp_path)
    made = GatedProject(tmp_path, obeys, own=f'workflow_modules = ["{MODULE}"]')
    yield made
    await made.close()
    sys.modules.pop(MODULE, None)
    if str(tmp_path) in sys.path:
        sys.path.remove(str(tmp_path))


def write_module(folder: Path, word: str = "wrote") -> None:
    """Write the module anew, as an editor does; a process that starts then imports it."""
    (folder / f"{MODULE}.py").write_text(REPORTS.format(log=str(folder / "log"), word=word))
    sys.modules.pop(MODULE, None)


def log(project: GatedProject) -> list[str]:
    file = project.folder / "log"
    return file.read_text().splitlines() if file.exists() else []


def begin(project: GatedProject, more: str = "") -> str:
    project.apply(DEFINITIONS.format(more=more))
    look, orders = conducting(project)
    look.look()
    return orders.begin("nightly-report", ANN, "the board asks")


async def work(project: GatedProject, run: str, until: str | None = None) -> Run:
    """Work as one worker does until the run has ended, or its error says something."""
    registry = WorkflowRegistry()
    for name in USER_WORKFLOWS.values():
        registry.add(name, UserWorkflows(project.store).run)
    executor = Executor(project.store.database, registry, "worker", project.scope, poll=0.05)
    stop = asyncio.Event()
    working = asyncio.create_task(executor.run_until(stop))
    try:
        async with asyncio.timeout(20):
            while (found := project.store.runs.get(project.scope, run)).status not in ENDED:
                if until is not None and until in (found.error or ""):
                    break
                await asyncio.sleep(0.02)
    finally:
        stop.set()
        await working
    return project.store.runs.get(project.scope, run)


async def test_a_workflow_runs_with_its_arguments_and_its_result_is_kept(project: GatedProject) -> None:
    run = await work(project, begin(project, 'arguments={"parts": 3}'))
    assert (run.status, run.result) == ("succeeded", {"result": {"parts": 3}})
    assert (run.schedule, run.cause) == ("nightly-report", "begun by ann: the board asks")
    assert (run.workflow, log(project)) == ("user-batch", ["wrote 0", "wrote 1", "wrote 2"])


async def test_a_step_that_is_done_is_not_done_again_after_a_failure(project: GatedProject) -> None:
    (project.folder / "fail 1").touch()
    run = begin(project)
    await work(project, run, until="part 1 fails")
    (project.folder / "fail 1").unlink()
    assert (await work(project, run)).status == "succeeded"
    assert log(project).count("wrote 0") == 1
    assert log(project).count("wrote 1") >= 2


async def test_a_run_does_not_go_on_under_other_code_than_its_steps(project: GatedProject) -> None:
    (project.folder / "fail 1").touch()
    run = begin(project)
    await work(project, run, until="part 1 fails")
    write_module(project.folder, "rewrote")
    (project.folder / "fail 1").unlink()
    ended = await work(project, run)
    assert ended.status == "failed"
    assert ended.error is not None
    assert "The code of nightly_report is another than that of the steps that are done" in ended.error
    assert "rewrote 1" not in log(project)


async def test_a_run_that_did_nothing_yet_begins_under_the_code_that_there_is(project: GatedProject) -> None:
    run = begin(project)
    write_module(project.folder, "rewrote")
    assert (await work(project, run)).status == "succeeded"
    assert log(project) == ["rewrote 0", "rewrote 1"]


async def test_a_worker_with_older_code_than_the_file_waits_to_be_restarted(project: GatedProject) -> None:
    first = project.store.runs.get(project.scope, begin(project))  # This process has imported the module.
    await work(project, first.id)
    text = REPORTS.format(log=str(project.folder / "log"), word="rewrote")
    (project.folder / f"{MODULE}.py").write_text(text)
    # As another process orders, which has the new code.
    arguments = first.arguments | {"code": content_hash(text.encode())}
    run = project.store.runs.submit(project.scope, first.workflow, arguments)
    ended = await work(project, run, until="`antiphon restart worker`")
    assert ended.status == "queued"
    assert log(project) == ["wrote 0", "wrote 1"]


@pytest.mark.parametrize(
    ("own", "body", "part"),
    [
        ("", 'raise TimeoutError("the source is slow")', "raised TimeoutError: the source is slow"),
        (", timeout=0.05", "await asyncio.sleep(60)", "took longer than 0.05 s"),
    ],
)
async def test_an_attempt_that_takes_too_long_says_whose_bound_it_was(
    project: GatedProject, own: str, body: str, part: str
) -> None:
    text = REPORTS.format(log=str(project.folder / "log"), word="wrote").replace("attempts=5", f"attempts=1{own}")
    text = text.replace('    return {"parts": parts}', f"    {body}")
    (project.folder / f"{MODULE}.py").write_text(f"import asyncio\n{text}")
    sys.modules.pop(MODULE, None)
    ended = await work(project, begin(project))
    assert ended.status == "failed"
    assert part in (ended.error or "")


@pytest.mark.parametrize(
    ("more", "part"),
    [
        ('arguments={"parts": "many"}', "arguments of 'nightly_report': Expected `int`, got `str`"),
        ('arguments={"days": 7}', "arguments of 'nightly_report': Object contains unknown field `days`"),
        ("when=outcomes(5)", "5 new outcomes is of an application; give application"),
        ('when=every("1h"), ready_by="06:00"', "give when or ready_by, or neither, and not both"),
    ],
)
def test_a_schedule_that_cannot_work_is_refused_with_its_line(project: GatedProject, more: str, part: str) -> None:
    with pytest.raises(InvalidDefinitionsError, match=part):
        project.apply(
            DEFINITIONS.format(more=more).replace("import Schedule, every", "import Schedule, every, outcomes")
        )


async def test_a_module_that_the_settings_do_not_name_is_not_imported(tmp_path: Path) -> None:
    write_module(tmp_path)
    made = GatedProject(tmp_path, obeys)
    try:
        made.apply(DEFINITIONS.format(more=""))
        look, orders = conducting(made)
        look.look()
        with pytest.raises(SetupError, match=f"Functions of the module '{MODULE}' are not called here"):
            orders.begin("nightly-report", ANN, "why")
    finally:
        await made.close()
        sys.modules.pop(MODULE, None)


async def test_what_is_begun_by_hand_has_a_name_a_reason_and_one_run_at_a_time(project: GatedProject) -> None:
    run = begin(project)
    _, orders = conducting(project)
    with pytest.raises(ConflictError, match=run):
        orders.begin("nightly-report", ANN, "again")
    with pytest.raises(NotFoundError, match="no schedule 'nightly'"):
        orders.begin("nightly", ANN, "why")
    with pytest.raises(InvalidInputError, match="for a reason"):
        orders.begin("nightly-report", ANN, " ")


async def test_a_schedule_without_a_time_says_that_it_is_begun_by_hand(project: GatedProject) -> None:
    project.apply(DEFINITIONS.format(more=""))
    (line,) = schedule_lines(project.store, project.scope, project.store.applied.project(project.scope))
    assert (line.outlook.stage, line.outlook.reason, line.declared) == ("waits", "it is begun by hand", "by hand")


ORDERS = """
from pathlib import Path

from antiphon import workflow

LOG = Path({log!r})

def write(word):
    with LOG.open("a") as file:
        file.write(word + "\\n")
    if (LOG.parent / f"fail {{word}}").exists():
        raise ValueError(f"{{word}} fails")
    return word

@workflow(attempts={attempts}, backoff="10ms", longest_backoff="20ms"{own})
async def nightly_report(run) -> dict:
    kept = await run.step("reserve", write, "reserve", undo=lambda done: write(f"undo {{done}}{word}"))
    await run.step("send", write, "send")
    return {{"kept": kept}}
"""


def write_orders(folder: Path, own: str = "", word: str = "", attempts: int = 1) -> None:
    text = ORDERS.format(log=str(folder / "log"), own=own, word=word, attempts=attempts)
    (folder / f"{MODULE}.py").write_text(text)
    sys.modules.pop(MODULE, None)


async def test_steps_of_a_workflow_are_undone_when_it_fails_for_good(project: GatedProject) -> None:
    write_orders(project.folder)
    (project.folder / "fail send").touch()
    ended = await work(project, begin(project))
    assert log(project) == ["reserve", "send", "undo reserve"]
    assert (ended.status, ended.rollback) == ("failed", "done")
    assert ended.error is not None
    assert ended.error.endswith("nightly_report raised ValueError: send fails.")
    runs = ProjectRuns(project.store, project.wired.features)
    told = runs.rollback(project.scope, ended.id)
    assert told is not None
    assert (told.undone, told.left) == (("reserve",), ())
    (project.folder / "fail send").unlink()
    again = runs.retry(project.scope, ended.id, at_terminal(project.store))
    assert (again.id != ended.id, again.schedule) == (True, "nightly-report")
    assert (await work(project, again.id)).status == "succeeded"
    assert project.store.schedules.list(project.scope)["nightly-report"].run == again.id


async def test_an_undoing_that_fails_says_why_and_is_tried_as_often_as_a_run(project: GatedProject) -> None:
    write_orders(project.folder, attempts=2)
    for name in ("fail send", "fail undo reserve"):
        (project.folder / name).touch()
    ended = await work(project, begin(project))
    assert log(project) == ["reserve", "send", "send", "undo reserve", "undo reserve"]
    assert ended.error is not None
    assert ended.error.endswith("nightly_report raised ValueError: undo reserve fails.")
    assert ended.error.startswith("Its rollback failed: ")
    (project.folder / "fail undo reserve").unlink()
    ProjectRuns(project.store, project.wired.features).retry(project.scope, ended.id, at_terminal(project.store))
    done = await work(project, ended.id)
    assert (done.rollback, done.status) == ("done", "failed")


async def test_a_workflow_may_keep_what_it_did(project: GatedProject) -> None:
    write_orders(project.folder, ', rollback="on_cancel"')
    (project.folder / "fail send").touch()
    ended = await work(project, begin(project))
    assert (ended.status, ended.rollback, log(project)) == ("failed", None, ["reserve", "send"])


async def test_a_rollback_under_other_code_waits_for_the_old_or_for_a_person(project: GatedProject) -> None:
    write_orders(project.folder)
    (project.folder / "fail send").touch()
    run = begin(project)
    held = project.store.runs.claim("w", ServedRuns("dev"), timedelta(hours=1))
    assert held is not None
    project.store.runs.record(held, "reserve", 0, "reserve", held.created_at, "always")
    project.store.runs.fail(held, "It is broken.")
    write_orders(project.folder, word=" otherwise")
    ended = await work(project, run)
    assert ended.error is not None
    assert "Its rollback failed: " in ended.error
    assert "Put back the code that it was ordered under" in ended.error
    runs, who = ProjectRuns(project.store, project.wired.features), at_terminal(project.store)
    with pytest.raises(ConflictError, match="has no step 'undo send' left"):
        runs.skip(project.scope, run, "undo send", None, who, "done by hand")
    runs.skip(project.scope, run, "undo reserve", None, who, "done by hand")
    done = await work(project, run)
    assert (done.status, done.error, done.rollback, log(project)) == ("failed", "It is broken.", "done", [])


async def test_a_run_whose_steps_are_being_undone_is_not_canceled(project: GatedProject) -> None:
    write_orders(project.folder)
    run = begin(project)
    held = project.store.runs.claim("w", ServedRuns("dev"), timedelta(hours=1))
    assert held is not None
    project.store.runs.record(held, "reserve", 0, "reserve", held.created_at, "always")
    project.store.runs.give_back(held)
    runs, who = ProjectRuns(project.store, project.wired.features), at_terminal(project.store)
    assert runs.cancel(project.scope, run, who).rollback == "cancelled"
    with pytest.raises(ConflictError, match="are being undone"):
        runs.cancel(project.scope, run, who)
    assert (await work(project, run)).status == "cancelled"
    assert log(project) == ["undo reserve"]


@pytest.mark.parametrize(
    ("own", "tries"),
    [("", 3), (", final=(ValueError,)", 1), (", final=(LookupError,)", 3), (", final=(Exception,)", 1)],
)
async def test_what_is_final_is_not_tried_again(project: GatedProject, own: str, tries: int) -> None:
    write_orders(project.folder, own, attempts=3)
    (project.folder / "fail send").touch()
    ended = await work(project, begin(project))
    assert ended.status == "failed"
    assert log(project) == ["reserve", *["send"] * tries, "undo reserve"]


@pytest.mark.parametrize(
    ("own", "part"),
    [
        (', rollback="perhaps"', "rollback is one of always, on_failure, on_cancel, never, not 'perhaps'"),
        (', backoff="2s", longest_backoff="1s"', "backoff is above 0 and at most longest_backoff"),
        (', backoff="soon"', "'soon' is not a duration"),
        (", final=(ValueError('x'),)", "is no class of errors"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(project: GatedProject, own: str, part: str) -> None:
    write_orders(project.folder)
    text = (project.folder / f"{MODULE}.py").read_text()
    (project.folder / f"{MODULE}.py").write_text(text.replace(', backoff="10ms", longest_backoff="20ms"', own))
    with pytest.raises(InvalidInputError, match=part):
        project.apply(DEFINITIONS.format(more=""))
