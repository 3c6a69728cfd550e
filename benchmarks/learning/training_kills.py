"""Training that is killed ten times ends with the bytes of one that was not; what a checkpoint and a pause cost.

Run ``python -m benchmarks.learning.training_kills`` (24 steps of 4 short examples of the real base model, about 4
minutes on two cores) or ``--full`` (100 steps of 16, about 15): a table, then one JSON line (kept in
``benchmarks/results/training_kills.jsonl``).

Instants are drawn with a declared seed: one while the process loads, one while it merges and quantizes, the others
after random steps, each at a random fraction of a step and a half later, so that steps and checkpoints are hit.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from antiphon.core.clock import SystemClock
from antiphon.core.errors import SetupError
from antiphon.core.paths import cache_directory
from antiphon.engine.weights import resolve
from antiphon.training.arithmetic import choose, speeds_of_this_machine
from antiphon.training.checkpoint import Checkpoints, CheckpointState
from antiphon.training.child import started_ticks
from antiphon.training.examples import Example, Part, write
from antiphon.training.order import TrainingOrder, TrainingProgress, TrainingResult
from antiphon.training.processes import TrainingProcesses
from antiphon.training.recipe import Recipe

MODEL = "smollm2-135m"
SEED = 3
KILLS = 10
PAUSES = 10
BOUND_SECONDS = 3_600.0
CI = Recipe(batch=4, steps=24, checkpoint_every=2, learning_rate=1e-3)
FULL = Recipe(batch=16, steps=100, checkpoint_every=10, learning_rate=1e-3)


def flights(count: int) -> list[Example]:
    """Questions like the flight desk's; a quarter is trained to the end of its notice."""
    drawn = random.Random(SEED)
    made = []
    for number in range(count):
        minutes, carrier = drawn.choice((0, 5, 10, 20, 40)), drawn.choice((10, 15, 20, 25))
        late = drawn.random() < (0.5 if minutes > 10 else 0.15)
        prompt = (
            "<|im_start|>system\nYou are the flight desk.<|im_end|>\n<|im_start|>user\n"
            f"Delta airline is late {carrier}% of the time. Departures at JFK are {minutes} minutes late.<|im_end|>\n"
            "<|im_start|>assistant\n"
        )
        parts = [Part('{"outlook": "', 0.0), Part("delayed" if late else "on_time", 1.0, label=True)]
        if number % 4 == 0:
            notice = f"Delta is late {carrier}% of the time, departures at JFK run {minutes} minutes late."
            parts += [Part('", "notice": "', 0.0), Part(f'{notice}"}}<|im_end|>', 1.0)]
        made.append(Example(f"flight-{number}", prompt, tuple(parts)))
    return made


def ordered(folder: Path, recipe: Recipe) -> TrainingOrder:
    """An order of its own folder."""
    weights = resolve(MODEL)
    folder.mkdir(parents=True)
    examples = folder / "examples.jsonl"
    sha256 = write(examples, flights(recipe.batch * recipe.steps))
    return TrainingOrder(
        str(folder / "training"), MODEL, str(weights.path), weights.sha256, str(examples), sha256, recipe
    )


class Pauses:
    """Pauses a running training a few times and measures how long threads go on after the signal."""

    def __init__(self, processes: TrainingProcesses) -> None:
        self._processes = processes
        self.seconds: list[float] = []

    def __call__(self, progress: TrainingProgress) -> None:
        if progress.stage != "training" or progress.step % 2 or len(self.seconds) >= PAUSES:
            return
        (running,) = self._processes.running
        # Into the middle of a step: the callback itself runs just after one.
        until = time.perf_counter() + random.Random(f"{SEED}:{progress.step}").random() * 0.3
        while time.perf_counter() < until:
            time.sleep(0.001)
        started = last_change = time.perf_counter()
        self._processes.pause_all()
        used = _processor_nanoseconds(running.pid)
        while time.perf_counter() < started + 0.3:
            now = _processor_nanoseconds(running.pid)
            if now != used:
                used, last_change = now, time.perf_counter()
        self._processes.resume_all()
        self.seconds.append(last_change - started)


async def uninterrupted(order: TrainingOrder) -> tuple[TrainingResult, list[float], float]:
    """Train without a kill: what was made, seconds of the pauses' latency, and seconds until the first step."""
    processes = TrainingProcesses(SystemClock())
    pauses = Pauses(processes)
    began = time.perf_counter()
    first_step: list[float] = []

    def on_progress(progress: TrainingProgress) -> None:
        if progress.stage == "training" and not first_step:
            first_step.append(time.perf_counter() - began)
        pauses(progress)

    trained = await asyncio.wait_for(processes.run(order, on_progress, lambda: False), BOUND_SECONDS)
    return trained, pauses.seconds, first_step[0]


