"""Options that every command has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Project = Annotated[
    Path,
    typer.Option("--project", metavar="DIR", envvar="ANTIPHON_PROJECT", help="Folder with antiphon.toml."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
Reason = Annotated[str, typer.Option("--reason", help="Why, for the record.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many at most.")]

HERE = Path()
"""Default of ``--project``: the present folder."""
