"""``antiphon prompts optimize``: a search for a better system text, measured on cases that it never saw."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from antiphon.cli.options import HERE, Application, Json, OtherRelease, Project
from antiphon.cli.output import Progress, show
from antiphon.cli.regressions import version_named
from antiphon.core.errors import SetupError

if TYPE_CHECKING:
    from antiphon.catalog.learning.evaluations import IntervalEstimate
    from antiphon.learning.workbench.optimizer import OptimizedPrompt


def optimize(
    application: Application,
    name: Annotated[str, typer.Option("--set", metavar="SET", help="The regression set; both splits have cases.")],
    by: Annotated[str, typer.Option("--by", metavar="MODEL", help="The plain model that proposes texts.")],
    budget: Annotated[int, typer.Option(min=1, max=10_000, help="Requests to the application, about.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the search.")] = 0,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the text that was found.")] = None,
    release: OtherRelease = "",
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Search for a better system text on the visible cases of a regression set, and measure what was found on the
    held-out ones. Nothing live changes; `antiphon prompts try APPLICATION --system FILE` shows what it does."""
    from antiphon.app.wiring import open_learning
    from antiphon.services.learning.drafts import draft_of
    from antiphon.services.learning.prompt_trials import prompt_optimizer, reflecting

    async def found() -> OptimizedPrompt:
        async with open_learning(project) as (learning, store):
            base, _ = await asyncio.to_thread(lambda: draft_of(store, application, release=release or None))
            version = await asyncio.to_thread(version_named, store, name)
            await learning.serve(base)
            with Progress() as progress:
                return await prompt_optimizer(store, learning.recorded).optimize(
                    base, version, reflecting(learning.recorded, store.scope, by), budget=budget, seed=seed,
                    progress=progress,
                )  # fmt: skip

    made = asyncio.run(found())
    if out is not None:
        try:
            out.write_text(made.system, encoding="utf-8")
        except OSError as error:
            raise SetupError(f"{out} cannot be written: {error.strerror}.", next_step="Name another file.") from None
    show(made, as_json, lambda: _text(made))


def _text(made: OptimizedPrompt) -> str:
    return (
        f"{made.candidates} texts on {made.set}@{made.version}, {made.requests} requests: visible cases "
        f"{made.visible_before:.0%} before, {made.visible_after:.0%} after; held-out cases that pass "
        f"{_share(made.held_out_before)} before, {_share(made.held_out_after)} after.\n\n{made.system}"
    )


def _share(found: IntervalEstimate | None) -> str:
    return "-" if found is None else f"{found.value:.0%} ({found.low:.0%} to {found.high:.0%})"
