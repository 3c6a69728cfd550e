"""``antiphon datasets``: point-in-time training and evaluation sets."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from antiphon.cli import entity as entities
from antiphon.cli.options import HERE, Json, Limit, OnlyApplication, Project
from antiphon.cli.output import followed, moment, show, table
from antiphon.cli.project import at_terminal, require_application, require_worker, stores
from antiphon.core.errors import AntiphonError, InvalidInputError

if TYPE_CHECKING:
    from antiphon.catalog.learning.datasets import Dataset, DatasetKind
    from antiphon.learning.datasets.rows import DatasetSurvey

app = typer.Typer(name="datasets", help="Training and evaluation sets.", no_args_is_help=True)

Identity = Annotated[str, typer.Argument(help="The dataset's id.")]


class DatasetFailedError(AntiphonError):
    """A build of a dataset was waited for and did not end well."""

    code = "dataset_failed"


_HEAD = ("dataset", "application", "kind", "rows", "labels", "cutoff", "hash", "created")


@app.command("build")
def build(
    application: Annotated[str, typer.Argument(help="The application that learns.")],
    cutoff: Annotated[
        str, typer.Option(help="Nothing known later is in it (default: the declared one, else now).", metavar="TIME")
    ] = "",
    examples: Annotated[int, typer.Option(min=0, help="At most so many; 0 is the declared number.")] = 0,
    kind: Annotated[str, typer.Option(help="training or evaluation.")] = "training",
    origin: Annotated[
        list[str] | None, typer.Option("--from", help="history or receipts; repeat it for both (the default).")
    ] = None,
    from_table: Annotated[
        Path | None,
        typer.Option("--table", help="Read this file in place of the declared history.", metavar="FILE"),
    ] = None,
    first: Annotated[str, typer.Option(help="Only moments after this one.", metavar="TIME")] = "",
    last: Annotated[str, typer.Option(help="Only moments up to this one.", metavar="TIME")] = "",
    by: Annotated[
        str, typer.Option("--by", metavar="DURATION", help="Let the worker build it, a span of moments at a time.")
    ] = "",
    wait: Annotated[bool, typer.Option("--wait", help="With --by: wait until it has ended, and say how far.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be in it; build nothing.")] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Build a dataset: every example as of its own moment, nothing from after the cutoff."""
    from antiphon.core.clock import parse_duration
    from antiphon.gateway.admin.shapes import RunLine, read
    from antiphon.services.learning.dataset_builds import order_dataset
    from antiphon.services.learning.outcomes import dataset_builder, declared_applications, with_history

    selected = _kind(kind)
    with stores(project) as store:
        builder = dataset_builder(store)
        declared = declared_applications(store)(store.scope, application)
        spec = builder.plan(
            declared if from_table is None else with_history(declared, from_table),
            kind=selected,
            cutoff=entities.moment(cutoff),
            origins=origin,
            examples=examples or None,
            first=entities.moment(first),
            last=entities.moment(last),
        )
        if dry_run:
            survey = builder.survey(spec)
            show(survey, as_json, lambda: _surveyed(survey))
            return
        if by:
            if wait:
                require_worker(store, "build the dataset", "leave --wait or --by out")
            run = order_dataset(store, at_terminal(store), spec, parse_duration(by))
            ended = asyncio.run(followed(store, run.id, wait))
            if not wait:
                hint = f"`antiphon runs show {run.id}` follows it."
                show(read(ended, RunLine), as_json, lambda: ended.id, hint)
                return
            if ended.status != "succeeded":
                raise DatasetFailedError(
                    f"The build {run.id} {ended.status}: {ended.error or 'it was canceled'}",
                    next_step=f"`antiphon runs retry {run.id}` goes on where it was, once its cause is mended.",
                )
            built = store.datasets.get(store.scope, str((ended.result or {})["dataset"]))
            show(built, as_json, lambda: _shown(built))
            return
        dataset = builder.build(spec)
    show(dataset, as_json, lambda: _shown(dataset))


@app.command("list")
def list_datasets(
    application: OnlyApplication = "",
    limit: Limit = 20,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Datasets, latest first."""

    from antiphon.catalog.learning.evaluations import counted

    with stores(project) as store:
        found = store.datasets.list(store.scope, application or None, limit=limit)
        if not found:
            require_application(store, application)
    rows = [
        (
            each.id,
            each.spec.application,
            each.spec.kind,
            each.rows,
            counted(each.labels),
            each.spec.cutoff,
            each.logical_hash[:12],
            each.created_at,
        )
        for each in found
    ]
    show(found, as_json, lambda: table(_HEAD, rows, "No dataset yet."))


@app.command("show")
def show_dataset(dataset: Identity, project: Project = HERE, as_json: Json = False) -> None:
    """Show a dataset: its specification, sources and hashes."""

    with stores(project) as store:
        found = store.datasets.get(store.scope, dataset)
    show(found, as_json, lambda: _shown(found))


@app.command("rebuild")
def rebuild(dataset: Identity, project: Project = HERE, as_json: Json = False) -> None:
    """Build a dataset again from its own specification, and compare; a lost file is back afterwards."""
    from antiphon.services.learning.outcomes import dataset_builder

    with stores(project) as store:
        built = dataset_builder(store).rebuild(dataset)
    show(built, as_json, lambda: _shown(built), f"Built again: the same values, {built.logical_hash[:12]}.")


def _kind(kind: str) -> DatasetKind:
    if kind == "training":
        return "training"
    if kind == "evaluation":
        return "evaluation"
    raise InvalidInputError(f"{kind!r} is no kind.", where="--kind", next_step="Write training or evaluation.")


def _shown(dataset: Dataset) -> str:
    from antiphon.catalog.learning.evaluations import counted

    spec = dataset.spec
    left_out = ", ".join(f"{count} {reason}" for reason, count in dataset.dropped.items()) or "nothing"
    lines = [
        f"{dataset.id}: {spec.kind} set of {spec.application}, {dataset.rows} rows: {counted(dataset.labels)}",
        f"  moments   {moment(spec.first)} < t <= {moment(spec.last)}, known by {moment(spec.cutoff)}",
        f"  left out  {left_out}",
        f"  values    {dataset.logical_hash}",
        f"  file      {dataset.path}",
    ]
    for source in dataset.sources:
        rows = f", {source.rows} rows" if source.rows is not None else ""
        lines.append(f"  from      {source.kind} {source.name} {source.version[:16]}{rows}")
    return "\n".join(lines)


def _surveyed(survey: DatasetSurvey) -> str:
    from antiphon.catalog.learning.evaluations import counted

    spec = survey.spec
    left_out = ", ".join(f"{count} {reason}" for reason, count in survey.dropped.items()) or "nothing"
    return "\n".join(
        [
            f"{spec.kind} set of {spec.application}: {survey.rows} rows would be in it ({counted(survey.labels)})",
            f"  moments   {moment(spec.first)} < t <= {moment(spec.last)}, known by {moment(spec.cutoff)}",
            f"  there are {moment(survey.earliest)} to {moment(survey.latest)}",
            f"  left out  {left_out}",
        ]
    )
