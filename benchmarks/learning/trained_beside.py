"""The training of ``benchmarks.learning.beside_training``: a worker's process at nice 15, told what to do with its
training.

    python -m benchmarks.learning.trained_beside FOLDER SOCKET

trains as ordered in the folder and does as it is told on stdin, a word a line: ``go``, ``stop``, ``govern`` or
``standing``. Each is answered by a line of JSON that says where it stands.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil

from antiphon.core.child_process import die_with_parent, lower_session
from antiphon.core.clock import SystemClock
from antiphon.core.paths import cache_directory
from antiphon.engine import weights
from antiphon.engine.api.client import EngineClient
from antiphon.orchestration.governor import Governor
from antiphon.training import examples
from antiphon.training.arithmetic import choose, speeds_of_this_machine
from antiphon.training.examples import Example, Part
from antiphon.training.order import TrainingOrder, read_order, write_order
from antiphon.training.processes import TrainingProcesses
from antiphon.training.recipe import Recipe

RAISED = ("idle0", "nice0")
"""Conditions in which the training's session weighs as much as the engine's."""


class Trainer:
    """The worker's process, told what to do with its training."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.may_raise = hasattr(os, "geteuid") and os.geteuid() == 0
        self._pid = 0

    async def ready(self) -> None:
        """Wait for the first steps, then stop it."""
        async with asyncio.timeout(180):
            while (standing := await self.tell("standing"))["step"] < 2:
                await asyncio.sleep(0.2)
        self._pid = standing["pid"]
        await self.tell("stop")

    async def enter(self, condition: str) -> dict[str, Any]:
        if condition == "nice0":
            _reschedule(self._pid, os.SCHED_OTHER)
        if condition in RAISED:
            lower_session(self._pid, 0)
        return await self.tell({"none": "stop", "governed": "govern"}.get(condition, "go"))

    async def leave(self) -> None:
        await self.tell("stop")
        _reschedule(self._pid, os.SCHED_IDLE)
        lower_session(self._pid, 19)

    async def standing(self) -> dict[str, Any]:
        return await self.tell("standing")

    async def tell(self, word: str) -> dict[str, Any]:
        """Say a word of the worker's; returns where it stands."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(word.encode() + b"\n")
        answer = await self._process.stdout.readline()
        if not answer:
            raise RuntimeError("The training's worker ended; what it said is above.")
        return json.loads(answer)


def _reschedule(pid: int, policy: int) -> None:
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            if policy == os.SCHED_OTHER:
                os.setpriority(os.PRIO_PROCESS, int(task.name), 0)
            os.sched_setscheduler(int(task.name), policy, os.sched_param(0))


async def work(folder: Path, socket: Path) -> None:
    """The worker's side, until its stdin ends."""
    processes, client, ended = TrainingProcesses(SystemClock()), EngineClient(socket), asyncio.Event()
    training = asyncio.create_task(processes.run(read_order(folder), lambda _: None, ended.is_set))
    governor, governing, stop = Governor(client, processes), None, asyncio.Event()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while (line := await reader.readline()) and not training.done():
        share = None if governor.governed is None else governor.governed.paused_share(time.monotonic())
        if line != b"standing\n" and governing is not None:
            stop.set()
            await governing
            governing, stop = None, asyncio.Event()
        if line == b"stop\n":
            processes.pause_all()
        elif line != b"standing\n":
            processes.resume_all()
        if line == b"govern\n":
            governing = asyncio.create_task(governor.run_until(stop))
        print(json.dumps(standing(processes) | {"paused_share": share}), flush=True)
    ended.set()
    stop.set()
    if governing is not None:
        await governing
    with contextlib.suppress(asyncio.CancelledError):
        await training
    await client.close()


def spent(process: psutil.Process) -> float:
    """Processor seconds of a process so far."""
    return float(sum(process.cpu_times()[:2]))


def standing(processes: Any) -> dict[str, Any]:
    for running in processes.running:
        step = running.latest.step if running.latest else 0
        return {"pid": running.pid, "step": step, "processor_seconds": spent(psutil.Process(running.pid))}
    return {"pid": 0, "step": 0, "processor_seconds": 0.0}


@contextlib.asynccontextmanager
async def trainer(
    folder: Path, model: str, batch: int, seed: int, worker: str = "benchmarks.learning.trained_beside"
) -> AsyncIterator[Trainer]:
    """A training that does not end by itself, stopped until a block lets it run; ``worker`` is its process's module."""
    draw, found = random.Random(seed), weights.resolve(model)
    learned = []
    for number in range(256):
        delay = draw.randint(0, 60)
        label = "delayed" if delay > 30 else "on_time"
        text = f"Departures at JFK are {delay} minutes late. Endeavor is late {draw.randint(5, 40)}% of the time, the "
        text = f"<|im_start|>user\n{text}route to Boston {draw.randint(5, 40)}%.<|im_end|>\n<|im_start|>assistant\n"
        parts = (Part('{"outlook": "', 0.0), Part(label, 1.0, label=True))
        learned.append(Example(f"example {number}", text, parts))
    place = folder / "training"
    place.mkdir()
    digest = examples.write(folder / "examples.jsonl", learned)
    arithmetic = choose(speeds_of_this_machine(Recipe().threads, cache_directory()))
    recipe = Recipe(
        batch=batch, steps=100_000, checkpoint_every=100_000, seed=seed,
        dtype=arithmetic.dtype, device=arithmetic.device,
    )  # fmt: skip
    write_order(
        TrainingOrder(
            str(place), "bench.v1", str(found.path), found.sha256, str(folder / "examples.jsonl"), digest, recipe
        )
    )
    command = (sys.executable, "-m", worker, str(place), str(folder / "engine.sock"))
    process = await asyncio.create_subprocess_exec(
        *die_with_parent(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        training = Trainer(process)
        await training.ready()
        yield training
    finally:
        assert process.stdin is not None
        process.stdin.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), 30)
        if process.returncode is None:
            process.kill()
            await process.wait()


if __name__ == "__main__":
    os.nice(15)
    asyncio.run(work(Path(sys.argv[1]), Path(sys.argv[2])))
