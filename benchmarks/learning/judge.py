"""The judge in simulated rollouts, beside a z-test that is peeked at and a threshold rule.

``python -m benchmarks.learning.judge [--full] [--seed 1]``. A/A: the candidate is as good as the live release, and
whoever rolls it back is wrong. A/B: it has 2 or 4 times the errors. A user is one request; the judge is asked after
every user, the others after every 100 requests. Also the other mistake, promoting what is exactly as bad as a plan
excludes, and the paired quality test. A table, then one JSON line, kept in ``benchmarks/results/judge.jsonl``; exit
code 1 when the judge is wrong more often than it promises.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from antiphon.catalog.releases.rollouts import Exposure, RolloutRecord
from antiphon.core.scope import Scope
from antiphon.definitions.application import SLO
from antiphon.definitions.learning import Rollout
from antiphon.releases import eprocess
from antiphon.releases.evidence import weights
from antiphon.releases.judge import judge

RESULTS = Path(__file__).parents[1] / "results" / "judge.jsonl"
PLAN = Rollout(shadow=0.2, shadow_pairs=300, canary=(5, 20, 50))
BASE_RATES, RATIOS, INVALID = (0.02, 0.05), (2.0, 4.0), 0.01
PEEK = 100
BLOCK = 100


# The generator knows nothing of the judge: users one after the other, a coin for the arm, a coin for each event.
def users(draw: np.random.Generator, runs: int, requests: int, control: float, canary: float) -> dict[str, Any]:
    """Arms (true: canary), errors and invalid outputs of ``runs`` × ``requests`` users."""
    arm = draw.random((runs, requests)) < 0.5
    error = draw.random((runs, requests)) < np.where(arm, canary, control)
    invalid = (draw.random((runs, requests)) < INVALID) & ~error
    return {"arm": arm, "error": error, "invalid": invalid}


def brier_pairs(
    draw: np.random.Generator, runs: int, pairs: int, noise_live: float, noise_shadow: float
) -> np.ndarray[Any, Any]:
    """Differences (shadow − live) of Brier scores of two forecasters who see the truth through noise."""
    truth = draw.beta(1.2, 3.6, (runs, pairs))
    label = draw.random((runs, pairs)) < truth
    live = np.clip(truth + draw.normal(0, noise_live, truth.shape), 0, 1)
    shadow = np.clip(truth + draw.normal(0, noise_shadow, truth.shape), 0, 1)
    return (shadow - label) ** 2 - (live - label) ** 2


def first(crossed: np.ndarray[Any, Any], every: int = 1) -> np.ndarray[Any, Any]:
    """Requests until each run first crossed; 0 where it never did."""
    return np.where(crossed.any(axis=1), (crossed.argmax(axis=1) + 1) * every, 0)


def counts(seen: dict[str, Any], what: str, arm: bool) -> np.ndarray[Any, Any]:
    """Running counts of an event in one arm."""
    return np.cumsum(seen[what] & (seen["arm"] == arm), axis=1)


def judged(seen: dict[str, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """When the judge rolls back, when its tests of errors and invalid outputs have both passed, and that of errors."""
    shares, total, safe, safe_each = weights(PLAN), 0.0, True, []
    canary_users = np.cumsum(seen["arm"], axis=1)
    for what in ("error", "invalid"):
        bad, good = counts(seen, what, True), counts(seen, what, False)
        total = total + shares[what] * np.exp(np.minimum(eprocess.harm_ratio(bad, good), 700.0))
        passed = eprocess.safe_both(bad, good, canary_users, ratio=PLAN.harm, floor=PLAN.floor)
        safe_each.append(first(passed >= math.log(1 / PLAN.beta)))
        safe = safe & (passed >= math.log(1 / PLAN.beta))
    return first(np.asarray(total) >= 1 / PLAN.alpha), first(np.asarray(safe)), safe_each[0]


def peeked_z(seen: dict[str, Any]) -> np.ndarray[Any, Any]:
    """One-sided z-test of two proportions at 1 %, pooled, looked at every 100 requests."""
    looks = slice(PEEK - 1, None, PEEK)
    n_canary = np.cumsum(seen["arm"], axis=1)[:, looks]
    n_control = np.cumsum(~seen["arm"], axis=1)[:, looks]
    bad, good = counts(seen, "error", True)[:, looks], counts(seen, "error", False)[:, looks]
    pooled = (bad + good) / (n_canary + n_control)
    deviation = np.sqrt(pooled * (1 - pooled) * (1 / n_canary + 1 / n_control))
    score = (bad / n_canary - good / n_control) / np.where(deviation > 0, deviation, 1.0)
    return first(score > 2.326, PEEK)


def threshold(seen: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Roll back once the canary's error rate is one and a half times the control's, looked at every 100 requests."""
    looks = slice(PEEK - 1, None, PEEK)
    canary = counts(seen, "error", True)[:, looks] / np.cumsum(seen["arm"], axis=1)[:, looks]
    control = counts(seen, "error", False)[:, looks] / np.cumsum(~seen["arm"], axis=1)[:, looks]
    return first((canary > 1.5 * control) & (canary > 0), PEEK)


