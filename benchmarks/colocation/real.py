"""The same runs against a real engine process: open-loop arrivals over its socket, batch kept saturated beside them.

Runs of one window follow one another in an order that is turned from window to window, each in a fresh process, so that
a machine that grows slower meets every policy.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks.colocation.open_loop import MODEL, OpenLoop
from benchmarks.colocation.outcome import Outcome, Work
from benchmarks.colocation.points import Contender
from benchmarks.colocation.traces import (
    BATCH_IN_FLIGHT,
    Request,
)

from antiphon.core.child_process import start_child
from antiphon.core.errors import UnavailableError
from antiphon.engine import weights
from antiphon.engine.api.client import EngineClient

START_SECONDS = 120.0
WARM_UP = 4
ALONE_EVERY = 3
"""Windows from one run of batch alone to the next."""


@contextlib.asynccontextmanager
async def engine(
    contender: Contender, *, threads: int, simulated: bool = False, within: Path | None = None
) -> AsyncIterator[EngineClient]:
    """A fresh engine process that follows a policy: the product itself where the policy is the product's. Its socket is
    ``within`` a folder, by default one of its own.

    Raises:
        UnavailableError: it does not come up.
    """
    if not simulated:
        await asyncio.to_thread(weights.pull, MODEL)
    with tempfile.TemporaryDirectory() as folder:
        path = (within or Path(folder)) / "engine.sock"
        module = ["antiphon.engine", "--log-level", "warning"]
        if not contender.make().gives_way:
            module = ["benchmarks.colocation.engine_process", "--policy", contender.name]
        command = [sys.executable, "-m", *module, "--socket", str(path), "--model", MODEL, "--threads", str(threads)]
        process = start_child(command + ["--simulated"] * simulated, env=dict(os.environ))
        client = EngineClient(path)
        try:
            async with asyncio.timeout(START_SECONDS):
                while not await _answers(client):
                    if process.poll() is not None:
                        raise UnavailableError(f"The engine process ended with {process.returncode} before it served.")
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
    except UnavailableError:
        return False
    return True


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
        UnavailableError: the engine does not come up.
    """
    policy = contender.make()
    async with engine(contender, threads=threads, simulated=simulated) as client:
        batch = BATCH_IN_FLIGHT * policy.takes_batch
        run = OpenLoop(client, online, seconds, batch=batch, level=policy.level, number=(seed + 1) * 1_000_000)
        await run.warm_up([64] * WARM_UP)
        before = (await client.describe()).load
        after = (await run.run(client.describe)).load
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
        work=Work(
            after.steps - before.steps,
            after.generated_tokens_online
            - before.generated_tokens_online
            + after.generated_tokens_batch
            - before.generated_tokens_batch,
            after.prefilled_tokens - before.prefilled_tokens,
            computed,
        ),
        overhead=1.0 - (computed + lost) / busy if busy else None,
        wasted=lost / busy if busy else None,
    )


def real_runs(
    contenders: Sequence[Contender],
    trace: str,
    windows: Mapping[int, Sequence[Request]],
    seconds: float,
    *,
    threads: int,
    kept: Callable[[int, float, str, Callable[[], Outcome]], Outcome],
    told: Callable[[str], None] = lambda _: None,
) -> tuple[dict[str, list[Outcome]], list[float]]:
    """Every contender over every window, interleaved; and batch alone, in tokens a second, of the last contender.

    A machine whose neighbors come and go is another one after some minutes: windows are short, so that the runs which
    are paired lie close together, and each begins with another contender.

    Args:
        windows: arrivals by number.
        kept: asked with a window's number, its seconds, a name and how the run is made.
    """
    runs: dict[str, list[Outcome]] = {contender.name: [] for contender in contenders}
    alone = []
    for turn, (number, online) in enumerate(windows.items()):
        for contender in (*contenders[turn % len(contenders) :], *contenders[: turn % len(contenders)]):
            run = partial(real_run, contender, online, seconds, seed=number, threads=threads)
            outcome = kept(number, seconds, contender.name, lambda run=run: asyncio.run(run()))
            runs[contender.name].append(outcome)
            told(f"{trace}, window {number}: {contender.name} ran, {outcome.batch_rate:.1f} batch tok/s")
        if turn % ALONE_EVERY == 0:
            run = partial(real_run, contenders[-1], (), min(seconds, 60.0), seed=number, threads=threads)
            alone.append(kept(number, min(seconds, 60.0), "batch alone", lambda run=run: asyncio.run(run())).batch_rate)
    return runs, alone
