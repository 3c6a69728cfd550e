"""``antiphon training``: trainings under way, and pauses of them."""

from __future__ import annotations

from typing import Annotated

import typer

from antiphon.cli.options import HERE, Json, Project, Reason
from antiphon.cli.output import show, table
from antiphon.cli.project import allowed, stores

app = typer.Typer(name="training", help="Trainings under way, and pauses of them.", no_args_is_help=True)


@app.command("list")
def list_pauses(project: Project = HERE, as_json: Json = False) -> None:
    """Workers that train, and the pauses that hold: who wants them, since when, and when they end by themselves."""
    from antiphon.services.learning.training_pauses import OrderedPauses

    with stores(project) as store:
        pauses = OrderedPauses(store)
        held, trainings = pauses.list(), pauses.trainings()
    head = ("host", "by", "reason", "since", "until")
    rows = [(one.host, one.writer, one.reason, one.since, one.until) for one in held]
    workers = ", ".join(one.worker for one in trainings) or "No worker"
    found = {"pauses": held, "trainings": trainings}
    show(found, as_json, lambda: f"{workers} trains.\n\n{table(head, rows, 'No pause holds.')}")


@app.command()
def pause(
    reason: Reason,
    duration: Annotated[str, typer.Option("--for", metavar="DURATION", help="It ends by itself after so long.")] = "1h",
    host: Annotated[str, typer.Option(help="Only on this host; every one by default.")] = "*",
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Stop every training of the environment where it is, within a second or two, until it is resumed."""
    from antiphon.services.learning.training_pauses import OrderedPauses

    with stores(project) as store:
        who = allowed(store, "release", "application/*")
        held = OrderedPauses(store).pause(who.id, reason, duration, host)
    where = "everywhere" if held.host == "*" else f"on {held.host}"
    show(held, as_json, lambda: f"Training is paused {where} until {held.until:%Y-%m-%d %H:%M:%SZ}.")


@app.command()
def resume(
    host: Annotated[str | None, typer.Option(help="Only the pause of this host.")] = None,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """End the pauses that were ordered; trainings go on unless online users are served."""
    from antiphon.services.learning.training_pauses import OrderedPauses

    with stores(project) as store:
        who = allowed(store, "release", "application/*")
        ended = OrderedPauses(store).resume(who.id, host)
    show(ended, as_json, lambda: f"{len(ended)} pause(s) ended.")
