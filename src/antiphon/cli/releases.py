"""``antiphon releases``: what is live, what was, and going back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from antiphon.cli.options import HERE, Json, Project, Reason
from antiphon.cli.output import show, table
from antiphon.cli.project import at_terminal, services, stores

if TYPE_CHECKING:
    from antiphon.catalog.releases import Release

app = typer.Typer(name="releases", help="Releases and the live pointer.", no_args_is_help=True)

Application = Annotated[str, typer.Argument(help="The application.")]


@app.command("list")
def list_releases(
    application: Annotated[str, typer.Argument(help="Only this application's.")] = "",
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Releases, newest first; the live one is marked."""
    _show(project, application or None, as_json)


@app.command()
def activate(
    application: Application, release: str, reason: Reason, project: Project = HERE, as_json: Json = False
) -> None:
    """Make a release live."""

    async def move() -> None:
        async with services(project) as (ports, store):
            who = at_terminal(store).id
            await asyncio.to_thread(ports.releases.activate, store.scope, application, release, who, reason)

    asyncio.run(move())
    _show(project, application, as_json)


@app.command()
def rollback(application: Application, reason: Reason, project: Project = HERE, as_json: Json = False) -> None:
    """Make the release live again that was live before."""

    async def move() -> None:
        async with services(project) as (ports, store):
            await asyncio.to_thread(ports.releases.rollback, store.scope, application, at_terminal(store).id, reason)

    asyncio.run(move())
    _show(project, application, as_json)


@app.command()
def diff(before: str, after: str, project: Project = HERE, as_json: Json = False) -> None:
    """What differs between two releases, field by field."""
    from antiphon.releases import bundle

    with stores(project) as store:
        old, new = (store.releases.get(store.scope, release) for release in (before, after))
    changes = bundle.diff(old.bundle, new.bundle)
    rows = [(change.field, _short(change.before), _short(change.after)) for change in changes]
    show(changes, as_json, lambda: table(("field", "before", "after"), rows, "They are the same."))


def _show(project: Path, application: str | None, as_json: bool) -> None:
    with stores(project) as store:
        found: list[Release] = store.releases.list(store.scope, application)
        names = {release.bundle.application.name for release in found}
        live = {moved.id for name in names if (moved := store.releases.live(store.scope, name)) is not None}
    newest = sorted(found, key=lambda release: release.created_at, reverse=True)
    rows = [
        (
            release.bundle.application.name,
            release.number,
            release.id,
            "live" if release.id in live else release.stage,
            release.bundle.model.name,
            release.author,
            release.created_at,
            release.rationale,
        )
        for release in newest
    ]
    head = ("application", "number", "release", "stage", "model", "author", "created", "rationale")
    lines: list[dict[str, Any]] = [dict(zip(head, row, strict=True)) for row in rows]
    show(lines, as_json, lambda: table(head, rows, "No release yet: `antiphon apply` makes them."))


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else f"{text[:57]}…"
