"""The command line of the kill harnesses: a size, a table, one JSON line last."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

_RESULTS = Path(__file__).parents[1] / "results"


def command(
    name: str, description: str | None, sizes: Iterable[str], run: Callable[[str, Any], dict[str, Any]],
    arguments: list[str] | None = None,
) -> int:  # fmt: skip
    """Run ``python -m benchmarks.durability.NAME`` and print; the exit code is 1 when something was violated.

    Args:
        run: a size and where to write on the way to the JSON line, whose ``holds`` tells whether all was well.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.durability.{name}", description=description)
    parser.add_argument("--size", choices=sorted(sizes), default="demo")
    parser.add_argument("--keep", action="store_true", help="append the line to the results")
    options = parser.parse_args(arguments)
    return finish(name, run(options.size, sys.stdout), keep=options.keep)


def finish(name: str, found: dict[str, Any], *, keep: bool) -> int:
    """Print the JSON line, append it to the results if asked to, and return the exit code."""
    line = json.dumps(found)
    if keep:
        with (_RESULTS / f"{name}.jsonl").open("a", encoding="utf-8") as results:
            results.write(line + "\n")
    sys.stdout.write(line + "\n")
    return 0 if found["holds"] else 1
