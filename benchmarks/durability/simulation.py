"""Does the platform keep its promises whatever happens, in whatever order? Seeds of the simulation, and planted faults.

Each seed plays the real catalog, workers, releases, batches or audit in one process of Python under a scheduler that
the seed drives, with crashes, stalls, a busy catalog and clocks that are wrong (``tests/simulation``). Without planted
faults nothing may be violated; each planted fault must be found within 2,000 seeds.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from multiprocessing.pool import Pool
from typing import Any

from benchmarks.durability.kill_harness_command import command
from tests.simulation.catalog_file import CatalogFile
from tests.simulation.mutants import MUTANTS
from tests.simulation.simulator import SCENARIOS, Played, catalog_file, hunt, mutant_named, play

SIZES = {"ci": 2_000, "demo": 20_000, "full": 100_000}
WITHIN = 2_000
"""Seeds within which a planted fault must be found."""

_AT_ONCE = 25
_stack = ExitStack()
_file: CatalogFile | None = None


def _open() -> None:
    global _file
    _file = _stack.enter_context(catalog_file())


def _play(first: int) -> list[Played]:
    assert _file is not None
    return [play(_file, seed) for seed in range(first, first + _AT_ONCE)]


def _hunt(name: str) -> tuple[str, Played | None]:
    assert _file is not None
    return name, hunt(_file, mutant_named(name), range(WITHIN))


@contextmanager
def _workers() -> Iterator[Pool]:
    pool = multiprocessing.get_context("spawn").Pool(os.cpu_count() or 1, _open)
    try:
        yield pool
        pool.close()
        pool.join()
    finally:
        pool.terminate()


def run(size: str, say: Any) -> dict[str, Any]:
    """All seeds of a size, then all planted faults; the JSON line."""
    began, seeds = time.monotonic(), SIZES[size]
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in SCENARIOS}
    violated: list[Played] = []
    with _workers() as pool:
        for group in pool.imap_unordered(_play, range(0, seeds, _AT_ONCE)):
            for one in group:
                counts[one.kind] += Counter(
                    seeds=1, commits=one.commits, crashes=one.crashes, violations=bool(one.violations)
                )
            for one in (one for one in group if one.violations):
                violated.append(one)
                say.write(f"VIOLATION python -m tests.simulation {one.seed}: {one.violations[0]}\n")
        seconds = time.monotonic() - began
        say.write(f"{'scenario':16}{'seeds':>9}{'commits':>11}{'crashes':>9}{'violations':>12}\n")
        for kind, count in counts.items():
            columns = f"{count['seeds']:>9,}{count['commits']:>11,}{count['crashes']:>9,}{count['violations']:>12}"
            say.write(f"{kind:16}{columns}\n")
        say.write(f"{seeds:,} seeds in {seconds:.0f} s\n\n{'planted fault':46}{'found at seed':>14}\n")
        found = dict(pool.imap_unordered(_hunt, [mutant.name for mutant in MUTANTS]))
    for mutant in MUTANTS:
        played = found[mutant.name]
        say.write(f"{mutant.name:46}{'never' if played is None else played.seed:>14}\n")
    missed = [name for name, played in found.items() if played is None]
    return {
        "benchmark": "simulation",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "size": size,
        "holds": not violated and not missed,
        "seeds": seeds,
        "violations": len(violated),
        "violated": sorted(one.seed for one in violated),
        "mutants_planted": len(MUTANTS),
        "mutants_found": len(MUTANTS) - len(missed),
        "missed": missed,
        "found_at": {mutant.name: None if (one := found[mutant.name]) is None else one.seed for mutant in MUTANTS},
        "scenarios": {kind: dict(count) for kind, count in counts.items()},
        "processes": os.cpu_count(),
        "seconds_of_seeds": round(seconds, 1),
        "seconds": round(time.monotonic() - began, 1),
    }


if __name__ == "__main__":
    sys.exit(command("simulation", __doc__, SIZES, run))
