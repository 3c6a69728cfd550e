"""The same runs against a real engine process: open-loop arrivals over its socket, batch kept saturated beside them.

Times are the caller's: from the moment a request was due to be sent, also when sending was late, to the moment each
token was read. Runs of one seed follow one another in an order that is turned from seed to seed, each in a fresh
process, so that a machine that grows slower meets every policy.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.colocation.kept_runs import KeptRuns
from benchmarks.colocation.outcome import Outcome, Served
from benchmarks.colocation.points import Contender
from benchmarks.colocation.policies import Policy
from benchmarks.colocation.traces import (
    BATCH_IN_FLIGHT,
    BATCH_OUTPUT_TOKENS,
    BATCH_PROMPT_TOKENS,
    Request,
    arrivals,
    prompt_text,
)

from antiphon.core.errors import AntiphonError, Unavailable
from antiphon.engine.client import EngineClient
from antiphon.engine.messages import Delta, Generate, Load, Priority

MODEL = "smollm2-135m"
START_SECONDS = 120.0
DRAIN_SECONDS = 60.0
WARM_UP = 4


@contextlib.asynccontextmanager
async def engine(contender: Contender, *, threads: int, simulated: bool = False) -> AsyncIterator[EngineClient]:
    """A fresh engine process that follows a policy: the product itself where the policy is the product's.

    Raises:
        Unavailable: it does not come up.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "engine.sock"
        module = ["antiphon.engine", "--log-level", "warning"]
        if not contender.make().gives_way:
            module = ["benchmarks.colocation.engine_process", "--policy", contender.name]
        command = [sys.executable, "-m", *module, "--socket", str(path), "--model", MODEL, "--threads", str(threads)]
        process = subprocess.Popen(command + ["--simulated"] * simulated, env=dict(os.environ))
        client = EngineClient(path)
        try:
            async with asyncio.timeout(START_SECONDS):
                while not await _answers(client):
                    if process.poll() is not None:
                        raise Unavailable(f"The engine process ended with {process.returncode} before it served.")
                    await asyncio.sleep(0.05)
            yield client
        finally:
            await client.close()
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


async def _answers(client: EngineClient) -> bool:
    try:
        await client.describe()
    except Unavailable:
        return False
    return True


class _Real:
    """One run against one engine. ``begin`` is the window's begin on the asyncio loop's clock."""

    def __init__(
        self, client: EngineClient, online: Sequence[Request], seconds: float, policy: Policy, first_number: int
    ) -> None:
        self._client = client
        self._online = online
        self._seconds = seconds
        self._policy = policy
        self._number = first_number
        self._loop = asyncio.get_running_loop()
        self.begin = 0.0
        self.served = [Served(request.at, request.prompt_tokens, request.output_tokens, []) for request in online]
        self.batch_tokens = 0
        self.latest_sending = 0.0

    @property
    def now(self) -> float:
        return self._loop.time() - self.begin

    async def warm_up(self) -> None:
        """Let the engine meet every kind of call, so that its first online request is not the first of all."""
        await asyncio.gather(*(self._spend(64, 16, "online") for _ in range(WARM_UP)))

    async def run(self) -> tuple[Load, Load]:
        """The window, and what is left of its online requests; what the engine counts before and after the window."""
        before = (await self._client.describe()).load
        self.begin = self._loop.time()
        endless = [asyncio.create_task(self._endless()) for _ in range(BATCH_IN_FLIGHT * self._policy.takes_batch)]
        online = [asyncio.create_task(self._serve(served)) for served in self.served]
        try:
            await asyncio.sleep(self._seconds - self.now)
            after = (await self._client.describe()).load
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_SECONDS):
                    await asyncio.gather(*online)
        finally:
            for task in (*endless, *online):
                task.cancel()
            await asyncio.gather(*endless, *online, return_exceptions=True)
        for task in endless:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
        return before, after

    async def _serve(self, served: Served) -> None:
        await asyncio.sleep(served.at - self.now)
        self.latest_sending = max(self.latest_sending, self.now - served.at)
        with contextlib.suppress(AntiphonError):  # A refused request keeps its missing tokens, which count as never.
            await self._spend(served.prompt_tokens, served.output_tokens, "online", served.tokens)

    async def _endless(self) -> None:
        while True:
            await self._spend(BATCH_PROMPT_TOKENS, BATCH_OUTPUT_TOKENS, "batch")

    async def _spend(
        self, prompt_tokens: int, output_tokens: int, priority: Priority, times: list[float] | None = None
    ) -> None:
        self._number += 1
        text = prompt_text(prompt_tokens, self._number)
        level = self._policy.level if priority == "online" else None
        request = Generate(
            str(self._number), MODEL, text, output_tokens, priority=priority, level=level, ignore_end=True
        )
        async for event in self._client.generate(request):
            if not isinstance(event, Delta):
                continue
            if times is not None:
                times.extend([self.now] * len(event.tokens))
            elif self.begin and self.now <= self._seconds:
                self.batch_tokens += len(event.tokens)


async def real_run(
    contender: Contender,
    online: Sequence[Request],
    seconds: float,
    *,
    seed: int = 0,
    threads: int = 2,
    simulated: bool = False,
) -> Outcome:
    """One run of a policy in an engine process of its own.

    Args:
        simulated: a process without a model, for tests of this file.

    Raises:
        Unavailable: the engine does not come up.
    """
    policy = contender.make()
    async with engine(contender, threads=threads, simulated=simulated) as client:
        run = _Real(client, online, seconds, policy, (seed + 1) * 1_000_000)
        await run.warm_up()
        before, after = await run.run()
    busy = after.busy_seconds - before.busy_seconds
    computed, lost = after.call_seconds - before.call_seconds, after.interrupted_seconds - before.interrupted_seconds
    return Outcome(
        contender.name,
        seconds,
        tuple(run.served),
        run.batch_tokens,
        busy,
        after.steps - before.steps,
        False,
        run.latest_sending,
        overhead=1.0 - (computed + lost) / busy if busy else None,
        wasted=lost / busy if busy else None,
    )


def real_runs(
    contenders: Sequence[Contender],
    trace: str,
    seeds: Sequence[int],
    seconds: float,
    *,
    threads: int,
    kept: KeptRuns | None = None,
    told: Callable[[str], None] = lambda _: None,
) -> tuple[dict[str, list[Outcome]], list[float]]:
    """Every contender over every seed, interleaved; and batch alone, in tokens a second by seed, of the last contender.

    A window without online work is at most a minute long.
    """
    kept = kept or KeptRuns(None)

    def ran(contender: Contender, online: Sequence[Request], seed: int, seconds: float, name: str) -> Outcome:
        run = partial(real_run, contender, online, seconds, seed=seed, threads=threads)
        return kept.run(trace, seed, seconds, name, lambda: asyncio.run(run()))

    runs: dict[str, list[Outcome]] = {contender.name: [] for contender in contenders}
    alone = []
    for turn, seed in enumerate(seeds):
        online = arrivals(trace, seed, seconds)
        for contender in (*contenders[turn % len(contenders) :], *contenders[: turn % len(contenders)]):
            outcome = ran(contender, online, seed, seconds, contender.name)
            runs[contender.name].append(outcome)
            told(f"{trace}, seed {seed}: {contender.name} ran, {outcome.batch_rate:.1f} batch tok/s")
        alone.append(ran(contenders[-1], (), seed, min(seconds, 60.0), "batch alone").batch_rate)
    return runs, alone