def summary(stopped: Sequence[int] | np.ndarray[Any, Any]) -> dict[str, Any]:
    """Share of runs that stopped, and requests until they did (median, 9 of 10 of all runs)."""
    values = np.asarray(stopped)
    reached = np.sort(values[values > 0])
    most = math.ceil(0.9 * len(values)) - 1
    return {
        "share": len(reached) / len(values),
        "median": int(np.median(reached)) if len(reached) else None,
        "most": int(reached[most]) if most < len(reached) else None,
    }


def count_runs(draw: np.random.Generator, runs: int, requests: int, base: float, ratio: float) -> dict[str, Any]:
    """Everybody's verdict on the same runs."""
    verdicts: dict[str, list[int]] = {"judge": [], "passed": [], "errors_passed": [], "z": [], "threshold": []}
    for start in range(0, runs, BLOCK):
        seen = users(draw, min(BLOCK, runs - start), requests, base, base * ratio)
        rolled, passed, errors_passed = judged(seen)
        verdicts["judge"] += rolled.tolist()
        verdicts["passed"] += np.where((rolled > 0) & (rolled < passed), 0, passed).tolist()
        verdicts["errors_passed"] += errors_passed.tolist()
        verdicts["z"] += peeked_z(seen).tolist()
        verdicts["threshold"] += threshold(seen).tolist()
    return {name: summary(values) for name, values in verdicts.items()}


def quality_runs(draw: np.random.Generator, runs: int, pairs: int, live: float, shadow: float) -> dict[str, Any]:
    """The paired test on two forecasters."""
    harm_bound = math.log(1 / (PLAN.alpha * weights(PLAN)["quality"]))
    harmed, passed, spread = [], [], []
    for start in range(0, runs, BLOCK):
        differences = brier_pairs(draw, min(BLOCK, runs - start), pairs, live, shadow)
        harmed += first(eprocess.harm_mean(differences) >= harm_bound).tolist()
        safe = eprocess.safe_mean(differences, margin=PLAN.quality_margin) >= math.log(1 / PLAN.beta)
        passed += first(safe).tolist()
        spread.append((float(differences.mean()), float(differences.std())))
    mean, deviation = np.mean(spread, axis=0)
    return {
        "difference": float(mean),
        "deviation": float(deviation),
        "rolled_back": summary(harmed),
        "passed": summary(passed),
    }


def boundary_runs(draw: np.random.Generator, runs: int, pairs: int) -> dict[str, Any]:
    """The paired test where the mean difference is exactly what must be excluded."""
    margin = PLAN.quality_margin
    passed: list[int] = []
    for start in range(0, runs, BLOCK):
        rise = draw.random((min(BLOCK, runs - start), pairs)) < 0.5
        safe = eprocess.safe_mean(np.where(rise, margin + 0.15, margin - 0.15), margin=margin)
        passed += first(safe >= math.log(1 / PLAN.beta)).tolist()
    return summary(passed)


