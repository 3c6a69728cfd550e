"""Turns at a machine's idle time over a real engine process, a real training process and the catalog."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import psutil
import pytest
from tests.integration.orchestration.test_governor import CHILD, HOST, engine_process, training, until
from tests.unit.catalog.examples import open_database

from antiphon.catalog.training_pauses import TrainingPauses
from antiphon.core.clock import SystemClock
from antiphon.engine.api.client import EngineClient
from antiphon.engine.api.messages import GenerationRequest
from antiphon.orchestration.governor import Governor
from antiphon.orchestration.idle_budget import BackgroundWork, IdleBudget, trains
from antiphon.orchestration.idle_turns import Contender
from antiphon.orchestration.training_pauses import TrainingPauseExchange
from antiphon.training.order import TrainingOrder
from antiphon.training.processes import TrainingProcesses

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="without the extra nothing is trained"
)


class Machine:
    """One host with a training process, an engine with batch work, and features when a test says so."""

    def __init__(self, client: EngineClient, processes: TrainingProcesses, pauses: TrainingPauses) -> None:
        self.client = client
        self.processes = processes
        self.pauses = pauses
        self.features: Contender | None = None
        self.computing = 0.0
        self.serving: Callable[[], bool] = lambda: False

    def read(self) -> BackgroundWork:
        return BackgroundWork(self.features, None, Contender("training") if trains(self.pauses, HOST) else None)

    def budget(self, seconds: float = 0.6) -> IdleBudget:
        return IdleBudget(
            self.read, self.client.describe, self.client.hold_batch, self.pauses, SystemClock(),
            host=HOST, holder="me", shares={"features": 4.0}, processor_seconds=lambda: self.computing, poll=0.05,
            seconds=seconds, serving=self.serving,
        )  # fmt: skip

    @property
    def child(self) -> psutil.Process:
        return psutil.Process(self.processes.running[0].pid)

    async def generated(self) -> int:
        return (await self.client.describe()).load.generated_tokens_batch


@contextlib.asynccontextmanager
async def machine(folder: Path) -> AsyncIterator[Machine]:
    order = TrainingOrder(str(folder / "training"), "desk.v1", "/base", "0", "/examples", "0")
    processes, database, stop = TrainingProcesses(SystemClock(), command=CHILD), open_database(folder), asyncio.Event()
    pauses = TrainingPauses(database, "dev")
    exchange = TrainingPauseExchange(
        pauses, processes, host=HOST, worker="trainer", holder="trainer process",
        wakeup=database.doorbell.wakeup("dev", "training"),
    )  # fmt: skip
    async with asyncio.timeout(60), engine_process(folder) as client, training(processes, order):
        while not processes.running:
            await asyncio.sleep(0.01)
        exchange.report(frozenset())
        exchanging = asyncio.create_task(exchange.run_until(stop))
        while not trains(pauses, HOST):
            await asyncio.sleep(0.01)
        batch = asyncio.create_task(endless(client))
        try:
            yield Machine(client, processes, pauses)
        finally:
            batch.cancel()
            stop.set()
            await asyncio.gather(batch, exchanging, return_exceptions=True)


async def turn_of(budget: IdleBudget, *turns: str | None) -> None:
    """Wait until it is the turn of one of these."""
    while budget.state.turn not in turns:
        await asyncio.sleep(0.01)


async def endless(client: EngineClient) -> None:
    while True:
        request = GenerationRequest("b", "words", "About lakes.\n", 400, stop=("never",), priority="batch")
        async for _ in client.generate(request):
            pass


async def test_batch_and_training_take_turns_and_go_on_together_at_the_end(tmp_path: Path) -> None:
    async with machine(tmp_path) as here:
        budget, stop = here.budget(), asyncio.Event()
        giving = asyncio.create_task(budget.run_until(stop))
        seen: dict[str | None, tuple[bool, int]] = {}
        for _ in range(400):
            turn = budget.state.turn
            before = await here.generated()
            await asyncio.sleep(0.15)
            if turn is not None and budget.state.turn == turn:
                seen[turn] = (here.child.status() == psutil.STATUS_STOPPED, await here.generated() - before)
            held = "training" in seen and seen["training"] == (False, 0)
            if held and "batch" in seen and seen["batch"][0] and seen["batch"][1] > 0:
                break
        assert seen["training"] == (False, 0), "batch work went on in the turn of training"
        assert seen["batch"][0], "training went on in the turn of batch work"
        assert seen["batch"][1] > 0
        stop.set()
        await giving
        await until(here.child, stopped=False)
        before = await here.generated()
        await asyncio.sleep(0.3)
        assert await here.generated() > before
        assert sum(budget.state.shares.values()) == pytest.approx(1.0, abs=0.01)


async def test_training_gives_its_turn_away_while_online_users_are_served_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("antiphon.orchestration.idle_budget.LOOK_SECONDS", 60.0)  # Only the governor has it look.
    async with machine(tmp_path) as here:
        governor = Governor(here.client, here.processes, host=HOST, quiet=0.2, poll=0.01)
        here.serving = lambda: governor.serving(HOST)
        while not await here.generated():
            await asyncio.sleep(0.01)
        budget, stop = here.budget(seconds=30.0), asyncio.Event()
        governor.listen(budget.wake)
        both = [asyncio.create_task(part.run_until(stop)) for part in (budget, governor)]
        await turn_of(budget, "batch", "training")
        events = here.client.generate(GenerationRequest("r", "words", "About rivers.\n", 500, stop=("never",)))
        await anext(events)
        await turn_of(budget, None)
        await events.aclose()
        await turn_of(budget, "training")  # Batch work had everything meanwhile, and is charged nothing for it.
        await until(here.child, stopped=False)
        stop.set()
        await asyncio.gather(*both)


async def test_features_that_are_due_have_the_machine_until_they_are_done(tmp_path: Path) -> None:
    async with machine(tmp_path) as here:
        budget, stop = here.budget(seconds=30.0), asyncio.Event()
        giving = asyncio.create_task(budget.run_until(stop))
        await turn_of(budget, "batch", "training")
        here.features = Contender("features", SystemClock().now().timestamp() + 30, 1.0, "run run_1")
        await turn_of(budget, "features")
        await until(here.child, stopped=True)
        await asyncio.sleep(0.3)
        before = await here.generated()
        for _ in range(10):
            here.computing += 0.2
            await asyncio.sleep(0.05)
        assert await here.generated() == before
        assert budget.state.why == "run run_1 is due soon"
        here.features = None
        await turn_of(budget, "batch", "training")
        stop.set()
        await giving


async def test_features_that_wait_for_their_source_lose_their_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("antiphon.orchestration.idle_budget.UNUSED_SECONDS", 0.3)
    async with machine(tmp_path) as here:
        here.features = Contender("features", SystemClock().now().timestamp() + 5, 1.0, "run run_1")
        budget, stop = here.budget(seconds=30.0), asyncio.Event()
        giving = asyncio.create_task(budget.run_until(stop))
        await turn_of(budget, "features")
        await turn_of(budget, "batch", "training")  # Its process computes nothing.
        stop.set()
        await giving


async def test_an_engine_out_of_sight_holds_nothing(tmp_path: Path) -> None:
    async with machine(tmp_path) as here:
        budget, stop = here.budget(seconds=30.0), asyncio.Event()
        giving = asyncio.create_task(budget.run_until(stop))
        await turn_of(budget, "batch", "training")
        await here.client.close()
        await turn_of(budget, None)
        await until(here.child, stopped=False)
        stop.set()
        await giving
