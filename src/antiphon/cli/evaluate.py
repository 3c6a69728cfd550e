"""``antiphon evaluate``: what a release does, through the function that serves, before anybody sees it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from antiphon.cli import entity as entities
from antiphon.cli.models import evaluated
from antiphon.cli.options import HERE, Json, Project
from antiphon.cli.output import Progress, show
from antiphon.core.errors import InvalidInputError

if TYPE_CHECKING:
    from antiphon.catalog.learning.evaluations import Evaluation


def evaluate(
    release: Annotated[str, typer.Argument(help="A release's id.")],
    dataset: Annotated[str, typer.Option(help="An evaluation set; without one, the moments held out are used.")] = "",
    cutoff: Annotated[str, typer.Option(help="Without a set: nothing known later than this is used.")] = "",
    rows: Annotated[int, typer.Option(min=1, help="Rows at most.")] = 300,
    mode: Annotated[str, typer.Option(help="classes: only the outcome's property; whole: the whole output.")] = "whole",
    texts: Annotated[int, typer.Option(min=0, help="In mode classes: rows asked for the whole output too.")] = 60,
    against: Annotated[str, typer.Option(help="A release to compare with by pairs; by default the live one.")] = "",
    safety: Annotated[bool, typer.Option("--safety/--no-safety", help="Also try the safety suites.")] = True,
    probes: Annotated[int, typer.Option(min=0, help="Of each suite at most so many in a half; 0 for all.")] = 0,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Evaluate a release and check its gates; it changes no stage. Interrupted, it goes on where it stopped."""
    if mode not in ("classes", "whole"):
        raise InvalidInputError(f"There is no mode {mode!r}.", where="--mode", next_step="Choose classes or whole.")
    from antiphon.app.wiring import open_learning

    async def found() -> Evaluation:
        async with open_learning(project) as (learning, store):
            candidate = await asyncio.to_thread(store.releases.get, store.scope, release)
            live = await asyncio.to_thread(store.releases.live, store.scope, candidate.bundle.application.name)
            await asyncio.to_thread(learning.validation.require_whole, candidate)
            if dataset:
                chosen = await asyncio.to_thread(store.datasets.get, store.scope, dataset)
            else:  # What the release's model was not trained on: its own held out moments.
                moment = entities.moment(cutoff)
                chosen = await asyncio.to_thread(learning.held_out, store.scope, candidate, rows, moment)
            with Progress() as progress:
                return await learning.evaluators.on_datasets.evaluate(
                    candidate,
                    chosen,
                    mode="classes" if mode == "classes" else "whole",
                    limit=rows,
                    whole=texts if mode == "classes" else 0,
                    against=against or (live.id if live is not None and live.id != release else None),
                    with_safety=safety,
                    probes=probes or None,
                    progress=progress,
                )

    evaluation = asyncio.run(found())
    show(evaluation, as_json, lambda: evaluated(evaluation))
