"""``antiphon freeze``: a time in which no expensive work begins and what is under way is given back."""

from __future__ import annotations

from typing import Annotated

import typer

from antiphon.cli.options import HERE, For, Json, Project
from antiphon.cli.output import show, table
from antiphon.cli.project import allowed, stores
from antiphon.cli.schedules import Until

app = typer.Typer(name="freeze", help="Times in which no expensive work begins.", no_args_is_help=True)


@app.command()
def begin(
    reason: Annotated[str, typer.Option("--reason", help="Why, for the record.")],
    until: Until = "",
    duration: For = "",
    work: Annotated[
        str,
        typer.Option(
            help="Classes of work, divided by commas: refresh, backfill, training, evaluation, batch. All but refresh."
        ),
    ] = "",
    slots: Annotated[
        int, typer.Option(min=0, max=64, help="So many of these runs may be under way at once: a limit, no freeze.")
    ] = 0,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Let no such work begin until then; what is under way stops within two seconds and goes on afterwards."""
    from antiphon.services.conducting.schedules import ProjectSchedules, until_of

    with stores(project) as store:
        who = allowed(store, "release", "application/*")
        end = until_of(until, duration, store.database.clock.now())
        classes = [one.strip() for one in work.split(",") if one.strip()]
        hold = ProjectSchedules(store, store.scope).freeze(who.id, reason, end, classes, slots=slots)
    said = f"Limited to {slots} at once" if slots else "Frozen"
    show(
        hold, as_json, lambda: f"{said} until {hold.until:%Y-%m-%d %H:%M:%S}Z; `antiphon freeze end {hold.id}` ends it."
    )


@app.command("list")
def list_holds(project: Project = HERE, as_json: Json = False) -> None:
    """Freezes, limits, and windows that keep work from beginning, that are not over."""
    from antiphon.services.conducting.schedules import ProjectSchedules
    from antiphon.services.conducting.windows import held_work

    with stores(project) as store:
        found = ProjectSchedules(store, store.scope).holds()
    head = ("id", "kind", "slots", "work", "from", "until", "reason", "by")
    rows = [
        (
            one.id, one.kind, one.slots, ", ".join(held_work(one.workflows)), one.begins, one.until, one.reason,
            one.principal,
        )
        for one in found
    ]  # fmt: skip
    show(found, as_json, lambda: table(head, rows, "Work may begin at any time."))


@app.command()
def end(
    hold: Annotated[str, typer.Argument(metavar="ID", help="Its id, as `freeze list` shows it.")],
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """End a freeze or limit before its time."""
    from antiphon.services.conducting.schedules import ProjectSchedules

    with stores(project) as store:
        who = allowed(store, "release", "application/*")
        ended = ProjectSchedules(store, store.scope).thaw(who.id, hold)
    show(ended, as_json, lambda: f"{ended.id} is over.")
