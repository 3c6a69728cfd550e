"""Features, training and batch generation on one machine, with turns at its idle time and without.

``python -m benchmarks.conductor.idle_turns [--size ci|demo|full] [--keep]``: a table, then one JSON line. One engine
process with endless batch work, one real training and a refresh every eight seconds in a worker's process at nice 15,
and online requests that arrive as a Poisson process, measured from the moment each was due. The conditions take turns
in blocks on the same machine, with the same arrivals: ``alone`` (online requests only), ``off`` (each kind gives way to
users, and nothing decides among them) and ``turns``. The exit code is 1 where turns do not divide the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from benchmarks.learning.beside_training import MODEL, ask, engine_process, prompt
from benchmarks.learning.trained_beside import Trainer, trainer

from antiphon.engine.api.client import EngineClient
from antiphon.engine.api.messages import GenerationRequest

RESULTS = Path(__file__).parents[1] / "results" / "idle_turns.jsonl"
CONDITIONS = ("alone", "off", "turns")
IN_FLIGHT, OUTPUT_TOKENS = 8, 64
LEAST_TRAINING_SHARE = 0.35
"""Of the time in which nobody is served, that training is to get beside batch work of the same share."""


class Size(msgspec.Struct, frozen=True):
    """Rounds of one block for each condition; a block's seconds; online requests a second; the seed."""

    rounds: int
    seconds: float
    rate: float
    seed: int = 7


SIZES = {"ci": Size(1, 20.0, 0.1), "demo": Size(6, 40.0, 0.15), "full": Size(20, 60.0, 0.15)}


class Block(msgspec.Struct, frozen=True):
    """What a block showed.

    Attributes:
        first_token: seconds, of each online request. refreshes: seconds that each took.
    """

    first_token: tuple[float, ...]
    refreshes: tuple[float, ...]
    batch_tokens: float
    steps: int
    seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, keep; returns 1 when a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conductor.idle_turns")
    parser.add_argument("--size", choices=SIZES, default="demo")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args(arguments)
    size, began = SIZES[options.size], time.monotonic()
    blocks, most_steps, shares = asyncio.run(_measure(size))
    told = {name: _told(found, most_steps) for name, found in blocks.items()}
    print("condition  requests  TTFT p50    p99   batch tokens/s  training steps/s  refresh p50    max")
    for name, one in told.items():
        print(
            f"{name:10s}{one['requests']:9d}{one['ttft_p50']:9.2f}s{one['ttft_p99']:6.2f}s{one['batch_tokens']:15.1f}"
            f"{one['steps']:17.2f}{one['refresh_p50']:12.2f}s{one['refresh_max']:6.2f}s"
        )
    print(f"alone the training makes {most_steps:.2f} steps/s")
    turns, off = told["turns"], told["off"]
    met = turns["training_share"] >= LEAST_TRAINING_SHARE and turns["refresh_p50"] < off["refresh_p50"]
    line = json.dumps(
        {
            "benchmark": "idle-turns",
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "size": options.size,
            "seed": size.seed,
            "rounds": size.rounds,
            "block_seconds": size.seconds,
            "training_alone": round(most_steps, 3),
            "conditions": told,
            "shares": shares,
            "inflation_p99": round(turns["ttft_p99"] / told["alone"]["ttft_p99"], 3),
            "inflation_p99_off": round(off["ttft_p99"] / told["alone"]["ttft_p99"], 3),
            "goals_met": met,
            "took": round(time.monotonic() - began, 1),
        }
    )
    if options.keep:
        with RESULTS.open("a") as kept:
            kept.write(line + "\n")
    print(line)
    return 0 if met else 1


async def _measure(size: Size) -> tuple[dict[str, list[Block]], float, dict[str, float]]:
    blocks: dict[str, list[Block]] = {name: [] for name in CONDITIONS}
    with tempfile.TemporaryDirectory() as folder:
        worker = "benchmarks.conductor.idle_worker"
        async with (
            engine_process(Path(folder)) as (client, _),
            trainer(Path(folder), MODEL, 4, size.seed, worker) as training,
        ):
            for number in range(3):
                await ask(client, prompt(random.Random(number)), 0.0)
            before = await training.tell("off")
            await asyncio.sleep(min(size.seconds, 20.0))
            after = await training.tell("stop")
            most = (after["step"] - before["step"]) / min(size.seconds, 20.0)
            for round_ in range(size.rounds):
                for name in CONDITIONS[round_ % 3 :] + CONDITIONS[: round_ % 3]:
                    blocks[name].append(await _block(client, training, name, size, round_))
            shares = (await training.tell("standing"))["shares"]
    return blocks, most, shares


async def _block(client: EngineClient, training: Trainer, name: str, size: Size, round_: int) -> Block:
    """One block of one condition; its requests have ended when it returns, and nothing runs beside."""
    arrivals, content = random.Random(f"{size.seed} {round_}"), random.Random(f"{size.seed} {round_} {name}")
    due, at = [], arrivals.expovariate(size.rate)
    while at < size.seconds:
        due.append(at)
        at += arrivals.expovariate(size.rate)
    batch: list[asyncio.Task[None]] = []
    before: dict[str, Any] = {"step": 0}
    begin, tokens = time.monotonic(), 0
    if name != "alone":
        batch = [asyncio.create_task(_endless(client, random.Random(f"{round_} {n}"))) for n in range(IN_FLIGHT)]
        before = await training.tell(name)
        tokens = (await client.describe()).load.generated_tokens_batch
    answers = [asyncio.create_task(ask(client, prompt(content), begin + at)) for at in due]
    await asyncio.sleep(size.seconds)
    found = [answer for answer in await asyncio.gather(*answers) if answer is not None]
    seconds = time.monotonic() - begin
    after: dict[str, Any] = {"step": 0, "refreshes": ()}
    if name != "alone":
        tokens = (await client.describe()).load.generated_tokens_batch - tokens
        after = await training.tell("stop")
    for task in batch:
        task.cancel()
    await asyncio.gather(*batch, return_exceptions=True)
    await client.hold_batch(0)
    return Block(
        tuple(first for first, _ in found), tuple(after["refreshes"]), tokens, after["step"] - before["step"], seconds
    )


async def _endless(client: EngineClient, draw: random.Random) -> None:
    while True:
        request = GenerationRequest("b", MODEL, prompt(draw), OUTPUT_TOKENS, priority="batch", ignore_end=True)
        async for _ in client.generate(request):
            pass


def _told(found: Sequence[Block], most_steps: float) -> dict[str, Any]:
    """Figures of a condition; seconds, and by second."""
    first = [one for block in found for one in block.first_token] or [float("nan")]
    refreshes = [one for block in found for one in block.refreshes] or [0.0]
    seconds = sum(block.seconds for block in found)
    steps = sum(block.steps for block in found) / seconds
    return {
        "requests": len(first),
        "ttft_p50": round(float(np.quantile(first, 0.5)), 3),
        "ttft_p99": round(float(np.quantile(first, 0.99)), 3),
        "batch_tokens": round(sum(block.batch_tokens for block in found) / seconds, 1),
        "steps": round(steps, 3),
        "training_share": round(steps / most_steps, 3) if most_steps else 0.0,
        "refreshes": len(refreshes),
        "refresh_p50": round(float(np.quantile(refreshes, 0.5)), 2),
        "refresh_max": round(max(refreshes), 2),
    }


if __name__ == "__main__":
    sys.exit(main())
