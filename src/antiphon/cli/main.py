"""``antiphon``: assembles the commands and turns errors into one line, a next step and an exit code.

Nothing heavy is imported here: a command imports what it needs when it runs, so that ``--help`` is quick.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from functools import cache
from types import ModuleType
from typing import Annotated

import typer

from antiphon.cli.output import fail, unforeseen
from antiphon.core import disk
from antiphon.core.errors import AntiphonError, InvalidInputError

BROKEN_PIPE = 141
"""The exit code of a program whose reader went away: 128 and the number of SIGPIPE, as shells tell it."""


def open_missing() -> None:
    """Put ``/dev/null`` in the place of standard streams that are closed (``>&-``), as the C library asks for: what is
    opened next would otherwise get their numbers, and be written to."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # The lowest number that is free, which is this one.
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)


def reader_gone(error: BaseException | None) -> bool:
    """Tell whether an error is that of a reader that went away (``| head -1``), or comes of one."""
    while error is not None:
        if isinstance(error, BrokenPipeError):
            return True
        error = error.__context__
    return False


_COMMANDS = {
    "init": "init",
    "up": "up",
    "restart": "restart",
    "gateway": "processes",
    "worker": "processes",
    "engine": "processes",
    "plan": "plan",
    "apply": "plan",
    "status": "status",
    "history": "history",
    "ask": "ask",
    "explain": "predictions",
    "replay": "predictions",
    "train": "train",
    "evaluate": "evaluate",
    "rollback": "rollouts",
    "doctor": "doctor",
    "migrate": "migrate",
}
"""Modules of the commands; in each a function has the command's name."""
_GROUPS = {
    name: name
    for name in (
        "features", "documents", "datasets", "models", "prompts", "evaluations", "conversations", "releases",
        "outcomes", "batch", "runs", "notifications", "lineage", "schedules", "assets", "objectives", "incidents",
        "playbooks", "engines", "precomputed", "freeze", "training", "telemetry", "chaos", "cost", "budgets", "events",
        "keys", "principals", "tenants", "grants", "policy", "audit", "encryption", "tls",
    )
} | {"windows": "schedules"}  # fmt: skip
"""Modules of the groups of commands; in each ``app`` is the group, or ``NAME_app`` when it is not the module's own."""

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


def _print_version(requested: bool) -> None:
    if requested:
        import importlib.metadata

        typer.echo(f"antiphon {importlib.metadata.version('antiphon')}")
        raise typer.Exit


@cache
def assemble(named: str | None = None) -> typer.Typer:
    """Every command, in the order of first use. With ``named``, the first word of a call, only what that call needs is
    read: the command of that name, or, when there is none, the names of all for a help or an error."""
    app = typer.Typer(
        name="antiphon",
        help="Batch and online generation as two halves of one system.",
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings=_CONTEXT,
    )
    app.callback()(_options)
    found = named in _COMMANDS or named in _GROUPS
    for name, module in _COMMANDS.items():
        if not found or name == named:
            app.command(name)(getattr(_read(module), name))
    for name, module in _GROUPS.items():
        if named in (None, name):
            app.add_typer(_group(name, module))
        elif not found:
            whole = _group(name, module)
            app.add_typer(typer.Typer(name=name, help=whole.info.help))
    return app


def _group(name: str, module: str) -> typer.Typer:
    attribute = "app" if name == module else f"{name}_app"
    group: typer.Typer = getattr(_read(module), attribute)
    return group


def _read(module: str) -> ModuleType:
    return importlib.import_module(f"antiphon.cli.{module}")


def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Holds the options that stand before a command."""


def main() -> None:
    """Entry point of the ``antiphon`` program."""
    gc.set_threshold(20_000, 20, 50)  # Most of what a command makes is modules, which are no garbage.
    open_missing()
    disk.make_private()
    try:
        _require_text(sys.argv)
        assemble(next(iter(sys.argv[1:]), ""))()
    except SystemExit as ended:
        # Typer leaves with 1 when whoever reads has gone; programs tell such an end from a failure by its code.
        sys.exit(BROKEN_PIPE if reader_gone(ended.__context__) else ended.code)
    except AntiphonError as error:
        sys.exit(fail(error, "--json" in sys.argv))
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        sys.exit(fail(unforeseen(error), "--json" in sys.argv))


def _require_text(arguments: list[str]) -> None:
    """Refuse an argument that is no text: nothing that is kept or printed could hold it; raises ``InvalidInputError``
    when its bytes are no UTF-8."""
    for number, argument in enumerate(arguments):
        if any("\ud800" <= character <= "\udfff" for character in argument):
            raise InvalidInputError(
                "An argument is not UTF-8.", where=f"argument {number}", next_step="Write it in UTF-8."
            )


if __name__ == "__main__":
    main()
