"""How far a server's log-probabilities move by what else it has, beside what another rounding of the weights makes.

    python -m benchmarks.upstream.noise [--size ci|demo] [--eager] [--keep]

A look is what the front compares (``engine/backends/remote/observation.py``): six prompts, the five likeliest first
tokens of each. Looks are made alone and beside 4 and 12 other requests, and each is compared with the first one made
alone. Measured are a vLLM on this machine's processor (bfloat16) and our own engine (the same weights in Q4_1 on
llama.cpp), whose first look is compared with vLLM's. ``ci`` makes 10 looks a load, ``demo`` 50; both start vLLM.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.colocation.open_loop import MODEL
from benchmarks.colocation.vllm import server
from benchmarks.gateway.contenders import running
from benchmarks.upstream.__main__ import RESULTS
from benchmarks.upstream.real import Workload, first_token

from antiphon.core.errors import UnavailableError
from antiphon.engine.api.client import EngineClient
from antiphon.engine.api.port import Engine
from antiphon.engine.backends.remote.engine import RemoteEngine
from antiphon.engine.backends.remote.model_watch import ModelWatch
from antiphon.engine.backends.remote.observation import TOLERANCE, ModelObservation, apart

LOOKS = {"ci": 10, "demo": 50}
LOADS = (0, 4, 12)
WORKLOAD = Workload(MODEL, sizes=(100, 400, 900), online_words=16, batch_words=16, forced=True)


async def _unrecorded(model: str, seen: ModelObservation | None) -> None:
    """Keeps nothing."""


async def looks(engine: Engine, number: int) -> dict[int, list[ModelObservation]]:
    """So many looks beside each number of other requests."""
    watch = ModelWatch(engine.generate, engine.embed, engine.describe, _unrecorded, strict=True)
    watch.used(MODEL)  # Looks as online requests do not wait for endless others.
    found: dict[int, list[ModelObservation]] = {}
    for load in LOADS:
        others = [asyncio.create_task(_ask(engine, Random(one))) for one in range(load)]
        try:
            found[load] = [await watch.observe(MODEL) for _ in range(number)]
        finally:
            for other in others:
                other.cancel()
            await asyncio.gather(*others, return_exceptions=True)
    return found


async def _ask(engine: Engine, chance: Random) -> None:
    while True:
        await first_token(engine, WORKLOAD.request(chance, "online"))


@asynccontextmanager
async def own(folder: Path) -> AsyncIterator[EngineClient]:
    """Our engine with the same weights in Q4_1."""
    command = (sys.executable, "-m", "antiphon.engine", "--socket", str(folder / "engine.sock"), "--model", MODEL)
    with running(command, folder / "engine.log"):
        client = EngineClient(folder / "engine.sock")
        async with asyncio.timeout(120):
            while True:
                with suppress(UnavailableError):
                    await client.describe()
                    break
                await asyncio.sleep(0.1)
        try:
            yield client
        finally:
            await client.close()


async def measure(folder: Path, number: int, *, eager: bool) -> dict[str, Any]:
    """Mean differences in nats: of each engine by load (median and greatest), and of the one from the other."""
    seen: dict[str, dict[int, list[ModelObservation]]] = {}
    async with own(folder) as client:
        seen["our engine, Q4_1"] = await looks(client, number)
    async with server(ours=False, eager=eager, trace=folder / "trace", log=folder / "vllm.log") as url:
        engine = RemoteEngine(f"{url}/v1", serves="vllm")
        try:
            seen["vLLM, bfloat16"] = await looks(engine, number)
        finally:
            await engine.close()
    found: dict[str, Any] = {}
    for name, by_load in seen.items():
        reference = by_load[0][0].first_tokens
        for load, each in by_load.items():
            nats = sorted(apart(reference, one.first_tokens) for one in each)
            found.setdefault(name, {})[str(load)] = [round(nats[len(nats) // 2], 4), round(nats[-1], 4)]
            print(f"{name:20}{load:>4} others  median {nats[len(nats) // 2]:.4f}  greatest {nats[-1]:.4f} nats")
    first, second = (by_load[0][0].first_tokens for by_load in seen.values())
    found["Q4_1 beside bfloat16"] = round(apart(second, first), 4)
    print(f"{'the one beside the other':40}{found['Q4_1 beside bfloat16']:.4f} nats; tolerance {TOLERANCE}")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; returns 1 when noise crosses the tolerance."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.upstream.noise")
    parser.add_argument("--size", choices=LOOKS, default="ci")
    parser.add_argument("--eager", action="store_true", help="without vLLM's compilation")
    parser.add_argument("--keep", action="store_true", help=f"add the line to {RESULTS.name}")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="antiphon-noise-") as folder:
        found = asyncio.run(measure(Path(folder), LOOKS[options.size], eager=options.eager))
    noise = max(greatest for name in list(found)[:2] for _, greatest in found[name].values())
    at = datetime.now(UTC).isoformat(timespec="seconds")
    text = json.dumps({
        "benchmark": "upstream_noise", "size": options.size, "at": at, "eager": options.eager,
        "looks": LOOKS[options.size], "greatest": noise, "tolerance": TOLERANCE, "nats": found,
    })  # fmt: skip
    if options.keep:
        with RESULTS.open("a", encoding="utf-8") as results:
            results.write(text + "\n")
    print(text)
    return 0 if noise <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
