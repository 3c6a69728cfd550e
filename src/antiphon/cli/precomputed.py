"""``antiphon precomputed``: applications that answer from store alone for a time."""

from __future__ import annotations

import typer

from antiphon.cli.options import HERE, Application, For, Json, Project, Reason
from antiphon.cli.output import moment, show, table
from antiphon.cli.project import allowed, stores

app = typer.Typer(
    name="precomputed", help="Applications that answer from store alone for a time.", no_args_is_help=True
)


@app.command("list")
def list_modes(project: Project = HERE, as_json: Json = False) -> None:
    """Applications that answer from store alone now, until when and why."""
    from antiphon.services.precomputed import ProjectPrecomputedModes

    with stores(project) as store:
        found = ProjectPrecomputedModes(store, store.scope).list()
    rows = [(one.application, moment(one.until), one.reason, one.principal) for one in found]
    head = ("application", "until", "reason", "by")
    show(found, as_json, lambda: table(head, rows, "Every application answers as ever."))


@app.command()
def begin(
    application: Application,
    reason: Reason,
    duration: For = "1h",
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Have an application answer users from store alone, and refuse what it has no stored answer for."""
    from antiphon.services.precomputed import ProjectPrecomputedModes

    with stores(project) as store:
        who = allowed(store, "release", f"application/{application}")
        mode = ProjectPrecomputedModes(store, store.scope).begin(who.id, application, reason, duration)
    show(mode, as_json, lambda: f"{application} answers from store alone until {mode.until:%Y-%m-%d %H:%M:%S}Z.")


@app.command()
def end(application: Application, reason: Reason, project: Project = HERE, as_json: Json = False) -> None:
    """Have an application answer as ever, whoever had it answer from store."""
    from antiphon.services.precomputed import ProjectPrecomputedModes

    with stores(project) as store:
        who = allowed(store, "release", f"application/{application}")
        ended = ProjectPrecomputedModes(store, store.scope).end(who.id, application, reason)
    show(ended, as_json, lambda: f"{application} answers as ever.")
