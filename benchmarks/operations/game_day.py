"""A game day: every chaos experiment that can be run here, one after another, over a platform with two applications.

The project is the one of ``benchmarks/operations/faults``: the blueprints desk and triage on the simulated engine, with
users who ask both all the while. ``antiphon chaos run`` measures each experiment and says if the steady state or its
declared degraded mode held throughout, and the share of time outside of the steady state. Beside it a small project on
llama.cpp trains a model in seconds and makes it live, for ``bad-adapter``. An experiment that cannot be run here is
skipped with the reason: this one without the extra ``train``.

    python -m benchmarks.operations.game_day [--size ci|demo|full] [--keep]

A table, then one JSON line, kept in ``benchmarks/results/game_day.jsonl``; exit code 1 when an experiment did not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.durability.kill_harness_command import finish
from benchmarks.operations.faults.case import asking
from benchmarks.operations.faults.project import RATE, FaultyProject, make, program, small_disk
from benchmarks.operations.faults.users import Users
from benchmarks.operations.trained_project import obstacle, trained_project

from antiphon.core.child_process import start_child

SIZES: dict[str, dict[str, Any]] = {
    "ci": {"experiments": ("kill-gateway", "stop-worker"), "rounds": 1, "quick": True},
    "demo": {"experiments": (), "rounds": 1, "quick": False},
    "full": {"experiments": (), "rounds": 5, "quick": False},
}
_QUICK = {"window": "2s", "duration": "2s", "rate": "5", "after": "1"}
_WARM = 20.0
_TRAINED = "bad-adapter"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="ci")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    size = SIZES[options.size]
    order = ["chaos", "run", *(size["experiments"] or ("--all",)), "--reason", "game day", "--json"]
    if size["quick"]:
        order += [word for name, value in _QUICK.items() for word in ("--var", f"{name}={value}")]
    reports = asyncio.run(held(order, size["rounds"]))
    if not size["experiments"]:
        reports += asyncio.run(with_trained(size["rounds"]))
    every = [one for report in reports for one in report["experiments"]]
    told = [one for one in every if one["status"] != "refused"]
    ran = {one["experiment"] for one in told}
    skipped = {one["experiment"]: one["reason"] for one in every if one["experiment"] not in ran}
    print(f"{'experiment':20} {'status':10} {'observed s':>10} {'outside':>8} {'neither s':>9}  degraded mode")
    for one in told:
        span = one["observed"]
        print(
            f"{one['experiment']:20} {one['status']:10} {_length(span):10.1f} {one['outside_share']:8.1%} "
            f"{one['broken_seconds']:9.1f}  {one['degraded_mode']} {one['reason'] if one['status'] != 'held' else ''}"
        )
    for name, why in skipped.items():
        print(f"{name:20} skipped    {why}")
    observed = sum(_length(one["observed"]) for one in told)
    line = {
        "benchmark": "game_day", "size": options.size, "rounds": size["rounds"], "experiments": len(told),
        "held": sum(one["status"] == "held" for one in told),
        "skipped": skipped,
        "not_held": sorted({one["experiment"] for one in told if one["status"] != "held"}),
        "observed_s": round(observed, 1),
        "outside_share": round(sum(one["outside_seconds"] for one in told) / observed, 4) if observed else None,
        "neither_s": round(sum(one["broken_seconds"] for one in told), 1),
        "questions": sum((one["questions"] or {}).get("sent", 0) for one in told),
        "unexplained": sum((one["questions"] or {}).get("unexplained", 0) for one in told),
    }  # fmt: skip
    line["holds"] = bool(told) and line["held"] == len(told)
    return finish("game_day", line, keep=options.keep)


async def held(order: list[str], rounds: int) -> list[dict[str, Any]]:
    """The reports of game days over one project that runs."""
    with tempfile.TemporaryDirectory(prefix="game-day-") as folder:
        async with small_disk(Path(folder)):
            project = FaultyProject(await make(Path(folder), _WARM, drafts=False))
            async with project.running():
                users = Users(project.url, project.key, random.Random(2), RATE)
                async with asking(users):
                    return [await reported(project, order) for _ in range(rounds)]


async def with_trained(rounds: int) -> list[dict[str, Any]]:
    """The reports of ``bad-adapter`` over a project whose live release uses a trained model; a refusal with the reason
    where none can be trained."""
    if why := obstacle():
        return [{"experiments": [{"experiment": _TRAINED, "status": "refused", "reason": why}]}]
    order = ["chaos", "run", _TRAINED, "--reason", "game day", "--json"]
    with tempfile.TemporaryDirectory(prefix="game-day-") as folder:
        async with trained_project(Path(folder)) as project:
            reports = []
            for _ in range(rounds):
                await asyncio.to_thread(project.release_trained)
                reports.append(await reported(project, order))
            return reports


async def reported(project: FaultyProject, order: list[str]) -> dict[str, Any]:
    process = start_child(program(*order), cwd=project.root, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    out, _ = await asyncio.to_thread(process.communicate)
    try:
        report: dict[str, Any] = json.loads(out)
    except ValueError:
        raise RuntimeError(f"The game day ended with {process.returncode} and without a report.") from None
    return report


def _length(span: Any) -> float:
    """Seconds of a span as a report has it."""
    if span is None:
        return 0.0
    return float(span["ends"] - span["begins"]) if isinstance(span, dict) else float(span[1] - span[0])


if __name__ == "__main__":
    sys.exit(main())
