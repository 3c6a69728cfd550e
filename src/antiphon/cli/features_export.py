"""``antiphon features export``: a view's values where other tools read them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from antiphon.cli.options import HERE, Json, Project
from antiphon.cli.output import show
from antiphon.cli.project import at_terminal, stores


def export(
    view: Annotated[str, typer.Argument(help="The view.")],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="The table's folder.")],
    format_: Annotated[str, typer.Option("--format", help="delta or parquet.")] = "delta",
    snapshot: Annotated[str, typer.Option(help="Another snapshot than the published one.")] = "",
    purpose: Annotated[str, typer.Option(help="What for, as policies know it.")] = "",
    clear: Annotated[bool, typer.Option("--clear", help="Write clear text although the project is encrypted.")] = False,
    project: Project = HERE,
    as_json: Json = False,
) -> None:
    """Write a view's published values as a new version of a Delta table, or as a Parquet file."""
    from antiphon.features.exports.export import require_format
    from antiphon.services.export.export import export_view

    with stores(project) as store:
        exported = export_view(
            store,
            view,
            to,
            require_format(format_),
            principal=at_terminal(store),
            snapshot=snapshot or None,
            purpose=purpose,
            clear=clear,
        )
    written = exported.written

    def text() -> str:
        version = "" if written.version is None else f", version {written.version}"
        if not written.changed:
            return f"{written.path} holds {exported.about.snapshot} already{version}."
        withheld = f"; policy kept {written.withheld:,} back" if written.withheld else ""
        return f"Wrote {written.rows:,} rows of {exported.about.snapshot} to {written.path}{version}{withheld}."

    show(exported, as_json, text)
