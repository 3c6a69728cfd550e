"""A replayed hour for real: users, batch work without end, a training and refreshes on one machine, by policy.

``python -m benchmarks.conductor.hour [--size ci|demo|full|users] [--keep]``: a table, then one JSON line, kept in
``benchmarks/results/hour.jsonl``. Arrivals are windows of the Azure trace of conversations, scaled as in ``week.py``. A
real engine process serves them, one a policy; the training is real, and a refresh begins every eight seconds, both in a
worker's process at nice 15. The policies take turns in blocks on the same machine, with the same arrivals:

- ``alone``: online requests and nothing else.
- ``conductor``: the engine with users' requests at most 5 % slower, the governor of training, and turns at idle time.
- ``no turns``: the same without the turns.
- ``static cap 4``, ``priority only``, ``AIMD gate``: their engines put online requests first; training at idle priority
  and refreshes run beside as the operating system lets them.

The size ``users`` has many rounds of the first two only: a 99th percentile needs many requests. Kept with each policy
are the requests that it slowed most, beside the same ones alone.

Batch work is told in tokens that were computed, prompts included: an engine that computes many prompts before it
decodes has done as much. ``goodput`` is the share of the machine that background work made use of: batch tokens over
those of batch alone, and steps over those of training alone. The figures that ``week.py`` would give for these windows
stand beside, as the error of its model. The exit code is 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from benchmarks.colocation.calibration import reference
from benchmarks.colocation.open_loop import MODEL, OpenLoop
from benchmarks.colocation.outcome import Outcome, Served
from benchmarks.colocation.points import CONTENDERS, Contender, named, slowdown_name
from benchmarks.colocation.real import engine
from benchmarks.colocation.simulator import simulate
from benchmarks.colocation.traces import BATCH_IN_FLIGHT, Request, Scaling, arrivals
from benchmarks.conductor.week import BESIDE_TRAINING, LEFT_BY_BATCH, SCALING, SLOWDOWN, quiet_share
from benchmarks.durability.kill_harness_command import finish
from benchmarks.learning.trained_beside import Trainer, trainer

from antiphon.engine.api.client import EngineClient
from antiphon.engine.scheduling.service_level import ServiceLevel

OURS = f"ours, {slowdown_name(SLOWDOWN)}"
ENGINES = {
    "alone": OURS, "conductor": OURS, "no turns": OURS,
    "static cap 4": "static cap 4", "priority only": "priority only", "AIMD gate": "AIMD gate",
}  # fmt: skip
WORDS = {"conductor": "turns", "no turns": "off"}
"""What the worker is told; ``go`` for the others."""

GOALS = {"inflation_p99": 1.05, "training_share": 0.2}
"""Users' p99 of time to first token over that alone; and the least that training gets of its speed alone."""


class Size(msgspec.Struct, frozen=True):
    """Rounds of one block for each policy; a block's seconds, and the share of the busiest rate of ``week.py``."""

    rounds: int
    seconds: float
    rate: float = 0.25
    policies: tuple[str, ...] = tuple(ENGINES)


SIZES = {
    "ci": Size(1, 20.0),
    "demo": Size(3, 45.0),
    "full": Size(10, 60.0),
    "users": Size(14, 60.0, policies=("alone", "conductor")),
}


