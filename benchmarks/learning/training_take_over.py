"""A training whose host is killed goes on in another host's folder, and ends with the same bytes; what keeping costs.

Run ``python -m benchmarks.learning.training_take_over`` (12 steps of 4 short examples of the real base model, about 5
minutes on two cores): a table, then one JSON line (kept in ``benchmarks/results/training_take_over.jsonl``). Two hosts
share a catalog and a bucket of radosgw, and have a folder each. The one that trains is killed with SIGKILL, process and
child, at a random fraction of a step after it has kept a new checkpoint, so that steps, writes and uploads are hit; the
other one takes the run over when the lease has ended.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy
from benchmarks.learning.training_host import LEASE, SCOPE, lake_of
from benchmarks.learning.training_kills import ordered
from safetensors.numpy import save
from tests.servers import S3Process

from antiphon.catalog.database import Database
from antiphon.catalog.learning.training_checkpoints import TrainingCheckpoints
from antiphon.core.child_process import start_child
from antiphon.core.clock import SystemClock
from antiphon.core.paths import cache_directory
from antiphon.durable.claims import ServedRuns
from antiphon.durable.context import RunContext
from antiphon.durable.runs import Runs
from antiphon.features.lake.content import Lake
from antiphon.features.lake.local import LocalLake
from antiphon.learning.retraining.checkpoints import EVERY_SECONDS, MOST_SHARE, CheckpointStore, RunCheckpoints
from antiphon.training.arithmetic import choose, speeds_of_this_machine
from antiphon.training.checkpoint import FOLDER, Checkpoints, CheckpointState
from antiphon.training.order import PROGRESS, TrainingOrder, TrainingProgress
from antiphon.training.processes import TrainingProcesses
from antiphon.training.recipe import Recipe

SEED = 3
KILLS = 3
BOUND_SECONDS = 1_800.0
RECIPE = Recipe(batch=4, steps=12, checkpoint_every=2, learning_rate=1e-3)


def until(condition: Callable[[], Any], host: subprocess.Popen[bytes]) -> Any:
    """Wait for what a host brings about; ends with an error when the host does, or after half an hour."""
    deadline = time.monotonic() + BOUND_SECONDS
    while not (found := condition()):
        if host.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"The host {host.args!r} ended with {host.poll()} before it was to.")
        time.sleep(0.05)
    return found


def last_step(folder: Path) -> int:
    """The last step that a host's training has told."""
    steps = [0]
    for file in folder.rglob(PROGRESS):
        for line in file.read_bytes().splitlines():
            try:
                told = msgspec.json.decode(line, type=TrainingProgress)
            except msgspec.DecodeError:
                continue
            steps += [told.step] if told.stage == "training" else []
    return max(steps)


def taken_over(folder: Path, order: TrainingOrder, lake: str, step_seconds: float) -> dict[str, Any]:
    """Train under kills on two hosts by turns: what came out, and how many steps each kill cost."""
    database = Database.open(f"sqlite:///{folder}/catalog.db")
    database.migrate()
    runs, records = Runs(database), TrainingCheckpoints(database)
    run = runs.submit(SCOPE, "train", {}, max_attempts=KILLS + 2)
    (folder / "order.json").write_bytes(msgspec.json.encode(order))
    drawn, reached, cost, seconds = random.Random(SEED), 0, [], []
    for number in range(KILLS + 1):
        place = folder / "ab"[number % 2]
        place.mkdir(exist_ok=True)
        began = time.perf_counter()
        module = [sys.executable, "-m", "benchmarks.learning.training_host"]
        given = [database.backend.url, lake, str(place), str(folder / "order.json"), "0"]
        with (folder / "hosts.log").open("ab") as log:
            host = start_child([*module, *given], stdout=log, stderr=log)
        if number == KILLS:
            if host.wait(BOUND_SECONDS) != 0:
                raise SystemExit((folder / "hosts.log").read_text()[-3000:])
            break
        until(lambda before=reached: any(one.step > before for one in records.list(SCOPE, run)), host)
        seconds.append(time.perf_counter() - began)
        time.sleep(drawn.random() * step_seconds * RECIPE.checkpoint_every)
        os.kill(host.pid, signal.SIGKILL)
        host.wait()
        reached = records.list(SCOPE, run)[0].step
        cost.append(max(0, last_step(place) - reached))
    ended = runs.get(SCOPE, run)
    left = len(list(lake_of(lake, folder / "scratch").files(SCOPE)))
    database.close()
    return {**dict(ended.result or {}), "status": ended.status, "steps_lost": cost, "until_kept": seconds, "left": left}


