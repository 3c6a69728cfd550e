"""The governor over a real training process and a real engine process: what the kernel says about the child."""

import asyncio
import contextlib
import importlib.util
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from antiphon.core.clock import SystemClock
from antiphon.core.errors import UnavailableError
from antiphon.engine.api.client import EngineClient
from antiphon.engine.api.messages import Delta, GenerationRequest
from antiphon.orchestration.governor import Governor
from antiphon.training.order import TrainingOrder
from antiphon.training.processes import TrainingProcesses

CHILD = (sys.executable, "-c", "import time\nwhile True: time.sleep(0.001)")
"""Stands in for the training program; it is started, stopped and continued as that one is."""


@contextlib.asynccontextmanager
async def engine_process(folder: Path) -> AsyncIterator[EngineClient]:
    command = [sys.executable, "-m", "antiphon.engine", "--socket", str(folder / "engine.sock"), "--model", "words"]
    command += ["--simulated", "--simulated-decode-milliseconds", "100", "--log-level", "warning"]
    process = await asyncio.create_subprocess_exec(*command, env=dict(os.environ))
    client = EngineClient(folder / "engine.sock")
    try:
        while True:
            with contextlib.suppress(UnavailableError):
                await client.describe()
                break
            await asyncio.sleep(0.02)
        yield client
    finally:
        await client.close()
        process.kill()
        await process.wait()


@contextlib.asynccontextmanager
async def training(processes: TrainingProcesses, order: TrainingOrder) -> AsyncIterator[None]:
    ended = asyncio.Event()
    running = asyncio.create_task(processes.run(order, lambda _: None, ended.is_set))
    try:
        yield
    finally:
        ended.set()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def until(child: psutil.Process, *, stopped: bool) -> None:
    while (child.status() == psutil.STATUS_STOPPED) != stopped:
        await asyncio.sleep(0.005)


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="without the extra no training is started")
@pytest.mark.parametrize("watching", [False, True])
async def test_the_kernel_stops_training_while_an_online_request_runs(tmp_path: Path, watching: bool) -> None:
    order = TrainingOrder(str(tmp_path / "training"), "desk.v1", "/base", "0", "/examples", "0")
    processes, stop = TrainingProcesses(SystemClock(), command=CHILD), asyncio.Event()
    async with asyncio.timeout(60), engine_process(tmp_path) as client, training(processes, order):
        watch = client.describe_when_online if watching else None
        governor = Governor(client, processes, quiet=0.1, poll=0.01, watch=watch)
        governing = asyncio.create_task(governor.run_until(stop))
        while governor.governed is None:
            await asyncio.sleep(0.005)
        child = psutil.Process(processes.running[0].pid)
        await until(child, stopped=False)

        events = client.generate(GenerationRequest("r", "words", "About rivers.\n", 500, stop=("never",)))
        assert isinstance(await anext(events), Delta)
        await until(child, stopped=True)
        await events.aclose()
        await until(child, stopped=False)

        batch = client.generate(GenerationRequest("b", "words", "About lakes.\n", 8, priority="batch"))
        async for _ in batch:
            assert child.status() != psutil.STATUS_STOPPED

        events = client.generate(GenerationRequest("r", "words", "About seas.\n", 500, stop=("never",)))
        assert isinstance(await anext(events), Delta)
        await until(child, stopped=True)
        stop.set()
        await governing
        await until(child, stopped=False)
        await events.aclose()
    assert not child.is_running()
