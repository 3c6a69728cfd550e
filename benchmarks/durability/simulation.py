"""Does the platform keep its promises whatever happens, in whatever order? Seeds of the simulation, and planted faults.

Each seed plays the real catalog, workers, schedules, releases, batches, streams or audit in one process of Python under
a scheduler that the seed drives, with crashes, stalls, a busy catalog and clocks that are wrong (``tests/simulation``).
Without planted faults nothing may be violated; each planted fault must be found within 2,000 seeds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.durability.kill_harness_command import finish
from tests.simulation.catalog_file import CatalogFile
from tests.simulation.mutants import MUTANTS
from tests.simulation.simulator import MEMORY, SCENARIOS, Played, catalog_file, hunt, mutant_named, play

SIZES = {"ci": 2_000, "demo": 20_000, "full": 100_000}
WITHIN = 2_000
"""Seeds within which a planted fault must be found."""

_AT_ONCE = 25
_SAID_EVERY = 15.0
"""Seconds between lines that tell how far it is."""

_stack = ExitStack()
_file: CatalogFile | None = None


def _open(folder: str) -> None:
    global _file
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The process that asked ends in order, and this one with it.
    _file = _stack.enter_context(catalog_file(Path(folder)))


def _play(seeds: range) -> list[Played]:
    assert _file is not None
    return [play(_file, seed) for seed in seeds]


def _hunt(name: str) -> Played | None:
    assert _file is not None
    return hunt(_file, mutant_named(name), range(WITHIN))


@contextmanager
def _workers(jobs: int) -> Iterator[ProcessPoolExecutor]:
    with tempfile.TemporaryDirectory(prefix="antiphon-simulation-", dir=MEMORY) as folder:
        spawned = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(jobs, mp_context=spawned, initializer=_open, initargs=(folder,))
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


class Tally:
    """Results of seeds so far, by scenario."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {kind: Counter() for kind in SCENARIOS}
        self.violated: list[int] = []

    def add(self, played: Played, say: Any) -> None:
        """Count one; a violation is printed with the command that plays it again."""
        self.counts[played.kind] += Counter(
            seeds=1, commits=played.commits, crashes=played.crashes, violations=bool(played.violations)
        )
        if played.violations:
            self.violated.append(played.seed)
            say.write(f"VIOLATION python -m tests.simulation {played.seed}: {played.violations[0]}\n")

    def print(self, say: Any) -> None:
        """The table."""
        say.write(f"{'scenario':16}{'seeds':>9}{'commits':>11}{'crashes':>9}{'violations':>12}\n")
        for kind, count in self.counts.items():
            columns = f"{count['seeds']:>9,}{count['commits']:>11,}{count['crashes']:>9,}{count['violations']:>12}"
            say.write(f"{kind:16}{columns}\n")


def run(seeds: range, jobs: int, mutants: bool, say: Any) -> dict[str, Any]:
    """All these seeds, then all planted faults; the JSON line, also of a run that was interrupted."""
    began, tally, done = time.monotonic(), Tally(), seeds.start
    found: dict[str, int | None] = {}
    interrupted, said = False, began
    with _workers(jobs) as pool:
        try:
            for group in pool.map(_play, [seeds[at : at + _AT_ONCE] for at in range(0, len(seeds), _AT_ONCE)]):
                for played in group:
                    tally.add(played, say)
                done = group[-1].seed + 1
                if time.monotonic() - said > _SAID_EVERY:
                    said = time.monotonic()
                    rest = (said - began) * (seeds.stop - done) / (done - seeds.start)
                    say.write(f"seeds to {done:,}: {len(tally.violated)} violations, about {rest:.0f} s left\n")
                    say.flush()
            seconds = time.monotonic() - began
            tally.print(say)
            say.write(f"{len(seeds):,} seeds in {seconds:.0f} s\n\n{'planted fault':46}{'found at seed':>14}\n")
            if mutants:
                names = [mutant.name for mutant in MUTANTS]
                for name, one in zip(names, pool.map(_hunt, names), strict=True):
                    found[name] = None if one is None else one.seed
                    say.write(f"{name:46}{'never' if one is None else one.seed:>14}\n")
        except KeyboardInterrupt:
            interrupted, seconds = True, time.monotonic() - began
            say.write(f"\nInterrupted. --seeds {done}:{seeds.stop} plays the rest.\n")
    missed = [name for name, seed in found.items() if seed is None]
    return {
        "benchmark": "simulation",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "holds": not tally.violated and not missed and not interrupted,
        "seeds": done - seeds.start,
        "from": seeds.start,
        "to": done,
        "violations": len(tally.violated),
        "violated": tally.violated,
        "mutants_planted": len(MUTANTS) if mutants else 0,
        "mutants_found": len(found) - len(missed),
        "missed": missed,
        "found_at": found,
        "scenarios": {kind: dict(count) for kind, count in tally.counts.items()},
        "processes": jobs,
        "seconds_of_seeds": round(seconds, 1),
        "seconds": round(time.monotonic() - began, 1),
    }


def _range(text: str) -> range:
    first, _, last = text.partition(":")
    return range(int(first), int(last))


def main(arguments: list[str] | None = None) -> int:
    """The command line; the exit code is 1 when something was violated, missed or interrupted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.durability.simulation", description=__doc__)
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--size", choices=sorted(SIZES), default="demo")
    chosen.add_argument("--seeds", type=_range, metavar="FROM:TO", help="these instead, TO left out")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes; one a core by default")
    parser.add_argument("--no-mutants", action="store_true", help="plant no faults")
    parser.add_argument("--keep", action="store_true", help="append the line to the results")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `timeout` ends it in order, too.
    seeds = range(SIZES[options.size]) if options.seeds is None else options.seeds
    return finish("simulation", run(seeds, options.jobs, not options.no_mutants, sys.stdout), keep=options.keep)


if __name__ == "__main__":
    sys.exit(main())