def keeping(folder: Path, lake: Lake, size: int) -> dict[str, float]:
    """Median wall and processor seconds to keep a checkpoint of this size, with its row."""
    database = Database.open(f"sqlite:///{folder}/{id(lake)}.db")
    database.migrate()
    runs = Runs(database)
    runs.submit(SCOPE, "train", {})
    held = runs.claim("bench", ServedRuns(SCOPE.environment), timedelta(hours=1))
    assert held is not None
    local = Checkpoints(folder / f"local-{id(lake)}", "it", lambda _: None)
    store = CheckpointStore(TrainingCheckpoints(database), lake, database.clock, 0.0)
    kept = RunCheckpoints(store, RunContext(held, runs, database.clock, {}), local, "it")
    wall, processor = [], []
    for step in range(1, 6):
        state = msgspec.json.encode(CheckpointState("it", step)).decode()
        values = numpy.random.default_rng(step).random(size // 4, numpy.float32)
        local.put(step, save({"masters": values}, {"standing": state}))
        started, used = time.perf_counter(), time.process_time()
        asyncio.run(kept.keep_latest())
        wall.append(time.perf_counter() - started)
        processor.append(time.process_time() - used)
    if not store.records.list(SCOPE):
        raise SystemExit("Nothing was kept.")
    database.close()
    return {"seconds": statistics.median(wall), "processor_seconds": statistics.median(processor)}


def main() -> int:
    """Measure, print, keep; returns 1 when the bytes differ, or a kill costs more than was not kept."""
    argparse.ArgumentParser(description="Kill the hosts of a training; the same bytes must come out.").parse_args()
    arithmetic = choose(speeds_of_this_machine(RECIPE.threads, cache_directory()))
    recipe = msgspec.structs.replace(RECIPE, dtype=arithmetic.dtype, device=arithmetic.device)
    with tempfile.TemporaryDirectory(prefix="antiphon-take-over-") as scratch, S3Process() as server:
        server.make_bucket()
        folder = Path(scratch)
        order = ordered(folder / "whole", recipe)
        training = TrainingProcesses(SystemClock(), floor=0.5, window=5.0)
        whole = asyncio.run(training.run(order, lambda _: None, lambda: False))
        step = whole.seconds / recipe.steps
        found = taken_over(folder, order, server.url, step)
        size = max(path.stat().st_size for path in Path(order.folder, FOLDER).glob("*.safetensors"))
        costs = {
            "local": keeping(folder, LocalLake(folder / "lake"), size),
            "bucket": keeping(folder, lake_of(server.url.replace("features", "cost"), folder / "scratch"), size),
        }
    same = (found.get("weights"), found.get("adapter")) == (whole.weights.sha256, whole.adapter.sha256)
    between = {where: max(EVERY_SECONDS, one["seconds"] / MOST_SHARE) for where, one in costs.items()}
    print(f"seed {SEED}, {recipe.steps} steps of {recipe.batch}, load average {os.getloadavg()[0]:.1f}")
    print(f"{'hosts killed':<28} {KILLS}; lease {LEASE.total_seconds():.0f} s; the run {found['status']}")
    print(f"{'same bytes':<28} {same}; files left in the bucket: {found['left']}")
    print(f"{'steps done again by kill':<28} {found['steps_lost']} of a kept one every {recipe.checkpoint_every}")
    print(f"{'until the next is kept':<28} {', '.join(f'{one:.0f} s' for one in found['until_kept'])}")
    print(f"{'a step':<28} {step:.2f} s; a checkpoint {size / 1e6:.0f} MB")
    for where, one in costs.items():
        print(
            f"{f'keeping one ({where})':<28} {one['seconds']:.2f} s, {one['seconds'] / step:.2f} of a step "
            f"({one['processor_seconds']:.2f} s of processor); at most every {between[where]:.0f} s, "
            f"{one['seconds'] / between[where]:.1%} of the time"
        )
    met = same and found["status"] == "succeeded" and found["left"] == 0
    line = json.dumps(
        {
            "benchmark": "training_take_over",
            "at": datetime.now(UTC).isoformat(),
            "seed": SEED,
            "recipe": msgspec.to_builtins(recipe),
            "kills": KILLS,
            "same": same,
            "found": found,
            "step_seconds": step,
            "checkpoint_bytes": size,
            "keeping": costs,
            "seconds_between": between,
            "load_average": os.getloadavg(),
            "met": met,
        }
    )
    with (Path(__file__).parents[1] / "results" / "training_take_over.jsonl").open("a") as kept:
        kept.write(line + "\n")
    print(line)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
