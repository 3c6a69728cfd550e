"""The governor over a real training process and a real engine process: what the kernel says about the child."""

import asyncio
import contextlib
import importlib.util
import os
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from tests.unit.catalog.examples import catalog_url, open_database

from antiphon.catalog.training_pauses import TrainingPauses
from antiphon.core.clock import SystemClock
from antiphon.core.errors import UnavailableError
from antiphon.engine.api.client import EngineClient
from antiphon.engine.api.messages import Delta, GenerationRequest
from antiphon.orchestration.governor import Governor
from antiphon.orchestration.training_pauses import HOLD_SECONDS, LOOK_SECONDS, TrainingPauseExchange
from antiphon.orchestration.worker import work
from antiphon.training.order import TrainingOrder
from antiphon.training.processes import TrainingProcesses

HOST = socket.gethostname()
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


@contextlib.asynccontextmanager
async def watcher(catalog: str, engine: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another worker process of this machine, which alone sees the engine."""
    command = [sys.executable, str(Path(__file__).with_name("pause_watcher.py")), catalog, str(engine), HOST]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=dict(os.environ))
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="without the extra no training is started")
async def test_training_stops_for_users_that_another_process_sees_until_it_is_seen_or_known_that_they_are_gone(
    tmp_path: Path,
) -> None:
    order = TrainingOrder(str(tmp_path / "training"), "desk.v1", "/base", "0", "/examples", "0")
    processes, stop = TrainingProcesses(SystemClock(), command=CHILD), asyncio.Event()
    database = open_database(tmp_path)
    exchange = TrainingPauseExchange(
        TrainingPauses(database, "dev"),
        processes,
        host=HOST,
        worker="trainer",
        holder="trainer process",
        wakeup=database.doorbell.wakeup("dev", "training"),
    )
    # Its own engine serves nobody; users are at another one of this machine.
    (tmp_path / "own").mkdir()
    async with (
        asyncio.timeout(90),
        engine_process(tmp_path / "own") as own,
        engine_process(tmp_path) as client,
        watcher(catalog_url(tmp_path), tmp_path / "engine.sock") as other,
        training(processes, order),
    ):
        watch = own.describe_when_online
        governor = Governor(own, processes, host=HOST, exchange=exchange, quiet=0.1, poll=0.01, watch=watch)
        governing = asyncio.create_task(work([governor, exchange], stop))
        while not exchange._announced_at:
            await asyncio.sleep(0.005)
        child, took = psutil.Process(processes.running[0].pid), []
        for turn in range(3):
            events = client.generate(GenerationRequest("r", "words", f"About seas {turn}.\n", 500, stop=("never",)))
            assert isinstance(await anext(events), Delta)
            began = time.monotonic()
            await until(child, stopped=True)
            took.append(time.monotonic() - began)
            if turn < 2:
                await events.aclose()
                await until(child, stopped=False)
        print("paused after", [f"{seconds * 1e3:.0f} ms" for seconds in took])
        other.kill()
        killed = time.monotonic()
        await until(child, stopped=False)
        assert time.monotonic() - killed < HOLD_SECONDS + 3 * LOOK_SECONDS, "a row outlives its writer by no more"
        stop.set()
        await governing
        await events.aclose()
    database.close()
