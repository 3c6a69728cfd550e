"""Whether a judge model's mean, corrected by 60 scores of people, is where its interval says; beside the judge alone.

    python -m benchmarks.learning.judged_means [--size ci|demo|full] [--seed 1]

Answers have a quality that people score from 1 to 5 with some noise of their own, and a judge scores it with a bias and
a noise. In each run 60 of 460 answers are scored by people. The interval is that of evaluations
(``learning/evaluation/judges.py``); beside it stand the judge's own mean and the mean of the 60 alone. A table, then
one JSON line, kept in ``benchmarks/results/judged-means.jsonl``; exit code 1 when a coverage is not from 90 to 98 %.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from antiphon.learning.evaluation.judges import prediction_powered_mean

RESULTS = Path(__file__).parents[1] / "results" / "judged-means.jsonl"
SIZES = {"ci": 200, "demo": 1_000, "full": 5_000}
PEOPLE, JUDGE_ALONE = 60, 400
JUDGES = {
    "fair and sharp": (0.0, 0.3),
    "likes everything": (1.0, 0.4),
    "hard to please, vague": (-0.8, 1.0),
    "nearly a coin": (0.5, 3.0),
}
"""Judge to its bias and noise, in points."""

Floats = NDArray[np.float64]


def answers(draw: np.random.Generator, number: int, bias: float, noise: float) -> tuple[Floats, Floats]:
    """Scores of people and of a judge."""
    quality = draw.normal(3.2, 0.9, number)
    people = np.clip(np.round(quality + draw.normal(0, 0.3, number)), 1, 5)
    return people, np.clip(np.round(quality + bias + draw.normal(0, noise, number)), 1, 5)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="demo")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    draw, found = np.random.default_rng(options.seed), {}
    truth = float(answers(draw, 2_000_000, 0.0, 0.0)[0].mean())
    print(f"{'judge':<24}{'corrected covers':>18}{'judge alone':>14}{'width beside 60 alone':>24}")
    for name, (bias, noise) in JUDGES.items():
        inside, alone, widths = 0, 0, []
        for _ in range(SIZES[options.size]):
            people, judge = answers(draw, PEOPLE + JUDGE_ALONE, bias, noise)
            interval = prediction_powered_mean(people[:PEOPLE], judge[:PEOPLE], judge[PEOPLE:])
            inside += interval.low <= truth <= interval.high
            alone += abs(judge.mean() - truth) <= 1.96 * judge.std(ddof=1) / len(judge) ** 0.5
            widths.append((interval.high - interval.low) / (2 * 2.001 * people[:PEOPLE].std(ddof=1) / PEOPLE**0.5))
        runs = SIZES[options.size]
        found[name] = {"covers": inside / runs, "judge_alone": alone / runs, "width": float(np.mean(widths))}
        one = found[name]
        print(f"{name:<24}{one['covers']:>17.1%} {one['judge_alone']:>13.1%} {one['width']:>23.2f}")
    line = json.dumps(
        {
            "benchmark": "judged_means",
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "size": options.size,
            "runs": SIZES[options.size],
            "seed": options.seed,
            "judges": found,
        }
    )
    with RESULTS.open("a", encoding="utf-8") as out:
        out.write(line + "\n")
    print(line)
    return 0 if all(0.9 <= one["covers"] <= 0.98 for one in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
