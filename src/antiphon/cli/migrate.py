"""``antiphon migrate``: the project moves between stores in its folder and stores on servers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from antiphon.cli.options import HERE, Json, Project
from antiphon.cli.output import Progress, note, show, table
from antiphon.core.clock import parse_duration
from antiphon.core.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from antiphon.services.moving.project import ProjectMove

_AHEAD = "The project goes on with the stores that it has. Stop it and run the same command without --ahead."
_MOVED = (
    "antiphon.toml names the new stores; give every other host the same ones before it starts. The old stores still "
    "hold what they held, and may be removed."
)
_MOVED_LIVE = "antiphon.toml names the new stores. The old stores still hold what they held, and may be removed."
_WHERE = "or `embedded` for the project's folder."


def migrate(
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="FILE.toml", help="A copy of antiphon.toml that names the stores to move to."),
    ] = None,
    catalog: Annotated[
        str | None, typer.Option(metavar="URL", help=f"postgresql://USER@HOST/DATABASE, {_WHERE}")
    ] = None,
    lake: Annotated[str | None, typer.Option(metavar="URL", help=f"s3://BUCKET/PREFIX?endpoint=URL, {_WHERE}")] = None,
    online: Annotated[str | None, typer.Option(metavar="URL", help=f"redis://HOST:PORT/DATABASE, {_WHERE}")] = None,
    log: Annotated[str | None, typer.Option(metavar="URL", help=f"nats://HOST:PORT, {_WHERE}")] = None,
    files: Annotated[str | None, typer.Option(metavar="URL", help="As --lake, of the files of batches.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would be written, and write nothing.")] = False,
    ahead: Annotated[
        bool, typer.Option("--ahead", help="Copy while the project runs, so that the move itself is short.")
    ] = False,
    live: Annotated[
        bool,
        typer.Option("--live", help="Move the project while it runs: its processes wait for a moment and go on there."),
    ] = False,
    freeze_at_most: Annotated[
        str, typer.Option(metavar="DURATION", help="With --live: longer than this, and everything goes on as before.")
    ] = "10s",
    leave_lost: Annotated[
        bool, typer.Option("--leave-lost", help="Move without files that the project has lost already.")
    ] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Move the project to other stores, compared by hash, while it is stopped, or with --live while it runs; what was
    cut off goes on. The way back is the same command. antiphon.toml is changed at the end; credentials stay in the
    variables that it names."""
    from antiphon.services.moving.live import move_live, plan_live
    from antiphon.services.moving.project import copy_ahead, move, plan

    seconds = parse_duration(freeze_at_most).total_seconds()
    if live and ahead:
        raise InvalidInputError(
            "A live move copies ahead by itself.", where="--ahead", next_step="Leave one of --live and --ahead out."
        )
    text = _requested(project, to, {"catalog": catalog, "lake": lake, "online": online, "log": log, "files": files})
    if dry_run:
        show(planned := plan_live(project, text) if live else plan(project, text), as_json, lambda: _lines(planned))
        return
    with Progress() as progress:

        def tell(what: str, done: int, total: int) -> None:
            progress(done, total, what)

        if live:
            moved = move_live(project, text, tell, leave_lost=leave_lost, freeze_at_most=seconds)
        else:
            moved = copy_ahead(project, text, tell) if ahead else move(project, text, tell, leave_lost=leave_lost)
    show(moved, as_json, lambda: _lines(moved), _AHEAD if ahead else _MOVED_LIVE if live else _MOVED)
    if moved.missing:
        note(f"Not back yet: {', '.join(moved.missing)}. Their logs say why; the project is in the new stores.")


def _requested(project: Path, to: Path | None, urls: dict[str, str | None]) -> str:
    from antiphon.core.settings import FILE_NAME, load
    from antiphon.services.moving.settings_file import edited

    given = {store: url for store, url in urls.items() if url is not None}
    if (to is None) is (not given):
        raise InvalidInputError(
            "Name the stores to move to by their options, or all of them in one file.",
            where="antiphon migrate",
            next_step="For example: antiphon migrate --catalog postgresql://USER@HOST/DATABASE --lake s3://BUCKET/PREFIX",
        )
    if to is None:
        load(project)  # Raises what is wrong with it.
        return edited((project / FILE_NAME).read_text(encoding="utf-8"), given)
    try:
        return to.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise NotFoundError("There is no such file of settings.", where=str(to)) from error


def _lines(moved: ProjectMove) -> str:
    head = ("part", "from", "to", "items", "written", "bytes", "seconds")
    rows = [
        (one.part, one.source, one.target, f"{one.items:,}", f"{one.moved:,}", f"{one.bytes:,}", round(one.seconds, 2))
        for one in moved.parts
    ]
    lost = [f"{len(moved.lost)} files are lost and were left: {', '.join(moved.lost[:3])} …"] if moved.lost else []
    frozen = [f"Nothing could be written for {moved.frozen_seconds:.1f} s."] if moved.frozen_seconds else []
    begun = [f"Begun again: {', '.join(moved.processes)}."] if moved.processes and moved.frozen_seconds else []
    if moved.processes and not moved.frozen_seconds:
        expected = moved.expected_seconds
        freeze = (
            "How long the freeze takes is known after a copy with --ahead."
            if expected is None
            else f"The freeze would take about {expected:.1f} s."
        )
        begun = [f"Would begin again: {', '.join(moved.processes)}. {freeze}"]
    return "\n".join([table(head, rows, "The project was moved already."), *lost, *frozen, *begun])
