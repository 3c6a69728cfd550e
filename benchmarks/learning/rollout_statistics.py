"""Rollouts of two releases compared by labels, labels of many, numbers and texts, beside a paired t-test; by signals.

``python -m benchmarks.learning.rollout_statistics [--full] [--seed 1]``. For each kind of outcome, simulated shadow
pairs of a live release and of a candidate that is as good (A/A), worse by exactly the margin that a plan excludes,
clearly worse, and better. The judge's paired test is looked at after every pair; the t-test once, at the last one (a
fixed sample), or every 50 pairs (peeked). Of thumbs, users of either arm who give one or none, looked at after every
user, beside a test of two shares. Losses are those that evaluations and the judge compute: Brier scores, errors
over the range, 1 - chrF of texts. A table, then one JSON line, kept in ``benchmarks/results/rollout-statistics.jsonl``;
exit code 1 when the judge is wrong more often than it promises.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from antiphon.definitions.learning import Rollout
from antiphon.definitions.signals import THUMBS
from antiphon.learning.evaluation.numbers import NumberAnswers
from antiphon.learning.evaluation.texts import score_text
from antiphon.releases import eprocess
from antiphon.releases.evidence import signal_values, weights

RESULTS = Path(__file__).parents[1] / "results" / "rollout-statistics.jsonl"
PLAN = Rollout(shadow=0.2, shadow_pairs=300, canary=(5, 20, 50))
EVERY = 50
"""Pairs between two looks of the peeked t-test."""
BLOCK = 50

Floats: TypeAlias = NDArray[np.float64]
Losses: TypeAlias = Callable[[np.random.Generator, tuple[int, int], float, float], tuple[Floats, Floats]]
"""Losses of live and candidate on the same requests, runs × pairs, by how badly each sees what is asked."""


def yes_or_no(draw: np.random.Generator, shape: tuple[int, int], live: float, shadow: float) -> tuple[Floats, Floats]:
    """Brier scores of two forecasters who see a probability through noise."""
    truth = draw.beta(1.2, 3.6, shape)
    label = draw.random(shape) < truth
    said = [np.clip(truth + draw.normal(0, noise, shape), 0, 1) for noise in (live, shadow)]
    return (said[0] - label) ** 2, (said[1] - label) ** 2


def of_many(draw: np.random.Generator, shape: tuple[int, int], live: float, shadow: float) -> tuple[Floats, Floats]:
    """Brier scores of two forecasters of four labels, of which the last is rare."""
    scores = draw.normal(0, 1, (*shape, 4)) + np.log([0.5, 0.3, 0.17, 0.03])
    chosen = (_softmax(scores).cumsum(axis=-1) < draw.random((*shape, 1))).sum(axis=-1).clip(0, 3)
    truth = np.eye(4)[chosen]

    def loss(noise: float) -> Floats:
        said = _softmax(scores + draw.normal(0, 4 * noise, scores.shape))
        return np.asarray(0.5 * ((said - truth) ** 2).sum(axis=-1))

    return loss(live), loss(shadow)


def numbers(draw: np.random.Generator, shape: tuple[int, int], live: float, shadow: float) -> tuple[Floats, Floats]:
    """Errors over the range of two who estimate minutes from 0 to 240; some tickets take far longer than any bound."""
    truth = draw.gamma(2.0, 25.0, shape)

    def loss(noise: float) -> Floats:
        said = truth + draw.normal(0, 240 * noise, shape)
        return NumberAnswers(said.ravel(), truth.ravel(), 240.0).losses().reshape(shape)

    return loss(live), loss(shadow)


REPLY = "please restart the router then wait two minutes before you try again our team found the cause of this outage"
WORDS = np.array(REPLY.split())
TEXTS, VARIANTS = 60, 12


@cache
def _text_losses(noise: float) -> Floats:
    """Losses of so many replies with this share of the words wrong, each in some variants."""
    draw = np.random.default_rng(5)
    table = np.zeros((TEXTS, VARIANTS))
    for text in range(TEXTS):
        reference = draw.choice(WORDS, draw.integers(6, 16))
        for variant in range(VARIANTS):
            wrong = draw.random(len(reference)) < noise
            said = np.where(wrong, draw.choice(WORDS, len(reference)), reference)
            table[text, variant] = 1 - score_text(" ".join(said), " ".join(reference))["chrf"]
    return table


def texts(draw: np.random.Generator, shape: tuple[int, int], live: float, shadow: float) -> tuple[Floats, Floats]:
    """Distances of chrF from 1 of two who write replies and get some of the words wrong."""
    text = draw.integers(0, TEXTS, shape)
    found = [_text_losses(noise)[text, draw.integers(0, VARIANTS, shape)] for noise in (live, shadow)]
    return found[0], found[1]


def _softmax(scores: Floats) -> Floats:
    raised = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))


KINDS: dict[str, tuple[Losses, float, float]] = {
    "yes or no": (yes_or_no, 0.12, 0.30),
    "labels of many": (of_many, 0.15, 0.45),
    "numbers": (numbers, 0.10, 0.20),
    "texts": (texts, 0.25, 0.40),
}
"""Kind to what makes its losses, how badly a good release sees, and a bad one."""


THUMBED = Rollout(canary=(50,), signals=("thumbs",))
SENT = 0.4
"""Share of the users who give a thumb."""

THUMB_CASES = {"as good": (0.5, 0.5), "worse by the margin": (0.5, 0.125), "worse": (0.5, 0.1), "better": (0.3, 0.5)}
"""Shares of thumbs up in the control and in the canary; the margin is a ``harm``-th of the control's."""


