"""``antiphon features refresh``: views computed, gated and published anew by the worker."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from antiphon.cli import entity as entities
from antiphon.cli.options import HERE, Json, Project
from antiphon.cli.output import show
from antiphon.cli.project import require_worker, services
from antiphon.core.errors import AntiphonError

if TYPE_CHECKING:
    from antiphon.durable.run import Run


class MissingPublicationError(AntiphonError):
    """A refresh ended and not every view that it was to publish is."""

    code = "not_published"


def refresh(
    views: Annotated[list[str] | None, typer.Argument(help="Views; all when none is named.")] = None,
    as_of: entities.AsOf = "",
    whole: Annotated[
        bool, typer.Option("--whole", help="Read all of each source; take nothing over from the snapshot before.")
    ] = False,
    publish: Annotated[
        bool, typer.Option("--publish", help="With --as-of in the past: publish it where nothing newer is served.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it has ended, and say how far it is.")] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Order a refresh of views; the worker computes, gates and publishes them.

    `features backfill` computes them as of moments of the past, and publishes nothing.
    """
    from antiphon.gateway.admin.shapes import RunLine, read

    run = asyncio.run(_ordered(project, views or [], entities.moment(as_of), whole, publish, wait))
    if not wait:
        show(read(run, RunLine), as_json, lambda: run.id, f"`antiphon runs show {run.id}` follows it.")
        return
    show(read(run, RunLine), as_json, lambda: f"{run.id} {run.status}")
    if run.status != "succeeded":
        raise MissingPublicationError(
            f"The refresh {run.id} {run.status}: {run.error or 'no reason was given'}.",
            next_step="Look into .antiphon/logs/worker.log, mend the cause, refresh again.",
        )
    blocked = (run.result or {}).get("blocked") or {}
    if blocked:
        reasons = "; ".join(f"{key.partition('@')[0]}: {' '.join(why)}" for key, why in sorted(blocked.items()))
        raise MissingPublicationError(
            f"The refresh {run.id} published no new version of {len(blocked)} view(s): {reasons}",
            next_step="`antiphon features describe VIEW` shows its rules; correct the source and refresh again.",
        )


async def _ordered(
    project: Path, views: list[str], moment: datetime | None, whole: bool, publish: bool, wait: bool
) -> Run:
    from antiphon.cli.output import followed

    async with services(project) as (ports, store):
        if wait:
            require_worker(store, "refresh", "leave --wait out")
        ordered = await asyncio.to_thread(ports.work.runs.refresh, store.scope, views, moment, None, whole, publish)
        return await followed(store, ordered.id, wait)
