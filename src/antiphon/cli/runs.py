"""``antiphon runs``: executions of durable workflows."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, cast

import msgspec
import typer

from antiphon.cli.options import HERE, Json, Limit, Project, Reason
from antiphon.cli.outline import outline
from antiphon.cli.output import show, table
from antiphon.cli.project import allowed, at_terminal, services, stores

if TYPE_CHECKING:
    from antiphon.durable.run import RunStatus
    from antiphon.gateway.admin.shapes import RunLine

app = typer.Typer(name="runs", help="Executions of workflows.", no_args_is_help=True)

RunId = Annotated[str, typer.Argument(metavar="RUN", help="Its id.")]


@app.command("list")
def list_runs(
    limit: Limit = 20,
    status: Annotated[str, typer.Option("--status", help="Only of this status, such as failed.")] = "",
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Runs, newest first, and why those that have not begun wait."""
    from antiphon.gateway.admin.shapes import run_lines
    from antiphon.services.conducting.run_waits import RunWaits

    with stores(project) as store:
        found = store.runs.list(store.scope, limit=limit, status=_status(status))
        runs = run_lines(found, RunWaits(store).of(store.scope, found))
    head = ("run", "workflow", "status", "done", "total", "note", "created", "why")
    rows = [
        (run.id, run.workflow, run.status, run.done, run.total, run.note, run.created_at, _why(run)) for run in runs
    ]
    show(runs, as_json, lambda: table(head, rows))


def _status(name: str) -> RunStatus | None:
    from typing import get_args

    from antiphon.core.errors import InvalidInputError
    from antiphon.durable.run import RunStatus

    for known in get_args(RunStatus):
        if name == known:
            return cast("RunStatus", known)
    if name:
        raise InvalidInputError(
            f"There is no status {name!r}.",
            where="--status",
            next_step=f"Choose one of {', '.join(get_args(RunStatus))}.",
        )
    return None


def _why(run: RunLine) -> str:
    if run.error is not None and run.status == "failed":
        return run.error
    if run.paused_by is not None and run.wait is None:
        return f"paused by {run.paused_by}"  # It is being given back, or its worker died.
    if run.wait is not None:
        return f"{run.wait.reason} (at the earliest {run.wait.earliest:%Y-%m-%d %H:%M:%S}Z)"
    return f"{run.schedule}: {run.cause}" if run.schedule else ""


@app.command()
def plan(project: Project = HERE, as_json: Json = False) -> None:
    """Work that is under way and to come, in the order in which it can begin, and what each waits for."""
    from antiphon.services.conducting.upcoming import upcoming_work

    with stores(project) as store:
        found = upcoming_work(store, store.scope)
    head = ("work", "state", "earliest", "deadline", "value", "why", "run")
    rows = [
        (
            one.what,
            one.state,
            one.earliest,
            one.deadline,
            None if one.value is None else f"{one.value:g}",
            one.why,
            one.run,
        )
        for one in found
    ]
    show(found, as_json, lambda: table(head, rows, "There is no work to come."))


@app.command("show")
def show_run(run: RunId, project: Project = HERE, as_json: Json = False) -> None:
    """One run with its steps, which of them were undone, its attempts that failed and, while it trains, the checkpoints
    that another worker would go on from."""
    from antiphon.catalog.learning.training_checkpoints import TrainingCheckpoints
    from antiphon.durable.attempts import RunAttempts
    from antiphon.durable.rollbacks import rollback_of

    with stores(project) as store:
        steps = store.runs.steps(store.scope, run)
        found = {
            "run": msgspec.to_builtins(store.runs.get(store.scope, run)),
            "steps": msgspec.to_builtins(steps),
        }
        if (rolled_back := rollback_of(steps)) is not None:
            found["rollback"] = msgspec.to_builtins(rolled_back)
        if failed := RunAttempts(store.database).list(store.scope, run):
            found["attempts"] = msgspec.to_builtins(failed)
        if kept := TrainingCheckpoints(store.database).list(store.scope, run):
            found["checkpoints"] = msgspec.to_builtins(kept)
    show(found, as_json, lambda: outline(found))


