"""Progress of a durable run, told while a command waits for its end."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from antiphon.durable.run import Run
    from antiphon.services.project.store import Store

_POLL = 0.25


async def followed(store: Store, run: str, wait: bool) -> Run:
    """The run as it is now, or as it ended; its progress goes to stderr meanwhile."""
    from antiphon.durable.run import ENDED

    progress = RunProgress(run)
    found = await asyncio.to_thread(store.runs.get, store.scope, run)
    while wait and found.status not in ENDED:
        progress(found)
        await asyncio.sleep(_POLL)
        found = await asyncio.to_thread(store.runs.get, store.scope, run)
    progress(found)
    progress.end()
    return found


class RunProgress:
    """One line that is rewritten on a terminal; elsewhere a line a stage, each tenth of it, and each notice."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._terminal = sys.stderr.isatty()
        self._said: tuple[str, int] | str | None = None
        self._notice = ""

    def __call__(self, run: Run) -> None:
        """Say how far it is."""
        words = run.note or run.status
        text = f"{self._run} {words}" + (f" ({run.done} of {run.total})" if run.total and run.total > 1 else "")
        tenth = int(10 * run.done / run.total) if run.total else 0
        said = text if self._terminal else (words.partition(":")[0].partition(";")[0], tenth)
        notice = words.partition("; ")[2]
        if said == self._said and notice in ("", self._notice):
            return
        self._said, self._notice = said, notice or self._notice
        typer.echo(f"\r\x1b[K{text}" if self._terminal else text, err=True, nl=not self._terminal)

    def end(self) -> None:
        """Leave the line."""
        if self._terminal:
            typer.echo("", err=True)
