"""``antiphon batch``: an application over a table, and batches of OpenAI's API beside it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from antiphon.cli import entity as entities
from antiphon.cli.options import HERE, Json, Limit, OtherRelease, Project
from antiphon.cli.outline import outline
from antiphon.cli.output import Progress, show, table
from antiphon.cli.project import at_terminal, require_worker, services
from antiphon.core.errors import AntiphonError, InvalidInputError
from antiphon.definitions.objects import is_objects

if TYPE_CHECKING:
    from antiphon.batch.orders import TableOrder
    from antiphon.gateway.admin.shapes import BatchLine, BatchOutlook

app = typer.Typer(name="batch", help="Batch jobs.", no_args_is_help=True)

_HEAD = ("job", "kind", "application", "status", "done", "failed", "total", "created", "ends")
_POLL = 0.25


class JobError(AntiphonError):
    """The job ended without completing."""

    code = "job_failed"


class RowError(AntiphonError):
    """The job came to its end, and some of its rows failed."""

    exit_code = 8
    code = "rows_failed"


@app.command()
def run(
    application: Annotated[str, typer.Argument(help="The application that answers.")],
    input: Annotated[
        str,
        typer.Option(
            metavar="PATH",
            help="Parquet, CSV or JSON Lines with the entity's key columns, or a folder of documents, a row each.",
        ),
    ],
    output: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Where the answers go, one row out per row in; --precompute needs none.",
            show_default=False,
        ),
    ] = None,
    as_of: entities.AsOf = "",
    release: OtherRelease = "",
    precompute: Annotated[
        bool,
        typer.Option(
            "--precompute",
            help="Store the answers for the online path, and make anew only those whose figures have changed.",
        ),
    ] = False,
    key: Annotated[str, typer.Option(help="Orders with the same key are one job.")] = "",
    within: Annotated[str, typer.Option(help="How soon it should have ended, for example 6h.")] = "",
    accept_late: Annotated[bool, typer.Option("--accept-late", help="Order it even if it cannot end in time.")] = False,
    max_failed_rows: Annotated[int | None, typer.Option(min=0, help="End the job once more rows have failed.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show rows, tokens, end and cost; order nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it has ended.")] = True,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Answer every row of a table. It survives a crash; Ctrl-C stops the waiting, not the job."""
    from antiphon.batch.orders import TableOrder

    if output is None and not (precompute or dry_run):
        raise InvalidInputError(
            "`antiphon batch run` is not told where the answers go.",
            where="--output",
            next_step="Name a file with --output, or pass --precompute to store the answers for the online path alone.",
        )
    order = TableOrder(
        application=application,
        input=_table_at(input),
        output=None if output is None else _table_at(output),
        as_of=entities.moment(as_of),
        release=release or None,
        precompute=precompute,
        key=key or None,
        within=within or None,
        accept_late=accept_late,
        max_failed_rows=max_failed_rows,
    )
    if dry_run:
        outlook = asyncio.run(_outlook(project, order))
        return show(outlook, as_json, lambda: _foreseen(outlook))
    job = asyncio.run(_place(project, order, wait))
    show(job, as_json, lambda: _table([job]))
    if wait and job.status != "completed":
        raise JobError(
            f"The job is {job.status}: {job.error or 'no reason was given'}.",
            where=job.id,
            next_step="Look into .antiphon/logs/worker.log, mend the cause, run the command again.",
        )
    if wait and job.rows_failed:
        said = f"Their rows in {output} say why" if output is not None else "Run it with --output to see why"
        raise RowError(
            f"{job.rows_failed} of {job.rows_done} rows failed.",
            where=job.id,
            next_step=f"{said}, in the column answer_error.",
        )


@app.command("list")
def list_jobs(limit: Limit = 20, project: Project = HERE, as_json: Json = False) -> None:
    """Jobs, newest first."""
    from antiphon.gateway.admin.shapes import batch_lines

    async def found() -> list[BatchLine]:
        async with services(project) as (ports, store):
            found = await asyncio.to_thread(ports.work.tables.list, store.scope, limit)
            return list(await asyncio.to_thread(batch_lines, ports, store.scope, found))

    jobs = asyncio.run(found())
    show(jobs, as_json, lambda: _table(jobs))


JobId = Annotated[str, typer.Argument(metavar="JOB", help="Its id, job_… or batch_….")]


@app.command("show")
def show_job(job: JobId, project: Project = HERE, as_json: Json = False) -> None:
    """One job, or one batch of OpenAI's API with its files and what is wrong with its input."""
    found = asyncio.run(_look(project, job))
    show(found, as_json, lambda: outline(found))


