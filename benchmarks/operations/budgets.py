"""What budgets add to an answer, and whether crowds and killed processes overshoot one.

- **Latency.** Answers of a scripted engine, which takes no time, by turns in two projects: one without a budget, one
  with three that concern every answer (of the tenant, the application and the key). Alone, and many at once.
- **The last cent.** Requests at once in several processes, of which a few fit: what the ledger has beyond the limit,
  and whether a request was refused that fits once all have settled.
- **Kills.** Processes killed while they reserve: the ledger against the receipts, and what they held ends by itself.
- **Gateways.** The forms of one request, and the last cent, over HTTP before two gateways (``budget_gateways.py``).

    python -m benchmarks.operations.budgets [--size ci|demo|full] [--catalog sqlite|postgresql] [--keep]

A table, then one JSON line, kept in ``benchmarks/results/budgets.jsonl``; exit code 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import statistics
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.durability.kill_harness_command import finish
from benchmarks.operations import budget_gateways
from tests.catalogs import KINDS, catalog_url
from tests.chaos.harness.running import scratch
from tests.chaos.test_budget_kills import begin, child, line_of
from tests.harness.budget_project import TOKEN_MICROS, WORDS, WORST, BudgetProject

from antiphon.services.budgets.account import LEASE_SECONDS

SIZES = {
    # answers measured, requests on the last cent, processes, crowds, kills
    "ci": (200, 200, 2, 1, 3),
    "demo": (1_500, 1_000, 2, 3, 20),
    "full": (5_000, 1_000, 4, 10, 100),
}
CENT = 10_000
GOAL_MICROSECONDS = 100.0
_COST = WORDS * TOKEN_MICROS
_AT_ONCE = 32


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", choices=sorted(SIZES), default="demo")
    parser.add_argument("--catalog", choices=KINDS, default="sqlite")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    answers, requests, processes, crowds, kills = SIZES[options.size]
    with scratch() as folder:
        root = Path(folder)
        latency = asyncio.run(_latency(root, options.catalog, answers))
        cents = [
            asyncio.run(_last_cent(root / f"cent{n}", options.catalog, requests, processes)) for n in range(crowds)
        ]
        killed = asyncio.run(_kills(root / "kills", options.catalog, kills))
        asked = asyncio.run(budget_gateways.measured(root / "gateways", requests))
    overshoot, refused = sum(one["overshoot"] for one in cents), sum(one["false_refusals"] for one in cents)
    added = {name: figures["added"] for name, figures in latency.items()}
    line = {
        "benchmark": "budgets", "size": options.size, "catalog": options.catalog, "answers": answers,
        "microseconds": latency, "goal_microseconds": GOAL_MICROSECONDS,
        "requests": requests * crowds, "processes": processes, "answered": sum(one["answered"] for one in cents),
        "seconds": round(statistics.median(one["seconds"] for one in cents), 2),
        "overshoot_micros": overshoot, "false_refusals": refused, **killed, **asked,
        "holds": overshoot == refused == killed["ledger_difference"] == killed["held_after"] == 0
        and killed["admitted_after"] and budget_gateways.holds(asked)
        and all(one <= GOAL_MICROSECONDS for one in added.values()),
    }  # fmt: skip
    print(f"{'answers':<10}{'without':>10}{'with':>10}{'added':>10}{'spread':>10}   microseconds an answer")
    for name, figures in latency.items():
        print(f"{name:<10}" + "".join(f"{figures[each]:>10.1f}" for each in ("without", "with", "added", "spread")))
    print(f"last cent: {line['requests']} requests in {processes} processes, {line['answered']} answered, "
          f"overshoot {overshoot}, false refusals {refused}")  # fmt: skip
    print(f"kills: {kills}, ledger - receipts {killed['ledger_difference']}, still held {killed['held_after']}")
    print("forms of one request: " + ", ".join(f"{form} {cost}" for form, cost in asked["forms_micros"].items()))
    told = ("requests", "answered", "refused", "told_to_wait", "overshoot_micros", "false_refusals", "holders")
    print("two gateways: " + ", ".join(f"{name} {asked[f'gateway_{name}']}" for name in told))
    return finish("budgets", line, keep=options.keep)


def _project(root: Path, kind: str, seconds: float = 0.0) -> BudgetProject:
    root.mkdir(parents=True)
    return BudgetProject(root, url=None if kind == "sqlite" else catalog_url(root, kind), seconds=seconds)


async def _latency(root: Path, kind: str, answers: int) -> dict[str, dict[str, float]]:
    without, budgeted = _project(root / "without", kind), _project(root / "with", kind)
    for name, subject in (("tenant", ""), ("application", "desk"), ("key", "someone")):
        budgeted.declare(10**12, name=name, kind=name, subject=subject)
    found = {}
    for at_once in (1, _AT_ONCE):
        taken: dict[BudgetProject, list[float]] = {without: [], budgeted: []}
        for turn in range(max(40, answers // at_once)):
            for one in (without, budgeted) if turn % 2 else (budgeted, without):
                began = time.perf_counter()
                await one.crowd(at_once)
                taken[one].append((time.perf_counter() - began) / at_once * 1e6)
        before, after = taken[without][10:], taken[budgeted][10:]
        added = [late - early for early, late in zip(before, after, strict=True)]
        low, _, high = statistics.quantiles(added, n=4)
        # Of the median, as of a sample that is normal about it.
        spread = (high - low) / 1.349 * 1.253 / len(added) ** 0.5
        found["alone" if at_once == 1 else f"{at_once} at once"] = {
            "without": round(statistics.median(before), 1), "with": round(statistics.median(after), 1),
            "added": round(statistics.median(added), 1), "spread": round(spread, 1),
        }  # fmt: skip
    await without.close()
    await budgeted.close()
    return found


async def _last_cent(root: Path, kind: str, requests: int, processes: int) -> dict[str, Any]:
    project = _project(root, kind)
    budget = project.declare(CENT)
    began = time.perf_counter()
    with ExitStack() as stack:
        children = [stack.enter_context(child(root, requests // processes)) for _ in range(processes)]
        began = time.perf_counter()
        for one in children:
            begin(one)
        ends = [json.loads(line_of(one)) for one in children]
    seconds = time.perf_counter() - began
    spent, refused = project.spent(budget), sum(one.get("insufficient_quota", 0) for one in ends)
    # All have settled: whoever was refused while there was room for it, was refused falsely.
    false_refusals = min(refused, (budget.limit_micros - spent - WORST) // _COST + 1 if spent + WORST <= CENT else 0)
    while project.spent(budget) + WORST <= CENT:
        false_refusals += (await project.crowd(1))["answered"] != 1
    answered = sum(one.get("answered", 0) for one in ends)
    overshoot = max(0, project.ledger() - CENT) + abs(project.ledger() - project.charged())
    await project.close()
    return {"answered": answered, "overshoot": overshoot, "false_refusals": false_refusals, "seconds": seconds}


async def _kills(root: Path, kind: str, kills: int) -> dict[str, Any]:
    seed, project = random.Random(4), _project(root, kind)
    budget = project.declare(10**9)
    for _ in range(kills):
        with child(root, 30, "--forever") as killed:
            begin(killed)
            line_of(killed)
            time.sleep(seed.random() * 0.1)
            killed.send_signal(signal.SIGKILL)
    held, difference = project.held(budget), project.spent(budget) - project.charged()
    deadline = time.monotonic() + LEASE_SECONDS + 5
    while project.held(budget) and time.monotonic() < deadline:
        await asyncio.sleep(0.2)
    after = project.held(budget)
    project.declare(project.spent(budget) + WORST)
    admitted = (await project.crowd(1))["answered"] == 1
    difference += abs(project.ledger() - project.charged())
    await project.close()
    return {
        "kills": kills, "held_at_last": held, "held_after": after, "ledger_difference": difference,
        "admitted_after": admitted,
    }  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
