"""``antiphon prompts optimize | optimization``: a search for a better system text, which the worker makes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from antiphon.cli.options import HERE, Application, Json, OtherRelease, Project
from antiphon.cli.output import followed, note, show
from antiphon.cli.project import at_terminal, require_worker, stores
from antiphon.cli.regressions import version_named, workbench_of
from antiphon.cli.train import Wait
from antiphon.core.errors import AntiphonError, SetupError

if TYPE_CHECKING:
    from antiphon.catalog.learning.evaluations import IntervalEstimate
    from antiphon.durable.run import Run
    from antiphon.services.learning.workbench_orders import Optimization, WorkbenchOrders
    from antiphon.services.project.store import Store

Out = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write the text that was found.")]


class OptimizationError(AntiphonError):
    """The search ended without a text."""

    code = "optimization_failed"


def optimize(
    application: Application,
    name: Annotated[str, typer.Option("--set", metavar="SET", help="The regression set; both splits have cases.")],
    by: Annotated[str, typer.Option("--by", metavar="MODEL", help="The plain model that proposes texts.")],
    budget: Annotated[int, typer.Option(min=1, max=10_000, help="Requests to the application, about.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the search.")] = 0,
    out: Out = None,
    release: OtherRelease = "",
    wait: Wait = True,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Search for a better system text on the visible cases of a regression set, and measure what was found on the
    held-out ones. The worker makes it: it survives a crash, and Ctrl-C leaves it running. Nothing live changes;
    `antiphon prompts try APPLICATION --system FILE` shows what a text does."""
    from antiphon.services.learning.workbench_orders import OptimizationOrder

    with stores(project) as store:
        if wait:
            require_worker(store, "search", "pass --no-wait")
        version = version_named(store, name)
        order = OptimizationOrder(version.name, by, budget, seed, release or None, version.version)
        run = _orders(store).place_optimization(store.scope, at_terminal(store), application, order)
        try:
            asyncio.run(followed(store, run.id, wait))
        except KeyboardInterrupt:
            note(
                f"\nThe search goes on: `antiphon prompts optimization {run.id}`; "
                f"`antiphon runs cancel {run.id}` ends it."
            )
            raise
        found = _orders(store).optimization(store.scope, run.id)
    _show(found, out, as_json, ended=wait)


def optimization(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run of `prompts optimize`.")],
    out: Out = None,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """A search for a better system text: how far it is, or what it found."""
    with stores(project) as store:
        found = _orders(store).optimization(store.scope, run)
    _show(found, out, as_json, ended=out is not None)


def _show(found: Optimization, out: Path | None, as_json: bool, *, ended: bool) -> None:
    run, made = found.run, found.result
    if made is None and ended:
        raise OptimizationError(
            f"The search is {run.status}: {_reason(run)}",
            where=run.id,
            next_step="What is live is as it was. While it runs, `antiphon runs show` says how far it is; where it "
            "failed, mend the cause and order it again.",
        )
    if made is not None and out is not None:
        try:
            out.write_text(made.system, encoding="utf-8")
        except OSError as error:
            raise SetupError(
                f"{out} cannot be written: {error.strerror}.",
                next_step=f"Name another file: `antiphon prompts optimization {run.id} --out FILE`.",
            ) from None
    value = {
        "run": run.id, "status": run.status, "done": run.done, "total": run.total, "note": run.note, "error": run.error,
        "application": found.application, "order": msgspec.to_builtins(found.order),
        "result": None if made is None else msgspec.to_builtins(made),
    }  # fmt: skip
    show(value, as_json, lambda: _text(found))


def _text(found: Optimization) -> str:
    run, made = found.run, found.result
    if made is None:
        far = f" ({run.done} of {run.total})" if run.total else ""
        return f"{run.id} {run.status}{far}: {_reason(run)}"
    return (
        f"{made.candidates} texts on {made.set}@{made.version}, {made.requests} requests: visible cases "
        f"{made.visible_before:.0%} before, {made.visible_after:.0%} after; held-out cases that pass "
        f"{_share(made.held_out_before)} before, {_share(made.held_out_after)} after.\n\n{made.system}"
    )


def _reason(run: Run) -> str:
    """The reason why a search has no text."""
    if run.status == "cancelled":
        return "the texts that it had tried are gone"
    return run.error or run.note or "it has no text yet"


def _share(found: IntervalEstimate | None) -> str:
    return "-" if found is None else f"{found.value:.0%} ({found.low:.0%} to {found.high:.0%})"


def _orders(store: Store) -> WorkbenchOrders:
    from antiphon.services.learning.workbench_orders import WorkbenchOrders

    return WorkbenchOrders(store, workbench_of(store))
