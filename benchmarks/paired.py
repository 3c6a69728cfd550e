"""Runs one benchmark by turns in this tree and in an earlier revision, and prints each figure's ratio with its range.

    python -m benchmarks.paired REVISION --rounds 6 -- gateway --size ci --no-peer
    python -m benchmarks.paired REVISION --before "feature_lookup --size ci" -- features.lookup --size ci

The revision is checked out into a temporary folder and runs under this interpreter with its own ``src`` first, so both
sides have the same libraries; ``--packages DIR`` adds a folder of packages that only the revision needs. Machines
differ within minutes: the two sides of a round run back to back, in alternating order, and only ratios within a round
count.
Each figure is a number of the JSON line that the benchmark prints last, named by its path there.

A table of the median ratio (this tree / the revision) and the smallest and largest of the rounds, then one JSON line,
kept in ``benchmarks/results/paired.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def main() -> int:
    """Measure, print, keep; returns 1 when either side prints no JSON line in a round."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("revision", help="what git knows the earlier state by")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--before", help="the benchmark's module and options there, where they differ from here")
    parser.add_argument("--packages", type=Path, help="a folder of packages that only the revision needs")
    parser.add_argument("--only", default="", help="keep figures whose path matches this regular expression")
    parser.add_argument("--seconds", type=float, default=600.0, help="bound of one run")
    parser.add_argument("command", nargs="+", help="module below benchmarks and its options, after --")
    options = parser.parse_args()
    before = options.before.split() if options.before else options.command
    rounds: list[dict[str, float]] = []
    with checkout(options.revision) as (folder, commit):
        sides = {"before": (folder, before, options.packages), "after": (ROOT, options.command, None)}
        for number in range(options.rounds):
            found: dict[str, dict[str, float]] = {}
            for side in ("before", "after") if number % 2 == 0 else ("after", "before"):
                found[side] = _run(*sides[side], options.seconds)
                if not found[side]:
                    print(f"round {number + 1}: the {side} side printed no JSON line", file=sys.stderr)
                    return 1
            rounds.append(_ratios(found["before"], found["after"]))
            print(f"round {number + 1} of {options.rounds}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    figures = _summary(
        [{name: ratio for name, ratio in one.items() if re.search(options.only, name)} for one in rounds]
    )
    for name, (median, least, most) in figures.items():
        print(f"{name:<90} {median:>7.3f}  {least:.3f} to {most:.3f}")
    summary = {
        "benchmark": "paired",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": options.command,
        "before": commit,
        "rounds": options.rounds,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "ratios": figures,
    }
    with (RESULTS / "paired.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(summary) + "\n")
    print(json.dumps(summary))
    return 0


@contextmanager
def checkout(revision: str) -> Iterator[tuple[Path, str]]:
    """A temporary working tree of a revision, and its commit."""
    with tempfile.TemporaryDirectory(prefix="paired-") as parent:
        folder = Path(parent) / "tree"
        git = ("git", "-C", str(ROOT))
        subprocess.run((*git, "worktree", "add", "--quiet", "--detach", str(folder), revision), check=True)
        try:
            found = subprocess.run(
                ("git", "-C", str(folder), "rev-parse", "--short=12", "HEAD"),
                check=True,
                capture_output=True,
                text=True,
            )
            yield folder, found.stdout.strip()
        finally:
            subprocess.run((*git, "worktree", "remove", "--force", str(folder)), check=True)


def _run(tree: Path, command: Sequence[str], packages: Path | None, seconds: float) -> dict[str, float]:
    """The numbers of a benchmark's last line by their paths; nothing when it has none.

    Raises:
        subprocess.TimeoutExpired: it took longer than ``seconds``.
    """
    paths = [str(tree / "src"), str(tree), *([str(packages.resolve())] if packages else [])]
    module, *options = command
    done = subprocess.run(
        (sys.executable, "-m", f"benchmarks.{module}", *options),
        cwd=tree,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=seconds,
        check=False,
    )
    for line in reversed(done.stdout.splitlines()):
        if line.startswith("{"):
            return dict(_numbers("", json.loads(line)))
    return {}


def _numbers(path: str, value: Any) -> Iterator[tuple[str, float]]:
    """Every number within a JSON value with its path, booleans apart."""
    if isinstance(value, bool):
        return
    if isinstance(value, int | float):
        yield path, float(value)
        return
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in below:
        yield from _numbers(f"{path} / {key}" if path else str(key), inner)


def _ratios(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """After over before of the figures that both have and that are above zero on both sides."""
    return {name: after[name] / figure for name, figure in before.items() if figure > 0 and after.get(name, 0) > 0}


def _summary(rounds: Sequence[dict[str, float]]) -> dict[str, tuple[float, float, float]]:
    """Median, least and most of each figure's ratios, of figures that every round has."""
    names = [name for name in rounds[0] if all(name in one for one in rounds)]
    return {
        name: (
            round(statistics.median(one[name] for one in rounds), 3),
            round(min(one[name] for one in rounds), 3),
            round(max(one[name] for one in rounds), 3),
        )
        for name in names
    }


if __name__ == "__main__":
    sys.exit(main())
