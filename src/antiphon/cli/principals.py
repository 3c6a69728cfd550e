"""``antiphon principals``: persons and service accounts of the project's tenant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from antiphon.cli.options import HERE, Json, Project, Reason, Role
from antiphon.cli.output import show, table
from antiphon.cli.project import at_terminal, stores

if TYPE_CHECKING:
    from pathlib import Path

app = typer.Typer(name="principals", help="Persons and service accounts.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Its name.")]
Clearance = Annotated[
    str, typer.Option(metavar="LEVEL", help="public, internal, confidential or restricted: what it may see.")
]


@app.command("list")
def list_principals(project: Project = HERE, as_json: Json = False) -> None:
    """Principals by name, with their role and clearance."""
    with stores(project) as store:
        found = store.keys.principals.list(store.scope.tenant)
    rows = [
        (one.id, one.kind, one.role, one.clearance, one.created_at, "disabled" if one.disabled_at else "")
        for one in found
    ]
    show(found, as_json, lambda: table(("name", "kind", "role", "clearance", "created", "state"), rows))


@app.command()
def create(
    name: Name,
    role: Role = "service",
    clearance: Clearance = "internal",
    person: Annotated[bool, typer.Option("--person", help="A person, not a service.")] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Make a principal; `antiphon keys create` gives it a key, a configured issuer's token names it."""
    with stores(project) as store, store.database.transaction() as connection:
        made = store.keys.principals.create(
            store.scope.tenant,
            name,
            role,
            kind="person" if person else "service",
            clearance=clearance,
            made_by=at_terminal(store).id,
            within=connection,
        )
        detail = {"name": name, "role": made.role, "kind": made.kind, "state": made.clearance}
        store.audit.append(store.scope, at_terminal(store).id, "principal.create", name, detail, within=connection)
    show(made, as_json, lambda: f"{made.id} is a {made.kind} with the role {made.role}.")


@app.command("set")
def set_principal(
    name: Name,
    role: Role = "",
    clearance: Clearance = "",
    reason: Reason = "",
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Give it another role or clearance; all its keys and sessions follow within a second."""
    _change(project, name, "set", reason, as_json, role=role or None, clearance=clearance or None)


@app.command()
def disable(name: Name, reason: Reason, project: Project = HERE, as_json: Json = False) -> None:
    """Stop all its keys, sessions and tokens within a second, everywhere, until it is enabled."""
    _change(project, name, "disable", reason, as_json, disabled=True)


@app.command()
def enable(name: Name, reason: Reason, project: Project = HERE, as_json: Json = False) -> None:
    """Let a disabled principal ask again."""
    _change(project, name, "enable", reason, as_json, disabled=False)


def _change(project: Path, name: str, action: str, reason: str, as_json: bool, **changes: Any) -> None:
    from antiphon.governance.identity.provenance import IdentityProvenance
    from antiphon.governance.policy.versions import DEVELOPMENT

    with stores(project) as store, store.database.transaction() as connection:
        by = at_terminal(store).id
        tenant, provenance = store.scope.tenant, IdentityProvenance(store.keys)
        waits = store.scope.environment != DEVELOPMENT and provenance.has_another(tenant, by)
        changed = store.keys.principals.change(tenant, name, by=by, waits=waits, within=connection, **changes)
        now = "disabled" if changed.disabled_at else changed.clearance
        detail = {"name": name, "role": changed.role, "state": now, "reason": reason}
        store.audit.append(store.scope, by, f"principal.{action}", name, detail, within=connection)
    state = "disabled" if changed.disabled_at else "enabled"
    show(changed, as_json, lambda: f"{name}: role {changed.role}, clearance {changed.clearance}, {state}.")
