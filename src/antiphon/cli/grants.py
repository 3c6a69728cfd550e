"""``antiphon grants``: views and models that this tenant lets others use, and those that others let it use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from antiphon.cli import entity as entities
from antiphon.cli.options import HERE, Json, Project, Reason
from antiphon.cli.output import show, table
from antiphon.cli.project import allowed, stores
from antiphon.core.errors import InvalidInputError

if TYPE_CHECKING:
    from antiphon.governance.identity.grants import GrantKind

app = typer.Typer(name="grants", help="Views and models that other tenants may use.", no_args_is_help=True)

Resource = Annotated[
    str, typer.Argument(metavar="KIND/NAME", help="view/NAME, or model/VERSION such as model/desk.v3.")
]
_USES = {"view": "read", "model": "ask"}
Grantee = Annotated[str, typer.Option("--to", metavar="TENANT", help="The tenant that may use it.")]


@app.command("list")
def list_grants(project: Project = HERE, as_json: Json = False) -> None:
    """Grants to others, and grants from others under the name by which they are used here."""
    from antiphon.services.governance.grants import ProjectGrants

    with stores(project) as store:
        found = ProjectGrants(store).list(by=allowed(store, "administer", "grant/*"))
    rows = [
        (name, one.grantee, one.clearance, one.since, one.until or "", one.made_by, one.reason)
        for some, attribute in ((found.given, "name"), (found.received, "granted_name"))
        for one in some
        for name in (f"{one.kind}/{getattr(one, attribute)}",)
    ]
    header = ("what", "to", "clearance", "since", "until", "by", "reason")
    show(found, as_json, lambda: table(header, rows, "Nothing is granted."))


@app.command()
def create(
    resource: Resource,
    grantee: Grantee,
    reason: Reason,
    until: Annotated[str, typer.Option(metavar="TIME", help="Its end, ISO 8601 with offset.")] = "",
    clearance: Annotated[
        str, typer.Option(help="The most that its principals count for: public, internal, confidential, restricted.")
    ] = "internal",
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Let another tenant read a view or ask a model, as far as policies permit.

    It never changes it, and sees neither source rows nor training data.
    """
    from antiphon.governance.policy.request import LEVELS
    from antiphon.services.governance.grants import ProjectGrants

    if clearance not in LEVELS:
        raise InvalidInputError(
            f"{clearance!r} is no clearance.", where="--clearance", next_step=f"Use one of {', '.join(LEVELS)}."
        )
    kind, name = _parts(resource)
    at = entities.moment(until, "--until")
    with stores(project) as store:
        by = allowed(store, "administer", "grant/*")
        made = ProjectGrants(store).create(
            kind, name, grantee, reason=reason, by=by, until=at, clearance=cast("Any", clearance)
        )
    show(made, as_json, lambda: f"{made.grantee} may {_USES[made.kind]} {made.kind}/{made.granted_name}.")


@app.command()
def revoke(
    resource: Resource, grantee: Grantee, reason: Reason, project: Project = HERE, as_json: Json = False
) -> None:
    """Take a grant away, within a second in every process."""
    from antiphon.services.governance.grants import ProjectGrants

    kind, name = _parts(resource)
    with stores(project) as store:
        by = allowed(store, "administer", "grant/*")
        gone = ProjectGrants(store).revoke(kind, name, grantee, reason=reason, by=by)
    show(gone, as_json, lambda: f"{gone.grantee} may not {_USES[gone.kind]} {gone.kind}/{gone.granted_name} any more.")


def _parts(resource: str) -> tuple[GrantKind, str]:
    kind, _, name = resource.partition("/")
    if kind not in _USES or not name:
        raise InvalidInputError(
            f"{resource!r} is neither a view nor a model.",
            where="KIND/NAME",
            next_step="Write view/orders or model/desk.v3.",
        )
    return cast("GrantKind", kind), name
