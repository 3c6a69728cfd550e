"""``antiphon engines``: those that have joined, and drains of them."""

from __future__ import annotations

from typing import Annotated

import typer

from antiphon.cli.options import HERE, For, Json, Project, Reason
from antiphon.cli.output import moment, show, table
from antiphon.cli.project import allowed, stores

app = typer.Typer(name="engines", help="Engines that have joined, and drains of them.", no_args_is_help=True)

Engine = Annotated[str, typer.Argument(metavar="ENGINE", help="NAME@HOST, or NAME where one host alone has it.")]


@app.command("list")
def list_engines(project: Project = HERE, as_json: Json = False) -> None:
    """The project's engines that have joined, with what is in them and who drains them."""
    from antiphon.services.engines.drains import EngineDrains

    with stores(project) as store:
        found = EngineDrains(store).list()
    head = ("engine", "requests", "models", "drained by", "until", "reason")
    rows = []
    for one in found:
        drain = ("-", "-", "-")
        if one.drain is not None:
            drain = (one.drain.principal, moment(one.drain.until), one.drain.reason)
        rows.append((one.name, str(one.requests), ", ".join(one.models), *drain))
    show(found, as_json, lambda: table(head, rows, "No engine has joined."))


@app.command()
def drain(
    engine: Engine,
    reason: Reason,
    duration: For = "1h",
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Give an engine no new request, while what it generates goes on; it is the right of administrators."""
    from antiphon.services.engines.drains import EngineDrains

    with stores(project) as store:
        who = allowed(store, "administer", f"process/{engine}")
        held = EngineDrains(store).drain(who.id, engine, reason, duration)
    show(held, as_json, lambda: f"{held.engine} gets no requests until {held.until:%Y-%m-%d %H:%M:%S}Z.")


@app.command()
def resume(engine: Engine, reason: Reason, project: Project = HERE, as_json: Json = False) -> None:
    """Give an engine requests again that is drained, whoever drained it."""
    from antiphon.services.engines.drains import EngineDrains

    with stores(project) as store:
        who = allowed(store, "administer", f"process/{engine}")
        ended = EngineDrains(store).resume(who.id, engine, reason)
    show(ended, as_json, lambda: f"{engine} was not drained." if ended is None else f"{ended.engine} gets requests.")
