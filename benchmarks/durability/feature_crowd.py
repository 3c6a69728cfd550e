"""The feature platform with ten processes at work at once, killed at random moments: nothing lost, wrong or left.

Run ``python -m benchmarks.durability.feature_crowd --size full`` (60 rounds with the embedded stores, 20 with Redis
online), or ``demo`` (12 and 4) or ``ci`` (2): a table, then one JSON line (kept in
``benchmarks/results/feature_crowd.jsonl``). After that each defence is switched off, and must be missed within a few
rounds.

Two publishers of the same view, one of another, clients that append events, a consumer, two collectors, somebody who
rolls back, holds and releases, a reader, and a desk that answers, moves the live release and builds datasets work on
one real project, each in a process of its own. In each round some are killed with SIGKILL at drawn moments (seed
declared), half of them in a phase that is drawn, and begin again while the others go on; then all are killed at once,
and in every second round the power fails: whatever was not synced is lost. Then everything is looked at from outside
(``feature_crowd_evidence``), each reading is checked by brute force, one process reads what is served, finishes what is
open and tries what is pinned (predictions, datasets, earlier releases), and everything is looked at again.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
from benchmarks.durability.feature_chaos import Killed, server
from benchmarks.durability.feature_crowd_harness import Harness
from benchmarks.durability.kill_harness_command import command
from tests.chaos.harness.feature_chaos_lives import Crowd
from tests.chaos.harness.feature_crowd_broken import BROKEN
from tests.chaos.harness.running import scratch

SEED = 20130411
SIZES = {"ci": (2, 0, 0), "demo": (12, 4, 6), "full": (60, 20, 6)}
"""Rounds with the embedded stores, with Redis online, and at most for each defence that is switched off."""


class Report(msgspec.Struct, frozen=True):
    """What came of a run; ``violations`` by check, all empty when the platform held.

    ``refused``: readings that had to be tried again, because a rollback was restoring events.
    """

    store: str
    seed: int
    rounds: int
    power_cuts: int
    kills: tuple[Killed, ...]
    violations: dict[str, list[str]]
    events: int
    publications: int
    snapshots: int
    pruned: int
    readings: int
    refused: int
    predictions: int
    datasets: int
    tried: int
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether nothing was violated."""
        return not any(self.violations.values())


def measure(
    root: Path,
    rounds: int,
    seed: int,
    *,
    redis: Any = None,
    unsafe: str | None = None,
    only: str | None = None,
    crowd: Crowd | None = None,
    say: Any = None,
) -> Report:
    """So many rounds on one project, in an empty folder.

    Args:
        redis: a running server with ``url`` and ``client()``; ``None`` is the embedded store.
        unsafe: a defence that is switched off; then the run ends with the first violation.
        only: the role that is killed while the others go on.
        crowd: processes that are there already.
    """
    began = time.monotonic()
    harness = Harness(root, seed, redis, unsafe, crowd)
    try:
        harness.prepare()
        for number in range(rounds):
            harness.round(only)
            if say is not None:
                wrong = sum(map(len, harness.violations.values()))
                say.write(f"\r{number + 1:4}/{rounds} rounds, {len(harness.kills)} kills, {wrong} violations")
                say.flush()
            if unsafe is not None and any(harness.violations.values()):
                break
    finally:
        harness.close()
    if say is not None:
        say.write("\n")
    found = harness.found
    return Report(
        store="LMDB" if redis is None else "Redis",
        seed=seed,
        rounds=harness.rounds,
        power_cuts=harness.power_cuts,
        kills=tuple(harness.kills),
        violations=harness.violations,
        events=len(found.events) if found else 0,
        publications=len(found.publications) if found else 0,
        snapshots=len(found.manifests) if found else 0,
        pruned=len(found.pruned) if found else 0,
        readings=harness.readings,
        refused=harness.refused,
        predictions=len(harness.answered),
        datasets=len(set(harness.built)),
        tried=harness.tried,
        seconds=time.monotonic() - began,
    )


def table(report: Report) -> str:
    """The report for people."""
    lines = [
        f"{report.store} online, seed {report.seed}: {report.rounds} rounds with {len(report.kills)} kills and "
        f"{report.power_cuts} power cuts in {report.seconds:.0f} s",
        f"  {report.events} events, {report.publications} publications, {report.snapshots} snapshots of which "
        f"{report.pruned} were pruned; {report.readings} readings, {report.refused} tried again",
        f"  {report.predictions} predictions, {report.datasets} datasets; {report.tried} times one, or an earlier "
        "release, was tried again",
    ]
    lines += [
        f"  {number:4} in {phase}" for phase, number in Counter(one.phase for one in report.kills).most_common(15)
    ]
    for check, wrong in report.violations.items():
        lines.append(f"  {'FAIL' if wrong else 'ok  '} {check}" + (f": {len(wrong)} violations" if wrong else ""))
        lines += [f"         {one}" for one in wrong[:5]]
    return "\n".join(lines)


def summary(reports: list[Report], size: str, found_after: dict[str, int | None] | None = None) -> dict[str, Any]:
    """The reports as one JSON line; ``found_after`` so many kills each defence that was off was missed (``None``:
    never)."""
    missed = found_after or {}
    return {
        "benchmark": "feature_crowd",
        "size": size,
        "holds": all(report.holds for report in reports) and None not in missed.values(),
        "found_after_kills": missed,
        "runs": [
            {
                **msgspec.to_builtins(report),
                "kills": len(report.kills),
                "phases": len({one.phase for one in report.kills}),
                "violations": {check: len(wrong) for check, wrong in report.violations.items()},
                "seconds": round(report.seconds, 1),
            }
            for report in reports
        ],
    }


def run(size: str, say: Any = None) -> dict[str, Any]:
    """Both stores at a size; the JSON line."""
    embedded, far, longest = SIZES[size]
    reports = []
    found_after: dict[str, int | None] = {}
    with scratch() as folder:
        reports.append(measure(Path(folder) / "embedded", embedded, SEED, say=say))
        if far:
            with server() as redis:
                reports.append(measure(Path(folder) / "redis", far, SEED + 1, redis=redis, say=say))
        for unsafe in BROKEN if longest else ():
            missed = measure(Path(folder) / unsafe, longest, SEED + 2, unsafe=unsafe)
            found_after[unsafe] = None if missed.holds else len(missed.kills)
            if say is not None:
                say.write(f"without the defence {unsafe!r}: found after {found_after[unsafe]} kills\n")
    if say is not None:
        for report in reports:
            say.write(table(report) + "\n")
    return summary(reports, size, found_after)


if __name__ == "__main__":
    sys.exit(command("feature_crowd", __doc__, SIZES, run))
