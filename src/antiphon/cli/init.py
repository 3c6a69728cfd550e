"""``antiphon init``: a small project that runs."""

from __future__ import annotations

import json
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
    blueprint: Annotated[
        str,
        typer.Option(
            metavar="BLUEPRINT",
            help="desk: figures of small shops; triage: support tickets; extraction: fields of mails; "
            "enrichment: a table at night; assistant: answers from a handbook; blank: nothing declared.",
        ),
    ] = "desk",
    as_json: Json = False,
) -> None:
    """Write a new project that runs: settings, definitions, data, tests and a README."""
    known = sorted(folder.name for folder in _BLUEPRINTS.iterdir() if any(folder.glob("*.template")))
    if blueprint not in known:
        raise NotFoundError(
            f"There is no blueprint {blueprint!r}.", where="--blueprint", next_step=nearest(blueprint, known)
        )
    if not _NAME.match(name):
        raise InvalidInputError(
            f"{name!r} is not a project's name.", where="NAME", next_step="Use lower-case letters, digits and hyphens."
        )
    target = directory / name
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConflictError(f"{target} exists and is not empty.", next_step="Choose another name, or remove it.")
    try:
        files = write(target, name, port, blueprint)
    except OSError as error:
        raise SetupError(f"{error.filename or target} cannot be written: {error.strerror}.") from None
    steps = [f"cd {target}", "antiphon up"]
    show(
        {"project": name, "directory": str(target.resolve()), "files": files, "next": steps},
        as_json,
        lambda: f"Made {target} with {', '.join(files)}.\nNext:\n  " + "\n  ".join(steps),
    )


def write(target: Path, name: str, port: int, blueprint: str = "desk") -> list[str]:
    """Write a blueprint into ``target``; it appears whole or not at all."""
    from antiphon.cli.blueprints.handbook import write_handbook
    from antiphon.cli.blueprints.mails import write_mails
    from antiphon.cli.blueprints.orders import write_orders
    from antiphon.cli.blueprints.products import write_products
    from antiphon.cli.blueprints.tickets import write_tickets

    records = {
        "assistant": write_handbook,
        "desk": write_orders,
        "enrichment": write_products,
        "extraction": write_mails,
        "triage": write_tickets,
    }
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        own = {file.name.removesuffix(".template") for file in (_BLUEPRINTS / blueprint).glob("*.template")}
        sections = {"policy": _policy(own), "tools": _tools(own)}
        # What every blueprint has lies beside their folders.
        for file in [*_BLUEPRINTS.glob("*.template"), *(_BLUEPRINTS / blueprint).glob("*.template")]:
            text = Template(file.read_text(encoding="utf-8")).substitute(name=name, port=port, **sections)
            (partial / file.name.removesuffix(".template").replace("dot-", ".")).write_text(text, encoding="utf-8")
        if blueprint in records:
            records[blueprint](partial, SystemClock().now())
        files = sorted(file.name for file in partial.iterdir())
        if target.exists():
            target.rmdir()
        partial.replace(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return files


def _tools(files: set[str]) -> str:
    """The setting that allows a blueprint's module of tools; empty for one without any."""
    return '\ntool_modules = ["shop_tools"]' if "shop_tools.py" in files else ""


def _policy(files: set[str]) -> str:
    """The section that names a blueprint's policies and their cases; empty for one without any."""
    rules = sorted(files & {"attributes.toml", "rules.cedar"})
    if not rules:
        return ""
    return f'\n[policy]\nfiles = {json.dumps(rules)}\ntests = ["rules_test.toml"]\n'
