"""``antiphon runs``: executions of durable workflows."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from antiphon.cli.options import HERE, Json, Limit, Project, Reason
from antiphon.cli.outline import outline
from antiphon.cli.output import show, table
from antiphon.cli.project import allowed, at_terminal, services, stores

if TYPE_CHECKING:
    from antiphon.gateway.admin.shapes import RunLine

app = typer.Typer(name="runs", help="Executions of workflows.", no_args_is_help=True)

RunId = Annotated[str, typer.Argument(metavar="RUN", help="Its id.")]


@app.command("list")
def list_runs(limit: Limit = 20, project: Project = HERE, as_json: Json = False) -> None:
    """Runs, newest first, and why those that have not begun wait."""
    from antiphon.gateway.admin.shapes import run_lines
    from antiphon.services.conducting.run_waits import RunWaits

    with stores(project) as store:
        found = store.runs.list(store.scope, limit=limit)
        runs = run_lines(found, RunWaits(store).of(store.scope, found))
    head = ("run", "workflow", "status", "done", "total", "note", "created", "why")
    rows = [
        (run.id, run.workflow, run.status, run.done, run.total, run.note, run.created_at, _why(run)) for run in runs
    ]
    show(runs, as_json, lambda: table(head, rows))


def _why(run: RunLine) -> str:
    if run.wait is not None:
        return f"{run.wait.reason} (at the earliest {run.wait.earliest:%Y-%m-%d %H:%M:%S}Z)"
    return f"{run.schedule}: {run.cause}" if run.schedule else ""


@app.command()
def plan(project: Project = HERE, as_json: Json = False) -> None:
    """Work that is under way and to come, in the order in which it can begin, and what each waits for."""
    from antiphon.services.conducting.upcoming import upcoming_work

    with stores(project) as store:
        found = upcoming_work(store, store.scope)
    head = ("work", "state", "earliest", "deadline", "why", "run")
    rows = [(one.what, one.state, one.earliest, one.deadline, one.why, one.run) for one in found]
    show(found, as_json, lambda: table(head, rows, "There is no work to come."))


@app.command("show")
def show_run(run: RunId, project: Project = HERE, as_json: Json = False) -> None:
    """One run with its steps and, while it trains, the checkpoints that another worker would go on from."""
    from antiphon.catalog.learning.training_checkpoints import TrainingCheckpoints

    with stores(project) as store:
        found = {
            "run": msgspec.to_builtins(store.runs.get(store.scope, run)),
            "steps": msgspec.to_builtins(store.runs.steps(store.scope, run)),
        }
        if kept := TrainingCheckpoints(store.database).list(store.scope, run):
            found["checkpoints"] = msgspec.to_builtins(kept)
    show(found, as_json, lambda: outline(found))


@app.command()
def release(run: RunId, reason: Reason, project: Project = HERE, as_json: Json = False) -> None:
    """Let one run go past freezes and windows."""
    from antiphon.gateway.admin.shapes import RunLine, read
    from antiphon.services.conducting.schedules import ProjectSchedules

    with stores(project) as store:
        who = allowed(store, "administer", f"run/{run}")
        ProjectSchedules(store, store.scope).release(who.id, run, reason)
        found = read(store.runs.get(store.scope, run), RunLine)
    show(found, as_json, lambda: f"{found.id} ({found.status}) is held by nothing any more.")


@app.command()
def cancel(run: RunId, project: Project = HERE, as_json: Json = False) -> None:
    """Ask a run to stop at its next step."""
    from antiphon.gateway.admin.shapes import RunLine, read

    async def cancelled() -> RunLine:
        async with services(project) as (ports, store):
            # What the run works on ends with it: a job over a table, or a batch with the files of what was done.
            return read(await asyncio.to_thread(ports.work.runs.cancel, store.scope, run, at_terminal(store)), RunLine)

    found = asyncio.run(cancelled())
    show(found, as_json, lambda: f"{found.id} {found.status}")
