"""Two gateways and a worker before one server of ten slots, as processes: the server, and those that front it.

The clients of one arm live in this process, each with a connection of its own, as gateways and workers have.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchmarks.gateway.contenders import running
from benchmarks.upstream.virtual import ENDLESS, SIZES, Outcome
from tests.harness.ports import free_port

from antiphon.core.errors import UnavailableError
from antiphon.engine.api.client import EngineClient
from antiphon.engine.api.messages import Delta, GenerationRequest, GenerationResult, Priority
from antiphon.engine.api.port import GenerationEngine
from antiphon.engine.backends.remote.engine import RemoteEngine, Serves
from antiphon.engine.scheduling.service_level import ServiceLevel

SLOTS = 10


@dataclass(frozen=True)
class Workload:
    """Requests of an arm.

    Attributes:
        model: its name at the server, which has ``slots``.
        rate: online requests a second, both gateways together.
        online_words, batch_words: mean length of texts.
        sizes: of prompts, in characters, equally likely.
        forced: lengths of texts are forced, of a server whose model ends where it likes.
        salt: begins every prompt, so that a server has no prefix of another arm's.
    """

    model: str = "simulated"
    slots: int = SLOTS
    rate: float = 5.0
    online_words: int = 8
    batch_words: int = 14
    sizes: tuple[int, ...] = SIZES
    forced: bool = False
    salt: str = ""

    def request(self, chance: Random, priority: Priority, level: ServiceLevel | None = None) -> GenerationRequest:
        """One request, whose prompt begins as no other does."""
        size = chance.choice(self.sizes)
        words = self.online_words if priority == "online" else self.batch_words
        prompt = (f"{self.salt} {chance.getrandbits(64):x} " + "one more word of it " * (size // 20 + 1))[:size]
        words = max(round(words * chance.uniform(0.6, 1.4)), 1)
        return GenerationRequest("r", self.model, prompt, words, priority=priority, level=level, ignore_end=self.forced)


SIMULATED = Workload()


@contextmanager
def serving(folder: Path, *, scale: float = 1.0) -> Iterator[str]:
    """The server's URL."""
    port = free_port()
    command = (
        sys.executable, "-m", "benchmarks.upstream.server",
        "--port", str(port), "--slots", str(SLOTS), "--scale", str(scale),
    )  # fmt: skip
    with running(command, folder / "server.log", f"http://127.0.0.1:{port}/v1/models"):
        yield f"http://127.0.0.1:{port}/v1"


@asynccontextmanager
async def fronted(folder: Path, name: str, url: str, more: str = "") -> AsyncIterator[EngineClient]:
    """A client of a new process in front of the server; ``more`` of its section ``[engine]``."""
    root = folder / name
    root.mkdir()
    (root / "antiphon.toml").write_text(
        f'[project]\nname = "bench"\n\n[engine]\nkind = "remote"\nurl = "{url}"\nmodel_check = "off"\n{more}'
    )
    (root / "definitions.py").write_text("")
    (root / ".antiphon" / "run").mkdir(parents=True)
    (root / ".antiphon" / "logs").mkdir()
    command = (sys.executable, "-m", "antiphon.app.upstream", "--project", str(root))
    with running(command, folder / f"{name}.log"):
        client = EngineClient(root / ".antiphon" / "run" / "engine.sock")
        async with asyncio.timeout(30):
            while True:
                with contextlib.suppress(UnavailableError):
                    await client.describe()
                    break
                await asyncio.sleep(0.05)
        try:
            yield client
        finally:
            await client.close()


class BatchGate:
    """Lets batch requests go: at most so many, or while the server has so many slots free."""

    def __init__(self, most: int = ENDLESS, free: int | None = None, slots: int = SLOTS) -> None:
        self._most = most
        self._free = free
        self._slots = slots
        self.online = self.batch = 0
        self.changed = asyncio.Condition()

    def admits(self) -> bool:
        if self._free is not None:
            return self.online + self.batch < self._slots - self._free
        return self.batch < self._most