class Block(msgspec.Struct, frozen=True):
    """What a block showed.

    Attributes:
        ttft, latency: seconds, of each online request. refreshes: seconds that each took.
    """

    ttft: tuple[float, ...]
    latency: tuple[float, ...]
    refreshes: tuple[float, ...]
    batch_tokens: float
    steps: int
    seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, keep; returns 1 when a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conductor.hour")
    parser.add_argument("--size", choices=SIZES, default="demo")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args(arguments)
    size, began = SIZES[options.size], time.monotonic()
    blocks, steps_alone, batch_alone = asyncio.run(_measure(size))
    told = {name: _told(found, steps_alone, batch_alone) for name, found in blocks.items()}
    model = _modelled(size, batch_alone)
    alone = told["alone"]["ttft_p99"]
    print(
        f"{'policy':<14} requests TTFT p50    p99    (×)  batch tok/s (model) steps/s (model) goodput refresh p50  max"
    )
    for name, one in told.items():
        one["inflation_p99"] = round(one["ttft_p99"] / alone, 3)
        one["inflation_p99_interval"] = _interval(blocks["alone"], blocks[name])
        one["slowed_most"] = _slowed_most(blocks["alone"], blocks[name])
        one["model"] = model[name]
        print(
            f"{name:<14}{one['requests']:9d}{one['ttft_p50']:9.2f}{one['ttft_p99']:7.2f}{one['inflation_p99']:7.2f}"
            f"{one['batch_tokens']:13.1f}{model[name]['batch'] * batch_alone:8.1f}{one['steps']:9.2f}"
            f"{model[name]['training'] * steps_alone:8.2f}{one['goodput']:9.2f}{one['refresh_p50']:13.2f}"
            f"{one['refresh_max']:7.2f}"
        )
    print(f"alone: {batch_alone:.1f} batch tokens/s, {steps_alone:.2f} steps/s")
    ours = told["conductor"]
    met = ours["inflation_p99"] <= GOALS["inflation_p99"] and ours["training_share"] >= GOALS["training_share"]
    said = {
        "benchmark": "conductor-hour",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "size": options.size,
        "rounds": size.rounds,
        "block_seconds": size.seconds,
        "rate": size.rate,
        "steps_alone": round(steps_alone, 3),
        "batch_alone": round(batch_alone, 1),
        "policies": told,
        "took": round(time.monotonic() - began, 1),
        "holds": met,
    }
    return finish("hour", said, keep=options.keep)


def _window(size: Size, round_: int) -> tuple[Request, ...]:
    return arrivals("conv", round_, size.seconds, Scaling(SCALING.rate * size.rate, SCALING.prompt, SCALING.output))


async def _measure(size: Size) -> tuple[dict[str, list[Block]], float, float]:
    blocks: dict[str, list[Block]] = {name: [] for name in size.policies}
    names = list(size.policies)
    threads = min(os.cpu_count() or 1, 8)
    async with contextlib.AsyncExitStack() as stack:
        clients: dict[str, EngineClient] = {}
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for policy in dict.fromkeys(ENGINES[name] for name in names):
            within = folder if policy == OURS else None
            clients[policy] = await stack.enter_async_context(engine(named(policy), threads=threads, within=within))
            await OpenLoop(clients[policy], (), 0.0, batch=0, level=None, number=1).warm_up([64] * 4)
        worker = "benchmarks.conductor.hour_worker"
        training = await stack.enter_async_context(trainer(folder, MODEL, 4, 7, worker))
        seconds = min(size.seconds, 30.0)
        before = await training.tell("off")
        await asyncio.sleep(seconds)
        steps_alone = ((await training.tell("stop"))["step"] - before["step"]) / seconds
        run = OpenLoop(clients[OURS], (), seconds, batch=BATCH_IN_FLIGHT, level=None, number=9_000_000)
        begun = await _batch_work(clients[OURS])
        batch_alone = (await run.run(lambda: _batch_work(clients[OURS])) - begun) / seconds
        for round_ in range(size.rounds):
            turned = names[round_ % len(names) :] + names[: round_ % len(names)]
            for name in turned:
                blocks[name].append(await _block(clients[ENGINES[name]], training, name, size, round_))
                print(f"round {round_ + 1} of {size.rounds}: {name}", file=sys.stderr)
    return blocks, steps_alone, batch_alone


async def _block(client: EngineClient, training: Trainer, name: str, size: Size, round_: int) -> Block:
    """One block of one policy; its requests have ended when it returns, and nothing runs beside."""
    level = ServiceLevel(slowdown=SLOWDOWN) if ENGINES[name] == OURS else None
    batch = 0 if name == "alone" else BATCH_IN_FLIGHT
    number = (list(ENGINES).index(name) + 1) * 1_000_000 + round_ * 10_000
    run = OpenLoop(client, _window(size, round_), size.seconds, batch=batch, level=level, number=number)
    before: dict[str, Any] = {"step": 0}
    if name != "alone":
        before = await training.tell(WORDS.get(name, "go"))

    begun = await _batch_work(client)

    async def ended() -> tuple[float, dict[str, Any]]:
        said = {"step": 0, "refreshes": ()} if name == "alone" else await training.tell("standing")
        return await _batch_work(client, run.served) - begun, said

    tokens, after = await run.run(ended)
    if name != "alone":
        await training.tell("stop")
        await client.hold_batch(0)
    return Block(
        tuple(one.ttft for one in run.served),
        tuple(one.latency for one in run.served),
        tuple(after["refreshes"]),
        0.0 if name == "alone" else tokens,
        after["step"] - before["step"],
        size.seconds,
    )