async def killed(order: TrainingOrder, step_seconds: float, load_seconds: float) -> tuple[TrainingResult, list[str]]:
    """Train under kills: what was made, and where it was hit."""
    drawn = random.Random(SEED)
    steps = sorted(drawn.sample(range(1, order.recipe.steps), KILLS - 2))
    processes = TrainingProcesses(SystemClock())
    loop = asyncio.get_running_loop()
    hit: list[str] = []
    aimed: set[int] = set()

    def kill(pid: int, where: str) -> None:
        ticks = started_ticks(pid)
        if ticks is not None and any(running.pid == pid for running in processes.running):
            os.kill(pid, signal.SIGKILL)
            hit.append(where)

    def on_progress(progress: TrainingProgress) -> None:
        if progress.notice or not processes.running:
            return
        pid = processes.running[0].pid
        if pid in aimed:
            return
        if progress.stage == "loading" and len(hit) == 0:
            delay, where = drawn.random() * load_seconds, "loading"
        elif progress.stage == "training" and steps and progress.step >= steps[0]:
            steps.pop(0)
            delay, where = drawn.random() * 1.5 * step_seconds, f"after step {progress.step}"
        elif progress.stage == "converting" and not any(place == "converting" for place in hit):
            delay, where = drawn.random() * 3.0, "converting"
        else:
            return
        aimed.add(pid)
        loop.call_later(delay, kill, pid, where)

    for _ in range(KILLS + 1):
        try:
            trained = await asyncio.wait_for(processes.run(order, on_progress, lambda: False), BOUND_SECONDS)
        except SetupError as error:
            if "SIGKILL" not in error.what:
                raise
            continue
        return trained, hit
    raise SystemExit("The training did not end within its kills.")


def checkpoint_seconds(trained: TrainingResult, folder: Path) -> tuple[float, int]:
    """Median seconds to write a checkpoint of this size, flushed to disk, and its bytes."""
    import torch

    values = torch.zeros(trained.adapter.size // 4)
    checkpoints = Checkpoints(folder, "size", lambda _: None)
    seconds, size = [], 0
    for step in range(7):
        tensors = {"masters": values + step, "first_moment": values + step, "second_moment": values + step}
        started = time.perf_counter()
        size = checkpoints.save(CheckpointState("size", step), tensors).stat().st_size
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), size


def main() -> int:
    """Measure, print, keep; returns 1 when the bytes differ or a pause lasts longer than a step."""
    parser = argparse.ArgumentParser(description="Kill training ten times; the same bytes must come out.")
    parser.add_argument("--full", action="store_true", help="100 steps of 16 examples instead of 24 of 4")
    arithmetic = choose(speeds_of_this_machine(CI.threads, cache_directory()))
    recipe = msgspec.structs.replace(
        FULL if parser.parse_args().full else CI, dtype=arithmetic.dtype, device=arithmetic.device
    )
    with tempfile.TemporaryDirectory(prefix="antiphon-training-") as scratch:
        folder = Path(scratch)
        whole, pauses, load_seconds = asyncio.run(uninterrupted(ordered(folder / "whole", recipe)))
        step_seconds = whole.seconds / recipe.steps
        began = time.perf_counter()
        interrupted, hit = asyncio.run(killed(ordered(folder / "killed", recipe), step_seconds, load_seconds))
        killed_seconds = time.perf_counter() - began
        checkpoint, size = checkpoint_seconds(whole, folder / "checkpoints")
    same = {
        "adapter": interrupted.adapter.sha256 == whole.adapter.sha256,
        "weights": interrupted.weights.sha256 == whole.weights.sha256,
        "losses": interrupted.losses == whole.losses,
    }
    paused = max(pauses) <= step_seconds
    print(f"seed {SEED}, {recipe.steps} steps of {recipe.batch}, load average {os.getloadavg()[0]:.1f}")
    print(f"{'killed':<28} {len(hit)} times: {', '.join(hit)}")
    print(f"{'same bytes':<28} {', '.join(f'{name} {found}' for name, found in same.items())}")
    print(f"{'sha256 of the weights':<28} {whole.weights.sha256}")
    print(
        f"{'a step':<28} {step_seconds:.2f} s; first step after {load_seconds:.1f} s; killed run {killed_seconds:.0f} s"
    )
    print(f"{'a checkpoint':<28} {checkpoint * 1e3:.0f} ms for {size / 1e6:.0f} MB")
    print(
        f"{'pause to standstill':<28} median {statistics.median(pauses) * 1e3:.2f} ms, max {max(pauses) * 1e3:.2f} ms"
    )
    met = all(same.values()) and paused and len(hit) == KILLS
    line = json.dumps(
        {
            "benchmark": "training_kills",
            "at": datetime.now(UTC).isoformat(),
            "seed": SEED,
            "recipe": msgspec.to_builtins(recipe),
            "kills": hit,
            "same": same,
            "weights_sha256": whole.weights.sha256,
            "step_seconds": step_seconds,
            "first_step_after_seconds": load_seconds,
            "killed_run_seconds": killed_seconds,
            "checkpoint_seconds": checkpoint,
            "checkpoint_bytes": size,
            "pause_seconds": {"median": statistics.median(pauses), "max": max(pauses), "pauses": len(pauses)},
            "losses": {"first": whole.losses[0][1], "last": whole.losses[-1][1]},
            "load_average": os.getloadavg(),
            "environment": whole.environment,
            "met": met,
        }
    )
    with (Path(__file__).parents[1] / "results" / "training_kills.jsonl").open("a") as kept:
        kept.write(line + "\n")
    print(line)
    return 0 if met else 1


def _processor_nanoseconds(pid: int) -> int:
    """Processor time of all threads of a process (``/proc/PID/task/*/schedstat``, first field)."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            total += int((task / "schedstat").read_text().split()[0])
        except (OSError, IndexError):
            continue
    return total


if __name__ == "__main__":
    sys.exit(main())