@app.command()
def cancel(job: JobId, project: Project = HERE, as_json: Json = False) -> None:
    """Ask a batch of OpenAI's API to stop; it ends with the files of what was done."""
    from antiphon.gateway.openai.batches import BatchObject, batch_object

    async def cancelled() -> BatchObject:
        async with services(project) as (ports, store):
            who = at_terminal(store).id
            return batch_object(await asyncio.to_thread(ports.work.batches.cancel, store.scope, job, who))

    found = asyncio.run(cancelled())
    show(found, as_json, lambda: f"{found.id} {found.status}")


async def _outlook(project: Path, order: TableOrder) -> BatchOutlook:
    from antiphon.gateway.admin.shapes import batch_outlook

    async with services(project) as (ports, store):
        who = at_terminal(store)
        return batch_outlook(
            await asyncio.to_thread(ports.work.tables.outlook, store.scope, who, order), ports.settings.prices
        )


def _table_at(place: str) -> str:
    """A table as orders name it: an object by its URL, a file or folder by its whole path."""
    return place if is_objects(place) else str(Path(place).resolve())


def _foreseen(outlook: BatchOutlook) -> str:
    """An order that was not made, for people."""
    lines = [("rows", f"{outlook.rows:,}")]
    estimate = outlook.estimate
    if estimate is None:
        lines += [
            ("tokens", f"about {outlook.prompt_tokens:,} to compute, by the prompt's length (4 bytes a token)"),
            ("", f"at most {outlook.output_limit:,} to write, by the release's max_tokens"),
            ("ends", "not known, nor what it costs: too little batch work was measured yet; run some rows first"),
        ]
    else:
        late = {"no": "", "likely": "  likely late", "certain": "  too late"}[estimate.late]
        lines += [
            ("tokens", f"{estimate.prompt_tokens:,} to compute, {estimate.output_tokens:,} to write"),
            ("engine", f"{estimate.engine_seconds:,.0f} s"),
            ("ends", f"{estimate.ends_at:%Y-%m-%d %H:%M:%S} UTC{late}"),
            ("between", f"{estimate.earliest:%Y-%m-%d %H:%M:%S} and {estimate.latest:%Y-%m-%d %H:%M:%S}"),
            ("cost", f"{estimate.cost:,.4f} {estimate.currency}"),
        ]
    if outlook.deadline is not None:
        lines.append(("deadline", f"{outlook.deadline:%Y-%m-%d %H:%M:%S} UTC"))
    lines += [("fails", said) for said in outlook.unreadable]
    return "\n".join(f"{name:<9} {value}" for name, value in lines)


async def _look(project: Path, job: str) -> dict[str, Any]:
    from antiphon.catalog.batch.batches import KIND
    from antiphon.gateway.admin.shapes import batch_lines
    from antiphon.gateway.openai.batches import batch_object

    async with services(project) as (ports, store):
        kept = await asyncio.to_thread(ports.work.tables.get, store.scope, job)
        found: Any
        if kept.kind == KIND:
            estimates = await asyncio.to_thread(ports.work.tables.estimates, store.scope, [job])
            batch = await asyncio.to_thread(ports.work.batches.records.get, store.scope, job)
            found = batch_object(batch, estimates.get(job))
        else:
            found = (await asyncio.to_thread(batch_lines, ports, store.scope, [kept]))[0]
    shown: dict[str, Any] = msgspec.to_builtins(found)
    return shown


async def _place(project: Path, order: TableOrder, wait: bool) -> BatchLine:
    from antiphon.catalog.batch.jobs import ENDED
    from antiphon.gateway.admin.shapes import BatchLine, read

    async with services(project) as (ports, store):
        if wait:
            require_worker(store, "work on the job", "pass --no-wait")
        made = await asyncio.to_thread(ports.work.tables.create, store.scope, at_terminal(store), order)
        job = read(made, BatchLine)
        with Progress(f"{job.id} rows") as progress:
            while wait and job.status not in ENDED:
                progress(job.rows_done, job.total)
                await asyncio.sleep(_POLL)
                job = read(await asyncio.to_thread(ports.work.tables.get, store.scope, job.id), BatchLine)
            progress(job.rows_done, job.total)
        return job


def _table(jobs: list[BatchLine]) -> str:
    rows = [
        (
            job.id,
            job.kind,
            job.application,
            job.status,
            job.rows_done,
            job.rows_failed,
            job.total,
            job.created_at,
            job.estimate.ends_at if job.estimate is not None else None,
        )
        for job in jobs
    ]
    return table(_HEAD, rows, "No job yet.")
