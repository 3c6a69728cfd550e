"""``antiphon tenants``: the tenants of this installation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from antiphon.cli.options import HERE, Json, Project, Reason
from antiphon.cli.output import show, table
from antiphon.cli.project import at_terminal, stores

if TYPE_CHECKING:
    from pathlib import Path

app = typer.Typer(name="tenants", help="Tenants of this installation.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Its name.")]


@app.command("list")
def list_tenants(project: Project = HERE, as_json: Json = False) -> None:
    """Tenants by name, with their state, and who gave it to them, when and why."""
    from antiphon.services.governance.tenants import ProjectTenants

    with stores(project) as store:
        found = ProjectTenants(store).list(by=at_terminal(store))
    rows = [(one.id, one.state, one.changed_at, one.changed_by or "", one.reason) for one in found]
    show(found, as_json, lambda: table(("name", "state", "since", "by", "reason"), rows))


@app.command()
def create(name: Name, project: Project = HERE, as_json: Json = False) -> None:
    """Make a tenant; a project whose settings name it, or a token of the issuer, makes use of it."""
    from antiphon.services.governance.tenants import ProjectTenants

    with stores(project) as store:
        made = ProjectTenants(store).create(name, by=at_terminal(store))
    show(made, as_json, lambda: f"{made.id} is {made.state}.")


@app.command()
def suspend(name: Name, reason: Reason, project: Project = HERE, as_json: Json = False) -> None:
    """Refuse its requests within a second, and claim none of its runs, until it is resumed."""
    _change(project, name, "suspend", reason, as_json)


@app.command()
def resume(name: Name, reason: Reason, project: Project = HERE, as_json: Json = False) -> None:
    """Let a suspended tenant go on."""
    _change(project, name, "resume", reason, as_json)


@app.command()
def delete(
    name: Name,
    reason: Reason,
    force: Annotated[bool, typer.Option("--force", help="Also while something of it is served.")] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Refuse its requests for good and cancel its runs; what it stored stays."""
    from antiphon.services.governance.tenants import ProjectTenants

    with stores(project) as store:
        deleted = ProjectTenants(store).delete(name, reason=reason, by=at_terminal(store), force=force)
    show(deleted, as_json, lambda: f"{deleted.id} is {deleted.state}.")


def _change(project: Path, name: str, action: str, reason: str, as_json: bool) -> None:
    from antiphon.services.governance.tenants import ProjectTenants

    with stores(project) as store:
        tenants, by = ProjectTenants(store), at_terminal(store)
        change = tenants.suspend if action == "suspend" else tenants.resume
        changed = change(name, reason=reason, by=by)
    show(changed, as_json, lambda: f"{changed.id} is {changed.state}.")
