"""``antiphon assets``: what is made of what, what of it is stale, and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from antiphon.cli.options import HERE, Json, Limit, Project
from antiphon.cli.output import moment, show, table
from antiphon.cli.project import stores

if TYPE_CHECKING:
    from antiphon.services.conducting.assets import AssetDetail

app = typer.Typer(name="assets", help="What is made of what, and what of it is stale.", no_args_is_help=True)


@app.command("list")
def list_assets(
    stale: Annotated[bool, typer.Option("--stale", help="Only those with a part that is to be made.")] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Each asset of what is applied, inputs first, with how many of its parts are stale, and why."""
    from antiphon.services.conducting.assets import ProjectAssets

    with stores(project) as store:
        found = ProjectAssets(store, store.scope).list(stale=stale)
    head = ("asset", "stage", "parts", "stale", "why", "made by", "when")
    rows = [
        (one.key, one.stage, sum(one.parts.values()), one.stale, one.reason, one.made_by, one.when) for one in found
    ]
    none = "Nothing is stale." if stale else "Nothing is applied: `antiphon apply`."
    show(found, as_json, lambda: table(head, rows, none))


@app.command("show")
def show_asset(
    key: Annotated[str, typer.Argument(metavar="KEY", help="Its key, such as workflow/daily_report.")],
    limit: Limit = 30,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """One asset: its parts, the latest first, with the chain of causes of each that is stale or waits; what it is made
    of, and what is made of it."""
    from antiphon.services.conducting.assets import ProjectAssets

    with stores(project) as store:
        found = ProjectAssets(store, store.scope).show(key)
    show(found, as_json, lambda: "\n".join(_text(found, limit)))


def _text(found: AssetDetail, limit: int) -> Iterator[str]:
    asset = found.asset
    yield f"{asset.key}: {asset.stage}, {asset.reason}"
    yield f"made by:  {f'{asset.made_by} ({asset.when})' if asset.made_by else 'no schedule'}"
    yield f"made of:  {', '.join(asset.reads) or '-'}"
    yield f"feeds:    {', '.join(asset.feeds) or '-'}"
    if further := [key for key in found.descendants if key not in asset.feeds]:
        yield f"and then: {', '.join(further)}"
    rows = [
        (one.partition or "whole", one.stage, one.version, moment(one.made_at), one.run, one.reason)
        for one in found.parts[:limit]
    ]
    yield ""
    yield table(("part", "stage", "version", "made", "run", "why"), rows, "It has no partition yet.")
    if len(found.parts) > limit:
        yield f"… and {len(found.parts) - limit} earlier ones: --limit {len(found.parts)}"
    for one in found.parts[:limit]:
        if one.stage in ("stale", "waits", "failed") and one.causes:
            yield ""
            yield f"{one.partition or asset.key}: {one.reason}"
            yield from (f"{'  ' * (depth + 1)}by {cause}" for depth, cause in enumerate(one.causes[:limit]))
