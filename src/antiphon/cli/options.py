"""Options and arguments that commands share."""

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
For = Annotated[str, typer.Option("--for", metavar="DURATION", help="It ends by itself after so long, such as 2h.")]
Probes = Annotated[
    int, typer.Option("--probes", min=0, help="Of each half of a safety suite at most so many probes; 0: all.")
]
Limit = Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many at most.")]
Application = Annotated[str, typer.Argument(help="The application.")]
OnlyApplication = Annotated[str, typer.Argument(help="Only this application's.")]
View = Annotated[str, typer.Argument(help="The view's name.")]
OtherRelease = Annotated[str, typer.Option("--release", help="A release other than the live one.")]
Role = Annotated[str, typer.Option("--role", help="admin, engineer, service or viewer.")]

HERE = Path()
"""Default of ``--project``: the present folder."""
