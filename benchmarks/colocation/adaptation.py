"""How soon the service level holds again: after a start from nothing, another model, more load, a busy neighbor.

    python -m benchmarks.colocation.adaptation --size ci|demo|full [--record]

In the simulator, on the reference machine: many windows with a disturbance at a declared moment, each run twice, with
batch work and without. Requests are put in bins of five seconds by their arrival, over all windows. Harmed is a request
that was slowed down by more than it may be, or that missed its level in seconds beside batch and not without (less
those the other way round). The level holds again from the first bin on after which no bin has more of them than the
long run has, which is the second half of the time after the disturbance, and what a share of so many requests wavers by
(one sided, 5 %).

A table, one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.colocation.calibration import reference
from benchmarks.colocation.outcome import SERVICE_TPOT, SERVICE_TTFT, Served
from benchmarks.colocation.policies import online_only, ours
from benchmarks.colocation.simulator import Pace, simulate
from benchmarks.colocation.traces import Request, Scaling, arrivals

from antiphon.engine.scheduling.service_level import ServiceLevel

RESULTS = Path(__file__).parents[1] / "results" / "adaptation.jsonl"
DISTURBED_AT = 60.0
"""Seconds into a run; what happens from nothing happens at 0."""
AFTER = 90.0
BIN = 5.0
HALF = Scaling(rate=0.1)
"""Of the arrivals: twice as many are what :mod:`benchmarks.colocation` calls the load."""
SIZES = {"ci": 2, "demo": 16, "full": 120}
"""Windows of each scenario and level."""
WAVERING = 1.645
"""Standard errors."""
LEAST_SHARE = 0.02
"""What a share wavers by is reckoned with no less than this, or nothing would waver where nothing was harmed."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What happens at ``at``."""

    name: str
    at: float
    pace: Pace
    load: Callable[[int], tuple[Request, ...]]


def steady(seed: int) -> tuple[Request, ...]:
    """Half of the load, all the time."""
    return arrivals("conv", seed, DISTURBED_AT + AFTER, HALF)


def doubled(seed: int) -> tuple[Request, ...]:
    """Half of the load, and another half of it from the moment on."""
    more = arrivals("conv", seed + 1_000, DISTURBED_AT + AFTER, HALF)
    return tuple(sorted((*steady(seed), *(each for each in more if each.at >= DISTURBED_AT)), key=lambda each: each.at))


SCENARIOS = (
    Scenario("from nothing", 0.0, lambda _: 1.0, steady),
    Scenario("from nothing, a model 2.5 times as slow", 0.0, lambda _: 2.5, steady),
    Scenario("load doubles", DISTURBED_AT, lambda _: 1.0, doubled),
    Scenario(
        "a neighbor takes half of the machine", DISTURBED_AT, lambda now: 2.0 if now >= DISTURBED_AT else 1.0, steady
    ),
    Scenario("and goes again", DISTURBED_AT, lambda now: 1.0 if now >= DISTURBED_AT else 2.0, steady),
)
LEVELS = {
    "slowdown 5%": ServiceLevel(slowdown=0.05),
    "slowdown 25%": ServiceLevel(slowdown=0.25),
    "1 s and 100 ms a token": ServiceLevel(SERVICE_TTFT, SERVICE_TPOT),
}


@dataclass(frozen=True, slots=True)
class Found:
    """Of one scenario and level: the share harmed by bin after the disturbance and in the long run; seconds until the
    level holds again; batch tokens a second."""

    harmed: tuple[float, ...]
    long_run: float
    holds_after: float
    requests: int
    batch_rate: float


def watched(scenario: Scenario, level: ServiceLevel, windows: int) -> Found:
    """Run a scenario's windows with batch work and without."""
    seconds = scenario.at + AFTER
    bins: list[list[int]] = [[] for _ in range(int(AFTER / BIN))]
    """By bin, 1 for a harmed request, 0 for another, -1 for one that was met beside batch alone."""
    rates = []
    for seed in range(windows):
        online = tuple(each for each in scenario.load(seed) if each.at < seconds)
        alone, beside = (
            simulate(reference(), policy, online, seconds, seed=seed, pace=scenario.pace)
            for policy in (online_only(), ours(level))
        )
        rates.append(beside.batch_rate)
        for one, other in zip(alone.served, beside.served, strict=True):
            if one.at >= scenario.at:
                bins[int((one.at - scenario.at) / BIN)].append(harm(one, other, level))
    shares = [sum(of) / max(len(of), 1) for of in bins]
    settled = [each for of in bins[len(bins) // 2 :] for each in of]
    long_run = sum(settled) / max(len(settled), 1)
    spread = max(long_run, LEAST_SHARE)
    missed = [
        index
        for index, (share, of) in enumerate(zip(shares, bins, strict=True))
        if share > long_run + WAVERING * math.sqrt(spread * (1 - spread) / max(len(of), 1))
    ]
    # Of the bins of the long run itself a few lie outside by chance.
    missed = [index for index in missed if index < len(bins) // 2]
    holds_after = (missed[-1] + 1) * BIN if missed else 0.0
    return Found(tuple(shares), long_run, holds_after, sum(len(of) for of in bins), float(np.mean(rates)))


def harm(alone: Served, beside: Served, level: ServiceLevel) -> int:
    """1 for a request that batch harmed, see the module."""
    if level.slowdown is not None:
        return int(beside.latency > (1 + level.slowdown) * alone.latency)
    return int(alone.within) - int(beside.within)


def told(rows: Sequence[tuple[str, str, Found]]) -> None:
    """The table: the share harmed in the first bins after the disturbance."""
    print(f"{'':<42}{'level':<24}{'holds after':>12}{'long run':>10}", end="")
    print("".join(f"{index * BIN:>6.0f} s" for index in range(8)))
    for scenario, level, found in rows:
        shown = "".join(f"{share:>8.1%}" for share in found.harmed[:8])
        print(f"{scenario:<42}{level:<24}{found.holds_after:>10.0f} s{found.long_run:>10.1%}{shown}")
    print("simulated on the reference machine; harmed of the requests that arrived in the five seconds from then on")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.colocation.adaptation")
    parser.add_argument("--size", choices=sorted(SIZES), default="ci")
    parser.add_argument("--record", action="store_true", help="append the JSON line to benchmarks/results")
    options = parser.parse_args()
    began = time.monotonic()
    rows: list[tuple[str, str, Found]] = []
    for scenario in SCENARIOS:
        for name, level in LEVELS.items():
            rows.append((scenario.name, name, watched(scenario, level, SIZES[options.size])))
            print(f"  {time.monotonic() - began:6.1f} s  {scenario.name}, {name}", file=sys.stderr, flush=True)
    told(rows)
    line: dict[str, Any] = {
        "benchmark": "adaptation",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "size": options.size,
        "windows": SIZES[options.size],
        "simulated": True,
        "rows": [
            {
                "scenario": scenario,
                "level": level,
                "holds_after_seconds": found.holds_after,
                "requests": found.requests,
                "batch_tokens_per_second": round(found.batch_rate, 2),
                "harmed": [round(share, 4) for share in found.harmed],
                "harmed_in_the_long_run": round(found.long_run, 4),
            }
            for scenario, level, found in rows
        ],
        "goal_seconds": 60.0,
        "took": round(time.monotonic() - began, 1),
    }
    text = json.dumps(line)
    if options.record:
        with RESULTS.open("a") as results:
            results.write(text + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