class Arm:
    """One way to send: engines of the two gateways and of the worker, and who lets batch go."""

    def __init__(
        self,
        gateways: tuple[GenerationEngine, ...],
        worker: GenerationEngine | None,
        gate: BatchGate,
        level: ServiceLevel,
        workload: Workload = SIMULATED,
    ) -> None:
        self._workload = workload
        self._gateways = gateways
        self._worker = worker
        self._gate = gate
        self._level = level
        self._waits: list[float] = []
        self._ended = 0
        self._begun = 0.0

    async def run(self, seconds: float, warm: float, seed: int) -> Outcome:
        """Send online requests at random and batch without end; what is counted begins after the warm-up."""
        chance, tasks = Random(seed), set[asyncio.Task[None]]()
        began = time.monotonic()
        self._begun = began + warm
        workers = [] if self._worker is None else [asyncio.create_task(self._batch(seed + n)) for n in range(ENDLESS)]
        rate = self._workload.rate
        moment, number = chance.expovariate(rate), 0
        while moment < warm + seconds:
            await asyncio.sleep(max(began + moment - time.monotonic(), 0.0))
            engine = self._gateways[number % len(self._gateways)]
            tasks.add(asyncio.create_task(self._online(engine, self._workload.request(chance, "online", self._level))))
            moment, number = moment + chance.expovariate(rate), number + 1
        ended = self._ended
        await asyncio.gather(*tasks)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        return Outcome(tuple(sorted(self._waits)), ended / seconds)

    async def _online(self, engine: GenerationEngine, request: GenerationRequest) -> None:
        await self._count(online=1)
        try:
            sent = time.monotonic()
            waited = await first_token(engine, request)
            if sent > self._begun:
                self._waits.append(waited)
        finally:
            await self._count(online=-1)

    async def _batch(self, seed: int) -> None:
        assert self._worker is not None
        chance, gate = Random(seed), self._gate
        while True:
            async with gate.changed:
                await gate.changed.wait_for(gate.admits)
                gate.batch += 1
            try:
                await first_token(self._worker, self._workload.request(chance, "batch"))
                self._ended += time.monotonic() > self._begun
            finally:
                await self._count(batch=-1)

    async def _count(self, *, online: int = 0, batch: int = 0) -> None:
        async with self._gate.changed:
            self._gate.online += online
            self._gate.batch += batch
            self._gate.changed.notify_all()


async def first_token(engine: GenerationEngine, request: GenerationRequest) -> float:
    """Seconds until the first token; returns at the end of the text."""
    sent, first = time.monotonic(), 0.0
    async with contextlib.aclosing(engine.generate(request)) as events:
        async for event in events:
            if isinstance(event, Delta) and not first:
                first = time.monotonic()
            if isinstance(event, GenerationResult):
                break
    return first - sent


async def arms(
    folder: Path, seconds: float, warm: float, seed: int, level: ServiceLevel, frees: tuple[int, ...]
) -> AsyncIterator[tuple[str, Outcome]]:
    """Each way to send in turn, by name."""
    with serving(folder) as url:
        async with fronted(folder, "alone", url) as client:
            yield "online alone", await Arm((client, client), None, BatchGate(), level).run(seconds, warm, seed)
        for free in frees:
            async with direct(url) as server:
                arm = Arm((server, server), server, BatchGate(free=free), level)
                yield f"all knowledge, {free} free", await arm.run(seconds, warm, seed)
        async with fronted(folder, "one", url) as client:
            clients = [EngineClient(folder / "one" / ".antiphon" / "run" / "engine.sock") for _ in range(2)]
            yield "one front", await Arm((client, clients[0]), clients[1], BatchGate(), level).run(seconds, warm, seed)
            for each in clients:
                await each.close()
        async with (
            fronted(folder, "first", url) as first,
            fronted(folder, "second", url) as second,
            fronted(folder, "worker", url) as worker,
        ):
            arm = Arm((first, second), worker, BatchGate(), level)
            yield "each process for itself", await arm.run(seconds, warm, seed)
        for most in (4, 8):
            async with direct(url) as server:
                arm = Arm((server, server), server, BatchGate(most), level)
                yield f"static cap {most}", await arm.run(seconds, warm, seed)
        async with direct(url) as server:
            yield "no control", await Arm((server, server), server, BatchGate(), level).run(seconds, warm, seed)


@asynccontextmanager
async def direct(url: str, serves: Serves = "openai", parameters: tuple[str, ...] = ()) -> AsyncIterator[RemoteEngine]:
    """The server without a process in between; where nothing holds batch back, it waits there for minutes."""
    engine = RemoteEngine(url, serves=serves, parameters=parameters, timeout_seconds=600.0)
    try:
        yield engine
    finally:
        await engine.close()


async def hop(folder: Path, pairs: int) -> list[tuple[float, float]]:
    """(direct, through a front) seconds to the first token, by turns, of a server that answers at once."""
    found = []
    with serving(folder, scale=0.0) as url:
        async with fronted(folder, "hop", url) as client, direct(url) as server:
            for number in range(pairs + 20):
                order = ((server, client), (client, server))[number % 2]
                request = GenerationRequest("r", SIMULATED.model, "x" * 400, 4)
                times = {id(engine): await first_token(engine, request) for engine in order}
                if number >= 20:
                    found.append((times[id(server)], times[id(client)]))
    return found
