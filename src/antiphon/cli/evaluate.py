"""``antiphon evaluate``: what a release does, through the function that serves, before anybody sees it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from antiphon.cli import entity as entities
from antiphon.cli.models import evaluated
from antiphon.cli.options import HERE, Json, Project
from antiphon.cli.output import Progress, show

if TYPE_CHECKING:
    from antiphon.catalog.datasets import Dataset
    from antiphon.catalog.evaluations import Evaluation
    from antiphon.catalog.releases import Release
    from antiphon.services.learning.training import LearningPlatform
    from antiphon.services.project.store import Store


def evaluate(
    release: Annotated[str, typer.Argument(help="A release's id.")],
    dataset: Annotated[str, typer.Option(help="An evaluation set; without one, the moments held out are used.")] = "",
    cutoff: Annotated[str, typer.Option(help="Without a set: nothing known later than this is used.")] = "",
    rows: Annotated[int, typer.Option(min=1, help="Rows at most.")] = 300,
    mode: Annotated[str, typer.Option(help="classes: only the outcome's property; whole: the whole output.")] = "whole",
    texts: Annotated[int, typer.Option(min=0, help="In mode classes: rows asked for the whole output too.")] = 60,
    against: Annotated[str, typer.Option(help="A release to compare with by pairs; by default the live one.")] = "",
    attacks: Annotated[bool, typer.Option("--attacks/--no-attacks", help="Also try the attack sets.")] = True,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Evaluate a release and check its gates; it changes no stage. Interrupted, it goes on where it stopped."""
    from antiphon.core.errors import InvalidInputError

    if mode not in ("classes", "whole"):
        raise InvalidInputError(f"There is no mode {mode!r}.", where="--mode", next_step="Choose classes or whole.")
    order = (release, dataset or None, cutoff, rows, mode, texts, against or None, attacks)
    found = asyncio.run(_evaluate(project, *order))
    show(found, as_json, lambda: evaluated(found))


async def _evaluate(
    project: Path, release: str, dataset: str | None, cutoff: str, rows: int, mode: str, texts: int,
    against: str | None, attacks: bool,
) -> Evaluation:  # fmt: skip
    from antiphon.app.wiring import open_project
    from antiphon.services.learning.training import LearningPlatform

    wired = open_project(project)
    progress, stage = Progress(""), ""

    def tell(done: int, total: int, note: str) -> None:
        nonlocal progress, stage
        if note != stage:
            progress.end()
            progress, stage = Progress(note), note
        progress(done, total)

    try:
        store = wired.store
        learning = LearningPlatform(store, wired.engine, wired.commit, wired.features)
        candidate = await asyncio.to_thread(store.releases.get, store.scope, release)
        live = await asyncio.to_thread(store.releases.live, store.scope, candidate.bundle.application.name)
        if against is None and live is not None and live.id != release:
            against = live.id
        await asyncio.to_thread(learning.validation.require_whole, candidate)
        chosen = await asyncio.to_thread(_dataset, learning, store, candidate, dataset, cutoff, rows)
        return await learning.evaluator.evaluate(
            candidate,
            chosen,
            mode="classes" if mode == "classes" else "whole",
            limit=rows,
            whole=texts if mode == "classes" else 0,
            against=against,
            with_attacks=attacks,
            progress=tell,
        )
    finally:
        progress.end()
        await wired.close()


def _dataset(
    learning: LearningPlatform, store: Store, release: Release, dataset: str | None, cutoff: str, rows: int
) -> Dataset:
    """The named set, or what the release's model was not trained on: its own held out moments."""
    if dataset is not None:
        return store.datasets.get(store.scope, dataset)
    return learning.held_out(store.scope, release, rows, entities.moment(cutoff))