@app.command()
def exempt(run: RunId, reason: Reason, project: Project = HERE, as_json: Json = False) -> None:
    """Let one run go past freezes and windows."""
    from antiphon.gateway.admin.shapes import RunLine, read
    from antiphon.services.conducting.schedules import ProjectSchedules

    with stores(project) as store:
        who = allowed(store, "administer", f"run/{run}")
        ProjectSchedules(store, store.scope).exempt(who.id, run, reason)
        found = read(store.runs.get(store.scope, run), RunLine)
    show(found, as_json, lambda: f"{found.id} ({found.status}) is held by nothing any more.")


@app.command()
def cancel(run: RunId, project: Project = HERE, as_json: Json = False) -> None:
    """Ask a run to stop at its next step; what it did is undone where its workflow says how."""
    from antiphon.gateway.admin.shapes import RunLine, read

    async def cancelled() -> RunLine:
        async with services(project) as (ports, store):
            # What the run works on ends with it: a job over a table, or a batch with the files of what was done.
            return read(await asyncio.to_thread(ports.work.runs.cancel, store.scope, run, at_terminal(store)), RunLine)

    found = asyncio.run(cancelled())
    undone = f"; its steps are undone first: `antiphon runs show {found.id}`" if found.rollback == "cancelled" else ""
    show(found, as_json, lambda: f"{found.id} {found.status}{undone}")


@app.command()
def pause(run: RunId, reason: Reason, project: Project = HERE, as_json: Json = False) -> None:
    """Let nobody work on a run until it is resumed, also after a restart; what it did so far stays."""
    from antiphon.gateway.admin.shapes import RunLine, read

    async def paused() -> RunLine:
        async with services(project) as (ports, store):
            pausing = ports.work.runs.pause
            return read(await asyncio.to_thread(pausing, store.scope, run, at_terminal(store), reason), RunLine)

    found = asyncio.run(paused())
    show(found, as_json, lambda: f"{found.id} is paused.", f"`antiphon runs resume {found.id}` lets it go on.")


@app.command()
def resume(run: RunId, project: Project = HERE, as_json: Json = False) -> None:
    """Let a paused run go on from where it was."""
    from antiphon.gateway.admin.shapes import RunLine, read

    async def resumed() -> RunLine:
        async with services(project) as (ports, store):
            return read(await asyncio.to_thread(ports.work.runs.resume, store.scope, run, at_terminal(store)), RunLine)

    found = asyncio.run(resumed())
    show(found, as_json, lambda: f"{found.id} {found.status}")


@app.command()
def retry(
    run: RunId,
    reason: Reason = "",
    from_step: Annotated[
        str, typer.Option("--from", help="Begin another run, with the records of this one before a step of this name.")
    ] = "",
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Queue a run again that failed, from where it was."""
    from antiphon.gateway.admin.shapes import RunLine, read

    async def retried() -> RunLine:
        async with services(project) as (ports, store):
            queue = ports.work.runs.retry
            return read(
                await asyncio.to_thread(queue, store.scope, run, at_terminal(store), reason, from_step), RunLine
            )

    found = asyncio.run(retried())
    before = f" with the records of {found.forked_from}" if from_step else ""
    show(found, as_json, lambda: f"{found.id} {found.status}{before}")


@app.command()
def skip(
    run: RunId,
    step: Annotated[str, typer.Argument(metavar="STEP", help="The step at which it failed.")],
    result: Annotated[str, typer.Option("--result", help="Its result, as JSON.")],
    reason: Reason,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Record a step's result by hand, and queue the run again."""
    from antiphon.core.errors import InvalidInputError
    from antiphon.gateway.admin.shapes import RunLine, read

    try:
        value = msgspec.json.decode(result)
    except msgspec.DecodeError as error:
        raise InvalidInputError(
            f"The result is no JSON: {error}.", where="--result", next_step="Write a number, a text in quotes or {…}."
        ) from None

    async def skipped() -> RunLine:
        async with services(project) as (ports, store):
            record = ports.work.runs.skip
            who = at_terminal(store)
            return read(await asyncio.to_thread(record, store.scope, run, step, value, who, reason), RunLine)

    found = asyncio.run(skipped())
    show(found, as_json, lambda: f"{found.id} {found.status} past {step}")
