"""``antiphon explain`` and ``antiphon replay``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from antiphon.cli.options import HERE, Json, Project
from antiphon.cli.outline import outline
from antiphon.cli.output import show
from antiphon.cli.project import at_terminal, refusals_on_record, services

Prediction = Annotated[str, typer.Argument(metavar="PREDICTION", help="Its id, pred_….")]


def explain(
    prediction: Prediction,
    full: Annotated[bool, typer.Option("--full", help="Everything, down to prompts and source rows.")] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Show the inputs of one prediction on one screen; --full and --json have everything."""
    import asyncio

    from antiphon.cli.explanation import brief

    async def found() -> Mapping[str, Any]:
        async with services(project) as (ports, store):
            reader = at_terminal(store)
            with refusals_on_record(store, reader, "read", f"prediction/{prediction}"):
                receipt = ports.access.records.require_prediction(store.scope, reader, prediction)
            rows = full or as_json  # the short form shows none
            source_rows = rows and ports.access.records.may_read_source_rows(store.scope, reader, receipt)
            store.trail.record(store.scope, reader.id, "data.read", prediction, {"route": "antiphon explain"})
            return await asyncio.to_thread(ports.predictions.explain, store.scope, prediction, source_rows)

    explained = asyncio.run(found())
    show(explained, as_json, lambda: outline(explained) if full else brief(explained))


def replay(prediction: Prediction, project: Project = HERE, as_json: Json = False) -> None:
    """Make a prediction's text again and compare; leaves with 1 when it differs."""
    import asyncio

    async def made() -> Mapping[str, Any]:
        async with services(project) as (ports, store):
            reader = at_terminal(store)
            with refusals_on_record(store, reader, "answer", f"prediction/{prediction}"):
                ports.access.records.require_replay(store.scope, reader, prediction)
            store.trail.record(store.scope, reader.id, "data.read", prediction, {"route": "antiphon replay"})
            return await ports.predictions.replay(store.scope, prediction)

    replayed = asyncio.run(made())
    show(replayed, as_json, lambda: outline(replayed))
    if replayed.get("identical") is False:
        raise typer.Exit(1)
