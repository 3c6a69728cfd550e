"""``antiphon features``: views, how fresh they are, and computing them anew."""

from __future__ import annotations

from typing import Annotated

import typer

from antiphon.cli import entity as entities
from antiphon.cli import feast, features_export
from antiphon.cli.options import HERE, Json, Project
from antiphon.cli.output import note, show, table
from antiphon.cli.project import services, stores

app = typer.Typer(name="features", help="Feature views and their freshness.", no_args_is_help=True)
app.command("import-feast")(feast.import_feast)
app.command("export")(features_export.export)


@app.command("list")
def list_views(project: Project = HERE, as_json: Json = False) -> None:
    """Views of the applied definitions."""
    with stores(project) as store:
        current = store.applied.current(store.scope)
        views = list(current.project.views.values()) if current is not None else []
    rows = [
        (view.name, view.definition_version, ",".join(view.entity.keys), view.source.name, ", ".join(view.features))
        for view in views
    ]
    show(views, as_json, lambda: table(("view", "version", "keys", "source", "features"), rows, "Nothing is applied."))


@app.command("status")
def status(project: Project = HERE, as_json: Json = False) -> None:
    """How fresh each served view is."""
    import asyncio

    from antiphon.cli.status import freshness_table
    from antiphon.gateway.ports import ViewFreshness

    async def found() -> list[ViewFreshness]:
        async with services(project) as (ports, store):
            return list(await asyncio.to_thread(ports.freshness, store.scope))

    views = asyncio.run(found())
    show(views, as_json, lambda: freshness_table(views))


@app.command("refresh")
def refresh(
    views: Annotated[list[str] | None, typer.Argument(help="Views; all when none is named.")] = None,
    as_of: entities.AsOf = "",
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Order a refresh of views; the worker computes, gates and publishes them."""
    import asyncio

    from antiphon.gateway.admin.shapes import RunLine, read

    moment = entities.moment(as_of)

    async def ordered() -> RunLine:
        async with services(project) as (ports, store):
            when = moment.isoformat() if moment else None
            return read(await asyncio.to_thread(ports.runs.refresh, store.scope, views or [], when), RunLine)

    run = asyncio.run(ordered())
    show(run, as_json, lambda: run.id)
    if not as_json:
        note(f"`antiphon runs show {run.id}` follows it.")