def by_thumbs(draw: np.random.Generator, runs: int, users: int, control: float, canary: float) -> dict[str, Any]:
    """Share of runs in which each test decided, and users of each arm until it did in half of those."""
    thumbs: dict[str, tuple[Floats, Floats]] = {}
    for arm, share in (("canary", canary), ("control", control)):
        gave = draw.random((runs, users)) < SENT
        up = gave & (draw.random((runs, users)) < share)
        thumbs[arm] = up.cumsum(axis=1).astype(np.float64), (gave & ~up).cumsum(axis=1).astype(np.float64)
    (good, bad), (good_0, bad_0) = thumbs["canary"], thumbs["control"]
    harm, safe = signal_values(
        THUMBED, THUMBS, bad=(bad, bad_0), good=(good, good_0), waited=(good + bad, good_0 + bad_0)
    )
    alpha = PLAN.alpha * weights(THUMBED)["thumbs"]
    looks = np.arange(EVERY, users + 1, EVERY) - 1
    counts = [np.maximum(part[:, looks], 1.0) for part in (good + bad, good_0 + bad_0)]
    shares = bad[:, looks] / counts[0], bad_0[:, looks] / counts[1]
    pooled = (bad + bad_0)[:, looks] / (counts[0] + counts[1])
    spread = np.sqrt(np.maximum(pooled * (1 - pooled), 1e-12) * (1 / counts[0] + 1 / counts[1]))
    from scipy.stats import norm

    peeked = (shares[0] - shares[1]) / spread > norm.ppf(1 - alpha)
    found = {
        "rolled back": first(harm >= math.log(1 / alpha)),
        "passed": first(safe >= math.log(1 / THUMBED.beta)),
        "t rolled back": peeked[:, -1].astype(np.int64),
        "peeked t rolled back": first(peeked, EVERY),
    }
    return {
        "difference": canary - control,
        "share": {name: float((values > 0).mean()) for name, values in found.items()},
        "pairs": {name: int(np.median(values[values > 0])) if values.any() else None for name, values in found.items()},
    }


def first(crossed: NDArray[np.bool_], every: int = 1) -> NDArray[np.int64]:
    """Pairs until each run first crossed; 0 where it never did."""
    return np.where(crossed.any(axis=1), (crossed.argmax(axis=1) + 1) * every, 0)


def t_scores(differences: Floats, margin: float, looks: NDArray[np.int64]) -> Floats:
    """Student's t of the mean difference from a margin, after so many pairs each."""
    count = looks.astype(np.float64)
    total, squares = (np.cumsum(part, axis=1)[:, looks - 1] for part in (differences, differences**2))
    mean = total / count
    spread = np.sqrt(np.maximum(squares / count - mean**2, 1e-12) * count / (count - 1))
    return np.asarray((mean - margin) / (spread / np.sqrt(count)))


def verdicts(differences: Floats) -> dict[str, NDArray[np.int64]]:
    """When each test decides: the judge's two, and the t-test for the same two questions."""
    alpha, margin = PLAN.alpha * weights(PLAN)["quality"], PLAN.quality_margin
    looks = np.arange(EVERY, differences.shape[1] + 1, EVERY)
    harmed, passed = t_scores(differences, 0.0, looks), -t_scores(differences, margin, looks)
    # The normal distribution's quantiles: of hundreds of pairs t has no other.
    from scipy.stats import norm

    bounds = norm.ppf(1 - alpha), norm.ppf(1 - PLAN.beta)
    return {
        "rolled back": first(eprocess.harm_mean(differences) >= math.log(1 / alpha)),
        "passed": first(eprocess.safe_mean(differences, margin=margin) >= math.log(1 / PLAN.beta)),
        "t rolled back": (harmed[:, -1] > bounds[0]).astype(np.int64),
        "t passed": (passed[:, -1] > bounds[1]).astype(np.int64),
        "peeked t rolled back": first(harmed > bounds[0], EVERY),
        "peeked t passed": first(passed > bounds[1], EVERY),
    }


