"""Output of the commands: JSON or aligned text to stdout; notes, progress and errors to stderr."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

import msgspec
import typer

from antiphon.core.errors import AntiphonError, InternalError
from antiphon.core.logs import cause_lines, described

if TYPE_CHECKING:
    from antiphon.durable.run import Run
    from antiphon.services.project.store import Store


def show(value: Any, as_json: bool, text: Callable[[], str], *hints: str) -> None:
    """Print a result: the value as one JSON document, or its text, and the hints beside it."""
    if as_json:
        show_json(value)
        return
    typer.echo(text())
    for hint in filter(None, hints):
        note(hint)


def show_json(value: Any) -> None:
    """Print a value as one JSON document."""
    typer.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], empty: str = "Nothing yet.") -> str:
    """Columns aligned by their widest cell; numbers to the right. One blank line is never needed."""
    cells = [[_cell(value) for value in row] for row in rows]
    if not cells:
        return empty
    numeric = [all(_is_number(row[column]) for row in cells) for column in range(len(head))]
    widths = [max(len(head[column]), *(len(row[column]) for row in cells)) for column in range(len(head))]

    def line(row: Sequence[str]) -> str:
        placed = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, numeric, strict=True)
        ]
        return "  ".join(placed).rstrip()

    return "\n".join([_bold(line(head)), *(line(row) for row in cells)])


def note(text: str) -> None:
    """A line beside the result: progress, hints."""
    typer.echo(text, err=True)


def moment(at: datetime | None) -> str:
    """An instant to the second, in UTC."""
    return at.strftime("%Y-%m-%d %H:%M:%SZ") if at is not None else "-"


def shortened(value: Any, longest: int) -> str:
    """A value on one line, cut after so many characters."""
    line = " ".join(str(value).split())
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def short_fingerprint(model: str, text: str) -> str:
    """The part of a model's fingerprint by which people tell it from others: of a remote one, its version."""
    return text.removeprefix(f"remote:{model}:").partition(":")[0][:12]


def fail(error: AntiphonError, as_json: bool) -> int:
    """Print an error with its next step; the exit code to leave with."""
    if as_json:
        problem = {"code": error.code, "message": error.what, "where": error.where, "next_step": error.next_step}
        typer.echo(msgspec.json.encode({"error": problem}).decode(), err=True)
        return error.exit_code
    typer.echo(typer.style("error", fg="red", bold=True) + f": {error.located}", err=True)
    if error.next_step:
        typer.echo(f"  next: {error.next_step.strip()}", err=True)
    return error.exit_code


TRACEBACK = "ANTIPHON_TRACEBACK"
"""Set in the environment, an error that no code raised on purpose is told with its traceback."""


def unforeseen(error: Exception) -> InternalError:
    """Describes an unexpected error by its type alone, as its message may hold a user's data."""
    if os.environ.get(TRACEBACK):
        note("\n".join(cause_lines(error)))
    return InternalError(
        f"{described(error)}: a fault of Antiphon itself.",
        next_step=f"Run it again with {TRACEBACK}=1 in the environment, and report what it says.",
    )


class Progress:
    """One line that is rewritten on a terminal, and said at most every tenth elsewhere; its block ends it."""

    def __init__(self, label: str = "", unit: str = "", scale: float = 1.0) -> None:
        self._label = label
        self._unit = unit
        self._scale = scale
        self._terminal = sys.stderr.isatty()
        self._said = -1

    def __call__(self, done: float, total: float | None, label: str | None = None) -> None:
        """Say how far it is; units are divided by ``scale``. Another label begins another line."""
        if label is not None and label != self._label:
            self.end()
            self._label, self._said = label, -1
        share = int(10 * done / total) if total else 0
        if not self._terminal and share == self._said:
            return
        self._said = share
        of = f" / {total / self._scale:,.0f}" if total else ""
        text = f"{self._label} {done / self._scale:,.0f}{of}{self._unit}"
        typer.echo(f"\r\x1b[K{text}" if self._terminal else text, err=True, nl=not self._terminal)

    def end(self) -> None:
        """Leave the line."""
        if self._terminal and self._said >= 0:
            typer.echo("", err=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return str(value)


def _is_number(text: str) -> bool:
    return text == "-" or text.replace(",", "").replace(".", "", 1).replace("%", "").lstrip("-").isdigit()


def _bold(text: str) -> str:
    plain = not sys.stdout.isatty() or os.environ.get("NO_COLOR")
    return text if plain else typer.style(text, bold=True)


_POLL = 0.25


async def followed(store: Store, run: str, wait: bool) -> Run:
    """The run as it is now, or as it ended; its progress goes to stderr meanwhile."""
    from antiphon.durable.run import ENDED

    progress = RunProgress(run)
    found = await asyncio.to_thread(store.runs.get, store.scope, run)
    while wait and found.status not in ENDED:
        progress(found)
        await asyncio.sleep(_POLL)
        await asyncio.to_thread(store.database.require_unmoved)  # The run goes on elsewhere, and would not end here.
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