async def _batch_work(client: EngineClient, online: Sequence[Served] = ()) -> float:
    """Tokens that the engine has computed so far, prompts included, without those of online requests."""
    load = (await client.describe()).load
    prompts = sum(one.prompt_tokens for one in online if one.tokens)
    return float(load.generated_tokens_batch + load.prefilled_tokens - prompts)


def _told(found: Sequence[Block], steps_alone: float, batch_alone: float) -> dict[str, Any]:
    """Figures of a policy; seconds, and by second."""
    ttft = [one for block in found for one in block.ttft] or [float("nan")]
    latency = [one for block in found for one in block.latency] or [float("nan")]
    refreshes = [one for block in found for one in block.refreshes] or [0.0]
    seconds = sum(block.seconds for block in found)
    steps, tokens = sum(block.steps for block in found) / seconds, sum(block.batch_tokens for block in found) / seconds
    return {
        "requests": len(ttft),
        "ttft_p50": round(float(np.quantile(ttft, 0.5)), 3),
        "ttft_p99": round(float(np.quantile(ttft, 0.99)), 3),
        "latency_p99": round(float(np.quantile(latency, 0.99)), 3),
        "batch_tokens": round(tokens, 1),
        "steps": round(steps, 3),
        "training_share": round(steps / steps_alone, 3),
        "goodput": round(tokens / batch_alone + steps / steps_alone, 3),
        "refreshes": len(refreshes),
        "refresh_p50": round(float(np.quantile(refreshes, 0.5)), 2),
        "refresh_max": round(max(refreshes), 2),
    }


def _interval(alone: Sequence[Block], found: Sequence[Block]) -> tuple[float, float]:
    """The interval of 90 % of the ratio of p99 to the first token, by drawing the same requests of both anew."""
    draw, ratios = np.random.default_rng(20), []
    ours, theirs = (np.array([one for block in blocks for one in block.ttft]) for blocks in (found, alone))
    if len(ours) != len(theirs) or not len(ours):
        return float("nan"), float("nan")
    for _ in range(2_000):
        drawn = draw.integers(0, len(ours), len(ours))
        ratios.append(np.quantile(ours[drawn], 0.99) / np.quantile(theirs[drawn], 0.99))
    low, high = np.quantile(ratios, [0.05, 0.95])
    return round(float(low), 3), round(float(high), 3)


def _slowed_most(alone: Sequence[Block], found: Sequence[Block]) -> list[tuple[int, int, float, float]]:
    """Requests slowed most: round, place in it, seconds to the first token beside work, and alone."""
    both = [
        (round_, place, round(slow, 3), round(quick, 3))
        for round_, (theirs, ours) in enumerate(zip(alone, found, strict=True))
        for place, (quick, slow) in enumerate(zip(theirs.ttft, ours.ttft, strict=False))
    ]
    return sorted(both, key=lambda one: one[3] - one[2])[:10]


def _modelled(size: Size, batch_alone: float) -> dict[str, dict[str, float]]:
    """What ``week.py`` takes batch work and training to get in these windows, over what each gets alone."""
    calibration = reference()

    def run(contender: Contender, round_: int, pace: float) -> Outcome:
        online = _window(size, round_)
        return simulate(calibration, contender.make(), online, size.seconds, seed=round_, pace=lambda _: pace)

    def rate(outcome: Outcome) -> float:
        assert outcome.work is not None
        prompts = sum(one.prompt_tokens for one in outcome.served)
        return (outcome.batch_tokens + outcome.work.prefilled - prompts) / outcome.seconds

    # On a machine as fast as this one.
    pace = rate(simulate(calibration, named(OURS).make(), (), size.seconds)) / batch_alone
    rounds = range(size.rounds)
    calm = float(np.mean([quiet_share(run(CONTENDERS[0], one, pace)) for one in rounds]))
    found = {"alone": {"batch": 0.0, "training": 0.0}}
    for name in size.policies:
        if name == "alone":
            continue
        policy = ENGINES[name]
        slower = pace if policy == OURS else pace * BESIDE_TRAINING
        batch = float(np.mean([rate(run(named(policy), one, slower)) for one in rounds])) / batch_alone
        # Of two kinds that always have work each has half of the quiet time.
        turn = calm / 2 if name == "conductor" else 0.0
        found[name] = {"batch": round(max(batch - turn, 0.0), 3), "training": round(turn or LEFT_BY_BATCH, 3)}
    return found


if __name__ == "__main__":
    sys.exit(main())