def simulate(
    losses: Losses,
    draw: np.random.Generator,
    runs: int,
    pairs: int,
    live: float,
    shadow: float,
    *,
    boundary: bool = False,
) -> dict[str, Any]:
    """Share of runs in which each test decided, and pairs until it did in half of those.

    Args:
        boundary: the differences are moved so that the candidate is worse by exactly the margin.
    """
    found: dict[str, list[int]] = {}
    means = []
    for start in range(0, runs, BLOCK):
        ours, theirs = losses(draw, (min(BLOCK, runs - start), pairs), live, shadow)
        differences = theirs - ours
        if boundary:
            differences = differences * (1 - PLAN.quality_margin) + PLAN.quality_margin
        means.append(float(differences.mean()))
        for name, values in verdicts(differences).items():
            found.setdefault(name, []).extend(values.tolist())
    shares = {name: float(np.mean([value > 0 for value in values])) for name, values in found.items()}
    medians = {
        name: int(np.median([value for value in values if value])) for name, values in found.items() if any(values)
    }
    return {"difference": float(np.mean(means)), "share": shares, "pairs": {name: medians.get(name) for name in found}}


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--full", action="store_true", help="1,000 rollouts of each kind; a few minutes")
    arguments.add_argument("--seed", type=int, default=1)
    chosen = arguments.parse_args()
    runs, pairs = (1_000, 3_000) if chosen.full else (200, 1_000)
    draw, began = np.random.default_rng(chosen.seed), time.monotonic()
    table: dict[str, dict[str, Any]] = {}
    print(f"α = {PLAN.alpha}, β = {PLAN.beta}, margin {PLAN.quality_margin}; {runs:,} rollouts of {pairs:,} pairs each")
    print(
        f"{'':32}{'difference':>12}{'rolled back':>20}{'t, once':>10}{'peeked':>9}"
        f"{'passed':>20}{'t, once':>10}{'peeked':>9}"
    )
    for kind, (losses, good, bad) in KINDS.items():
        cases = {
            "as good": (good, good, False), "worse by the margin": (good, good, True), "worse": (good, bad, False),
            "better": (bad, good, False),
        }  # fmt: skip
        for case, (live, shadow, boundary) in cases.items():
            found = simulate(losses, draw, runs, pairs, live, shadow, boundary=boundary)
            table.setdefault(kind, {})[case] = found
            print(f"{f'{kind}, {case}':32}{found['difference']:>+12.4f}{_told(found)}", flush=True)
    for case, (control, canary) in THUMB_CASES.items():
        found = by_thumbs(draw, runs, pairs, control, canary)
        table.setdefault("thumbs", {})[case] = found
        print(f"{f'thumbs, {case}':32}{found['difference']:>+12.4f}{_told(found)}", flush=True)
    print("share of rollouts that decided, and pairs until half of those had")
    wrong = {
        kind: {
            "false_roll_back": cases["as good"]["share"]["rolled back"],
            "false_promotion": cases["worse by the margin"]["share"]["passed"],
        }
        for kind, cases in table.items()
    }
    kept = all(
        found["false_roll_back"] <= PLAN.alpha and found["false_promotion"] <= PLAN.beta for found in wrong.values()
    )
    seconds = time.monotonic() - began
    print(f"\nPromises kept: {kept}. {seconds:.0f} s.")
    line = {
        "benchmark": "rollout-statistics", "at": datetime.now(UTC).isoformat(timespec="seconds"), "full": chosen.full,
        "seed": chosen.seed, "runs": runs, "pairs": pairs, "kinds": table, "wrong": wrong, "kept": kept,
        "seconds": round(seconds, 1),
    }  # fmt: skip
    text = json.dumps(line)
    with RESULTS.open("a") as results:
        results.write(text + "\n")
    print(text)
    return 0 if kept else 1


def _told(found: dict[str, Any]) -> str:
    said = ""
    for name in ("rolled back", "passed"):
        median = found["pairs"][name]
        said += f"{found['share'][name]:>12.1%} {f'{median:,}' if median else '–':>7}"
        for test in (f"t {name}", f"peeked t {name}"):
            share = found["share"].get(test)
            said += f"{'–' if share is None else f'{share:.1%}':>{10 if test.startswith('t') else 9}}"
    return said


if __name__ == "__main__":
    sys.exit(main())
