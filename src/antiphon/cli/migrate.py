"""``antiphon migrate``: the project moves between stores in its folder and stores on servers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from antiphon.cli.options import HERE, Json, Project
from antiphon.cli.output import Progress, show, table
from antiphon.core.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from antiphon.services.moving.project import ProjectMove

_AHEAD = "The project goes on with the stores that it has. Stop it and run the same command without --ahead."
_MOVED = (
    "antiphon.toml names the new stores; give every other host the same ones before it starts. The old stores still "
    "hold what they held, and may be removed."
)
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
    leave_lost: Annotated[
        bool, typer.Option("--leave-lost", help="Move without files that the project has lost already.")
    ] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Move the project to other stores, compared by hash, while it is stopped; what was cut off goes on. The way back
    is the same command. antiphon.toml is changed at the end; credentials stay in the variables that it names."""
    from antiphon.services.moving.project import copy_ahead, move, plan

    text = _requested(project, to, {"catalog": catalog, "lake": lake, "online": online, "log": log, "files": files})
    if dry_run:
        show(planned := plan(project, text), as_json, lambda: _lines(planned))
        return
    with Progress() as progress:

        def tell(what: str, done: int, total: int) -> None:
            progress(done, total, what)

        moved = copy_ahead(project, text, tell) if ahead else move(project, text, tell, leave_lost=leave_lost)
    show(moved, as_json, lambda: _lines(moved), _AHEAD if ahead else _MOVED)


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
    return "\n".join([table(head, rows, "The project was moved already."), *lost, *frozen])