def same_as_judge(draw: np.random.Generator, requests: int) -> bool:
    """Whether ``judge()`` itself rolls back the run where the tests above do: the figures are the judge's own."""
    seen = users(draw, 1, requests, 0.05, 0.2)
    rolled = int(judged(seen)[0][0])
    begun = datetime(2026, 1, 1, tzinfo=UTC)
    rollout = RolloutRecord(
        "roll", Scope(), "desk", "next", "live", PLAN, "canary", 0, False, "", "", begun, begun, None
    )  # fmt: skip
    exposures = [
        Exposure(
            "roll", f"{number:06}", Scope(), f"user-{number}", "canary" if arm else "control", 0, 0.05,
            "engine" if seen["error"][0][number] else None, bool(seen["invalid"][0][number]), True, 0.1, 0.1, 1, None,
            begun + timedelta(seconds=number),
        )
        for number, arm in enumerate(seen["arm"][0])
    ]  # fmt: skip
    decisions = [judge(rollout, exposures[:number], (), begun, SLO()).decision for number in (rolled - 1, rolled)]
    return rolled > 0 and decisions == ["hold", "roll_back"]


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--full", action="store_true", help="1,000 runs of A/A and 500 of A/B; a few minutes")
    arguments.add_argument("--seed", type=int, default=1)
    chosen = arguments.parse_args()
    null_runs, runs, requests, pairs = (1_000, 500, 10_000, 5_000) if chosen.full else (200, 100, 3_000, 1_500)
    draw, began = np.random.default_rng(chosen.seed), time.monotonic()

    print(f"α = {PLAN.alpha}, β = {PLAN.beta}; at most {requests:,} requests a run, half of them the canary's")
    print(f"{'':24}{'judge':>24}{'z-test, peeked':>24}{'threshold':>24}{'judge: tests passed':>24}")
    table: dict[str, Any] = {}
    for base in BASE_RATES:
        # The last ratio is the one that a plan excludes: whoever passes there is wrong.
        for ratio in (1.0, *RATIOS):
            name = f"{base:.0%} × {ratio:g}"
            table[name] = count_runs(draw, null_runs if ratio == 1.0 else runs, requests, base, ratio)
            columns = [table[name][who] for who in ("judge", "z", "threshold", "passed")]
            print(f"{name:24}" + "".join(f"{_told(column):>24}" for column in columns), flush=True)
    print("share of runs that stopped, median requests of those, requests of 9 in 10 of all")

    quality = {
        "same": quality_runs(draw, null_runs, pairs, 0.12, 0.12),
        "better": quality_runs(draw, runs, pairs, 0.25, 0.12),
        "worse": quality_runs(draw, runs, pairs, 0.12, 0.30),
    }
    print(f"\n{'paired quality':24}{'mean difference':>24}{'rolled back':>24}{'passed':>24}")
    for name, found in quality.items():
        mean = f"{found['difference']:+.4f} ± {found['deviation']:.3f}"
        print(f"{name:24}{mean:>24}{_told(found['rolled_back']):>24}{_told(found['passed']):>24}")
    boundary = boundary_runs(draw, null_runs, pairs)
    print(f"{'worse by the margin':24}{PLAN.quality_margin:>+24.4f}{'':24}{_told(boundary):>24}")

    agrees = same_as_judge(draw, 3_000)
    wrong = {
        "false_roll_back": max(table[f"{base:.0%} × 1"]["judge"]["share"] for base in BASE_RATES),
        "false_roll_back_quality": quality["same"]["rolled_back"]["share"],
        "false_promotion": max(table[f"{base:.0%} × {PLAN.harm:g}"]["errors_passed"]["share"] for base in BASE_RATES),
        "false_promotion_quality": boundary["share"],
    }
    kept = agrees and all(share <= (PLAN.alpha if "roll_back" in name else PLAN.beta) for name, share in wrong.items())
    seconds = time.monotonic() - began
    print(f"\nThe judge itself stops there too: {agrees}. Promises kept: {kept}. {seconds:.0f} s.")
    line = {
        "benchmark": "judge", "at": datetime.now(UTC).isoformat(timespec="seconds"), "full": chosen.full,
        "seed": chosen.seed, "runs": {"null": null_runs, "other": runs}, "requests": requests, "pairs": pairs,
        "counts": table, "quality": quality, "quality_boundary": boundary, "wrong": wrong, "same_as_judge": agrees,
        "kept": kept, "seconds": round(seconds, 1),
    }  # fmt: skip
    text = json.dumps(line)
    with RESULTS.open("a") as results:
        results.write(text + "\n")
    print(text)
    return 0 if kept else 1


def _told(found: dict[str, Any]) -> str:
    shown = [f"{found[name]:,}" if found[name] is not None else "–" for name in ("median", "most")]
    return f"{found['share']:.1%} {shown[0]} {shown[1]}"


if __name__ == "__main__":
    sys.exit(main())
