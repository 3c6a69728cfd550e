"""``antiphon tenants``: the tenants of this installation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from antiphon.cli.entity import pairs
from antiphon.cli.options import HERE, Json, Project, Reason
from antiphon.cli.output import Progress, show, table
from antiphon.cli.project import at_terminal, stores
from antiphon.core.errors import InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path

    from antiphon.governance.identity.tenants import Tenant, TenantQuota

app = typer.Typer(name="tenants", help="Tenants of this installation.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Its name.")]
Quotas = Annotated[
    list[str],
    typer.Option(
        "--quota",
        metavar="NAME=BOUND",
        help="requests_per_minute, tokens_per_minute, tokens_per_day, stored_bytes or batches; repeat it.",
    ),
]


@app.command("list")
def list_tenants(project: Project = HERE, as_json: Json = False) -> None:
    """Tenants by name, with their state, and who gave it to them, when and why."""
    from antiphon.services.governance.tenants import ProjectTenants

    with stores(project) as store:
        found = ProjectTenants(store).list(by=at_terminal(store))
    rows = [
        (one.id, one.state, f"{one.share:g}", _quota_text(one), one.changed_at, one.changed_by or "", one.reason)
        for one in found
    ]
    show(found, as_json, lambda: table(("name", "state", "share", "quota", "since", "by", "reason"), rows))


@app.command()
def create(
    name: Name,
    share: Annotated[float, typer.Option(help="Of the engine beside others: 2 is twice as much as another.")] = 1.0,
    quota: Quotas = [],  # noqa: B006 -- typer copies it
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Make a tenant; a project whose settings name it, or a token of the issuer, makes use of it."""
    from antiphon.services.governance.tenants import ProjectTenants

    with stores(project) as store:
        made = ProjectTenants(store).create(name, by=at_terminal(store), share=share, quota=_quota(quota))
    show(made, as_json, lambda: f"{made.id} is {made.state}.")


@app.command()
def change(
    name: Name,
    reason: Reason,
    share: Annotated[float | None, typer.Option(help="Of the engine beside others.")] = None,
    quota: Quotas = [],  # noqa: B006 -- typer copies it
    unbounded: Annotated[bool, typer.Option("--no-quota", help="Take its quota away.")] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Give it another share, or another quota in the place of the present one; in force within a second."""
    from antiphon.services.governance.tenants import ProjectTenants

    if share is None and not quota and not unbounded:
        raise InvalidInputError("Nothing is to change.", where="--share", next_step="Name --share or --quota.")
    terms = _quota(quota) if quota or unbounded else None
    with stores(project) as store:
        changed = ProjectTenants(store).set_terms(name, reason=reason, by=at_terminal(store), share=share, quota=terms)
    show(
        changed,
        as_json,
        lambda: f"{changed.id} has a share of {changed.share:g}; {_quota_text(changed) or 'no quota'}.",
    )


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


@app.command()
def erase(
    name: Name,
    reason: Reason,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what would be removed; remove nothing.")] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Remove what a deleted tenant stored, for good: texts of its audit log, its data keys, and then everything else.

    Killed on the way, it goes on when it is run again.
    """
    from antiphon.services.governance.tenants import ProjectTenants

    with stores(project) as store, Progress() as progress:
        erased = ProjectTenants(store).erase(
            name, reason=reason, by=at_terminal(store), dry_run=dry_run,
            tell=lambda what, done: progress(done, None, what),
        )  # fmt: skip
    rows = list(erased.removed.items())
    title = "would be removed" if dry_run else "removed"
    show(erased, as_json, lambda: table((title, "how many"), rows, "Nothing is left of it."))


def _quota(given: list[str]) -> TenantQuota:
    """The quota that ``--quota NAME=BOUND`` names."""
    from antiphon.governance.identity.tenants import TenantQuota

    names, found = TenantQuota.__struct_fields__, dict[str, int]()
    for name, bound in pairs(given, "--quota", "requests_per_minute=600", "NAME=BOUND").items():
        if name not in names or not bound.isdigit():
            raise InvalidInputError(
                f"{name}={bound} is no quota.",
                where="--quota",
                next_step=f"A whole number for one of {', '.join(names)}.",
            )
        found[name] = int(bound)
    return TenantQuota(**found)


def _quota_text(tenant: Tenant) -> str:
    from msgspec import structs

    return ", ".join(f"{name}={bound}" for name, bound in structs.asdict(tenant.quota).items() if bound is not None)


def _change(project: Path, name: str, action: str, reason: str, as_json: bool) -> None:
    from antiphon.services.governance.tenants import ProjectTenants

    with stores(project) as store:
        tenants, by = ProjectTenants(store), at_terminal(store)
        change = tenants.suspend if action == "suspend" else tenants.resume
        changed = change(name, reason=reason, by=by)
    show(changed, as_json, lambda: f"{changed.id} is {changed.state}.")
