"""``antiphon models``: weights on this machine."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from antiphon.cli.options import Json
from antiphon.cli.output import Progress, show, table

app = typer.Typer(name="models", help="Model weights in the cache.", no_args_is_help=True)


@app.command()
def pull(
    name: Annotated[str, typer.Argument(help="A registered model, e.g. smollm2-135m.")], as_json: Json = False
) -> None:
    """Fetch a model's weights, check their SHA-256, keep them in the cache."""
    from antiphon.engine import weights

    progress = Progress(name, " MB", 1e6)
    path = weights.pull(name, progress=progress)
    progress.end()
    show({"model": name, "path": str(path)}, as_json, lambda: str(path))


@app.command("list")
def list_models(as_json: Json = False) -> None:
    """Registered models and whether they are in the cache."""
    from antiphon.core.errors import SetupError
    from antiphon.engine import weights

    lines: list[dict[str, Any]] = []
    for name, package in sorted(weights.REGISTRY.items()):
        try:
            path: str | None = str(weights.resolve(name).path)
        except SetupError:
            path = None
        lines.append(
            {"model": name, "size": package.size, "licence": package.licence, "sha256": package.sha256, "path": path}
        )
    rows = [
        (line["model"], f"{line['size'] / 1e6:.0f} MB", line["licence"], line["path"] or "not pulled") for line in lines
    ]
    show(lines, as_json, lambda: table(("model", "size", "licence", "path"), rows))
