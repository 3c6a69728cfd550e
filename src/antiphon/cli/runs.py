"""``antiphon runs``: executions of durable workflows."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
import typer

from antiphon.cli.options import HERE, Json, Limit, Project
from antiphon.cli.outline import outline
from antiphon.cli.output import show, table
from antiphon.cli.project import at_terminal, services, stores

app = typer.Typer(name="runs", help="Executions of workflows.", no_args_is_help=True)

RunId = Annotated[str, typer.Argument(metavar="RUN", help="Its id.")]


@app.command("list")
def list_runs(limit: Limit = 20, project: Project = HERE, as_json: Json = False) -> None:
    """Runs, newest first."""
    from antiphon.gateway.admin.shapes import RunLine, read_all

    with stores(project) as store:
        runs = read_all(store.runs.list(store.scope, limit=limit), RunLine)
    rows = [(run.id, run.workflow, run.status, run.done, run.total, run.note, run.created_at) for run in runs]
    show(runs, as_json, lambda: table(("run", "workflow", "status", "done", "total", "note", "created"), rows))


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
def cancel(run: RunId, project: Project = HERE, as_json: Json = False) -> None:
    """Ask a run to stop at its next step."""
    from antiphon.gateway.admin.shapes import RunLine, read

    async def cancelled() -> RunLine:
        async with services(project) as (ports, store):
            # What the run works on ends with it: a job over a table, or a batch with the files of what was done.
            return read(await asyncio.to_thread(ports.work.runs.cancel, store.scope, run, at_terminal(store)), RunLine)

    found = asyncio.run(cancelled())
    show(found, as_json, lambda: f"{found.id} {found.status}")
