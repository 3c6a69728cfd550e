"""``antiphon init``: a small project that runs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from antiphon.cli.options import Json
from antiphon.cli.output import show
from antiphon.core.clock import SystemClock
from antiphon.core.errors import ConflictError, InvalidInputError, NotFoundError, SetupError
from antiphon.core.suggestions import nearest

_BLUEPRINTS = Path(__file__).parent / "blueprints"
_NAME = re.compile(r"[a-z][a-z0-9-]{0,40}\Z")


def init(
    name: Annotated[str, typer.Argument(help="Name of the project and of its new folder.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the gateway.")] = 8700,
    directory: Annotated[Path, typer.Option("--in", metavar="DIR", help="Where the folder is made.")] = Path(),
    template: Annotated[
        str, typer.Option(metavar="TEMPLATE", help="desk: a small application that answers; blank: nothing declared.")
    ] = "desk",
    as_json: Json = False,
) -> None:
    """Write a new project: settings, definitions, a README, and with the template `desk` a small data set."""
    known = sorted(folder.name for folder in _BLUEPRINTS.iterdir() if any(folder.glob("*.template")))
    if template not in known:
        raise NotFoundError(
            f"There is no template {template!r}.", where="--template", next_step=nearest(template, known)
        )
    if not _NAME.match(name):
        raise InvalidInputError(
            f"{name!r} is not a project's name.", where="NAME", next_step="Use lower-case letters, digits and hyphens."
        )
    target = directory / name
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConflictError(f"{target} exists and is not empty.", next_step="Choose another name, or remove it.")
    try:
        files = write(target, name, port, template)
    except OSError as error:
        raise SetupError(f"{error.filename or target} cannot be written: {error.strerror}.") from None
    steps = [f"cd {target}", "antiphon up"]
    show(
        {"project": name, "directory": str(target.resolve()), "files": files, "next": steps},
        as_json,
        lambda: f"Made {target} with {', '.join(files)}.\nNext:\n  " + "\n  ".join(steps),
    )


def write(target: Path, name: str, port: int, template: str = "desk") -> list[str]:
    """Write a blueprint into ``target``; it appears whole or not at all."""
    from antiphon.cli.blueprints.orders import write_orders

    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        # What every template has lies beside their folders.
        for file in [*_BLUEPRINTS.glob("*.template"), *(_BLUEPRINTS / template).glob("*.template")]:
            text = Template(file.read_text(encoding="utf-8")).substitute(name=name, port=port)
            (partial / file.name.removesuffix(".template").replace("dot-", ".")).write_text(text, encoding="utf-8")
        if template == "desk":
            write_orders(partial / "orders.csv", SystemClock().now())
        files = sorted(file.name for file in partial.iterdir())
        if target.exists():
            target.rmdir()
        partial.replace(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return files
