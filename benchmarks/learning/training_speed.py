"""Seconds a training step takes in bfloat16 and in float32 on this machine, with and without its newest instructions.

Run ``make bench-training-speed`` (about two minutes on two cores): a table, then one JSON line (kept in
``benchmarks/results/training_speed.jsonl``). Steps are real ones of the base model: 16 examples of the flight desk,
LoRA on every linear layer. "Masked" stands for a processor without AVX-512: the variables in ``MASK`` keep torch and
oneDNN from it. Each contender has a process of its own, and the two formats take turns. Processor time (both cores
together) is told beside wall time: other work on the machine changes it less.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from benchmarks.learning.training_kills import ordered

from antiphon.core.child_process import die_with_parent
from antiphon.training import examples
from antiphon.training.arithmetic import choose, measure
from antiphon.training.base import Base
from antiphon.training.batches import encode
from antiphon.training.child import environment, processor
from antiphon.training.fine_tune import Training
from antiphon.training.recipe import DTYPES, Recipe
from antiphon.training.vocabulary import Vocabulary

RESULTS = Path(__file__).parents[1] / "results" / "training_speed.jsonl"
MASK = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
THREADS = 2
STEPS = 1
ROUNDS = 1


def step_seconds(dtype: str) -> list[tuple[float, float]]:
    """Wall and processor seconds of each of a few steps after the first."""
    with tempfile.TemporaryDirectory() as folder:
        order = ordered(Path(folder) / dtype, Recipe(batch=16, steps=STEPS + 1, threads=THREADS, dtype=dtype))
        learned = examples.read(Path(order.examples_path), order.examples_sha256, examples.Example)
        base = Base(Path(order.base_path), order.base_sha256)
        vocabulary = Vocabulary(base)
        encoded = [encode(example, vocabulary) for example in learned]
        training = Training(order, base)
        seconds = []
        for step in range(STEPS + 1):
            began, used = time.perf_counter(), time.process_time()
            training.model.clear_gradient()
            loss = training.model.backward(encoded[step * 16 : step * 16 + 16], 16)
            training.update(loss, step)
            seconds.append((time.perf_counter() - began, time.process_time() - used))
        return seconds[1:]


def contender(masked: bool, *arguments: str) -> Any:
    """Runs this file in a process of its own; returns what it prints."""
    done = subprocess.run(
        die_with_parent([sys.executable, "-m", "benchmarks.learning.training_speed", *arguments]),
        env={**os.environ, **environment(THREADS), **(MASK if masked else {})},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


def compare(*, quick: bool = False) -> dict[str, Any]:
    """Both formats with and without the newest instructions, in turns, and what the measurement chooses."""
    found: dict[str, Any] = {}
    for masked in (False, True):
        taken: dict[str, list[list[float]]] = {dtype: [] for dtype in DTYPES}
        for _ in range(0 if quick else ROUNDS):
            for dtype in DTYPES:
                taken[dtype] += contender(masked, "--one", dtype)
        found["masked" if masked else "unmasked"] = {
            **contender(masked, "--choose"),
            "step": {
                dtype: {
                    "wall_seconds": round(min(wall for wall, _ in steps), 3),
                    "processor_seconds": round(min(used for _, used in steps), 3),
                }
                for dtype, steps in taken.items()
                if steps
            },
        }
    return found


def main() -> int:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.learning.training_speed", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--one", choices=DTYPES, help="time steps in this format in this process alone")
    parser.add_argument("--choose", action="store_true", help="only print what the measurement chooses")
    parser.add_argument("--quick", action="store_true", help="only a layer's passes, which choose, and no whole steps")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(step_seconds(options.one)))
        return 0
    if options.choose:
        speeds = measure(THREADS)
        print(json.dumps(msgspec.to_builtins({"chosen": choose(speeds), "layer": speeds})))
        return 0
    load = os.getloadavg()[0]
    found = compare(quick=options.quick)
    print(f"{'instructions':<14}{'':<7}{'layer, ms':>12}{'step, wall s':>14}{'processor s':>14}")
    for name, one in found.items():
        layer = {speed["arithmetic"]["dtype"]: speed for speed in one["layer"]}
        for dtype in DTYPES:
            step = one["step"].get(dtype, {})
            wall, used = (str(step.get(kind, "-")) for kind in ("wall_seconds", "processor_seconds"))
            chosen = "  <- chosen" if one["chosen"]["dtype"] == dtype else ""
            print(f"{name:<14}{dtype:<7}{layer[dtype]['milliseconds']:>12.1f}{wall:>14}{used:>14}{chosen}")
    line = json.dumps(
        {
            "benchmark": "training_speed", "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "processor": processor(), "threads": THREADS, "load_before": round(load, 1),
            "load_after": round(os.getloadavg()[0], 1), **found,
        }
    )  # fmt: skip
    with RESULTS.open("a", encoding="utf-8") as kept:
        kept.write(line + "\n")
    print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
