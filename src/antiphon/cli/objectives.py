"""``antiphon objectives``: whether applications do what they are to do, and how much of their error budgets is left."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from antiphon.cli.options import HERE, Json, Limit, Project
from antiphon.cli.output import moment, show, table
from antiphon.cli.project import stores

if TYPE_CHECKING:
    from antiphon.services.objectives import ObjectiveLine

app = typer.Typer(name="objectives", help="Objectives of applications and their error budgets.", no_args_is_help=True)


@app.command("list")
def list_objectives(project: Project = HERE, as_json: Json = False) -> None:
    """Each objective of what is applied, how it stands, and what is left of its error budget."""
    from antiphon.services.objectives import ProjectObjectives

    with stores(project) as store:
        found = ProjectObjectives(store, store.scope).list()
    head = ("objective", "status", "target", "attained", "budget left", "burn, 1 h", "window", "counted")
    rows = [
        (
            one.name, one.status, _target(one), one.measured or _share(one.attained), _share(one.budget_left),
            "-" if one.burn_hour is None else f"{one.burn_hour:.1f}", one.window, f"{one.counted:,.0f}",
        )
        for one in found
    ]  # fmt: skip
    show(found, as_json, lambda: table(head, rows, "No application is applied: `antiphon apply`."))


@app.command("show")
def show_objective(
    name: Annotated[str, typer.Argument(metavar="OBJECTIVE", help="Its name, such as desk-latency.")],
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """One objective, with the reason of each alert."""
    from antiphon.services.objectives import ProjectObjectives

    with stores(project) as store:
        found = ProjectObjectives(store, store.scope).get(name)
    show(found, as_json, lambda: "\n".join(_text(found)))


@app.command("alerts")
def list_alerts(limit: Limit = 20, project: Project = HERE, as_json: Json = False) -> None:
    """Alerts, the latest first, with the reason for which each began, and when it was over."""
    from antiphon.services.objectives import ProjectObjectives

    with stores(project) as store:
        found = ProjectObjectives(store, store.scope).alerts(limit)
    head = ("alert", "objective", "severity", "began", "over", "reason")
    rows = [
        (one.id, one.objective, one.severity, moment(one.began_at), moment(one.resolved_at), one.reason)
        for one in found
    ]
    show(found, as_json, lambda: table(head, rows, "No alert so far."))


def _text(found: ObjectiveLine) -> Iterator[str]:
    yield f"{found.name}: {found.sentence}"
    yield f"status:       {found.status}" + (f" ({found.severity})" if found.severity else "")
    attained = ", ".join(filter(None, (found.measured, None if found.attained is None else _share(found.attained))))
    yield f"attained:     {attained or '-'} of {found.counted:,.0f}"
    if found.known_until is not None:
        yield f"known until:  {moment(found.known_until)}, the newest answer whose outcome counts"
    yield f"budget left:  {_share(found.budget_left)}"
    yield f"assessed at:  {moment(found.at)}"
    yield from found.reasons
    if found.note is not None:
        yield found.note


def _target(line: ObjectiveLine) -> str:
    return _share(line.target) if line.most is None else f"{line.most:g}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value * 100:.2f} %"
