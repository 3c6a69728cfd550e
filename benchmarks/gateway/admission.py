"""What the gate in front of an engine does under too much load: beside every fixed limit, on the same arrivals.

The gate, the engine's executor with its scheduler, and asyncio are the product's own and run in virtual time: a call
of the model takes 6 ms and 1 ms a token instead of computing, and the clock jumps where nobody has anything to do. So
the same seed gives the same figures on every machine. The engine has 8 slots; lengths are forced, and differ.

Requests arrive as a Poisson process, more than the engine can do; who is refused does not come back. A fixed limit that
is too low leaves slots empty; one that is too high lets requests wait in the engine, where nobody who goes ahead can
pass them and nobody is told when to come back. Every run is made again with half of the engine taken away (every call
takes twice as long) in its middle third.

Then the moments that Retry-After names are tried: of a burst all who are refused come back exactly then.

    python -m benchmarks.gateway.admission [--size ci|demo|full]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import statistics
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.colocation.simulator import Costless, generation
from benchmarks.colocation.traces import Request

from antiphon.core.errors import EngineError, OverloadedError
from antiphon.engine.api.messages import Delta, EngineDescription, GenerationRequest, GenerationResult, RequestFailure
from antiphon.engine.execution.model_executor import ModelExecutor
from antiphon.engine.execution.runtime import Layout, Logits
from antiphon.engine.scheduling.state import StepBudget
from antiphon.serving.admission.engine_gate import EngineGate, GatedEngine

RESULTS = Path(__file__).parents[1] / "results" / "admission.jsonl"
SLOTS, PROMPT_TOKENS, MEAN_TOKENS = 8, 40, 24
CALL_SECONDS, TOKEN_SECONDS, PROMPT_TOKEN_SECONDS = 0.006, 0.001, 0.00005
QUEUE_SECONDS = 1.0
MOST = 256
LEAST_SHARE, MOST_P99 = 0.95, 1.5
STARTS = (2, 8, 64)


@dataclass(frozen=True)
class Size:
    """How long each run measures, after how long a warm-up, at which loads, how often, beside which fixed limits."""

    seconds: float
    warm: float
    loads: tuple[float, ...]
    seeds: tuple[int, ...]
    fixed: tuple[int, ...]


SIZES = {
    "ci": Size(30.0, 20.0, (1.5,), (1,), (4, 8, 12, 16)),
    "demo": Size(40.0, 20.0, (1.5, 3.0), (1, 2, 3), (4, 8, 12, 16, 64)),
    "full": Size(600.0, 30.0, (0.8, 1.5, 3.0), (1, 2, 3), (2, 4, 6, 8, 10, 12, 16, 32, 64, 128)),
}


@dataclass
class Run:
    """What one run measured; seconds from arrival to the last token, of those that ended in the measured part."""

    policy: str
    load: float
    seconds: list[float] = field(default_factory=list)
    tokens: int = 0
    refused: int = 0
    arrived: int = 0
    limits: list[float] = field(default_factory=list)
    elapsed: float = 0.0

    def row(self) -> dict[str, Any]:
        taken = np.asarray(self.seconds or [math.nan])
        return {
            "policy": self.policy,
            "load": self.load,
            "tokens_per_second": round(self.tokens / self.elapsed, 1),
            "p50": round(float(np.percentile(taken, 50)), 3),
            "p99": round(float(np.percentile(taken, 99)), 3),
            "refused": round(self.refused / max(self.arrived, 1), 3),
            "limit": [round(value, 1) for value in (min(self.limits), max(self.limits))] if self.limits else None,
        }


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time jumps to the next timer whenever nothing is ready."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self.now = max(self.now, self._scheduled[0]._when)  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


class Costed(Costless):
    """A model whose calls take time; ``slowdown`` times as much while half of the machine is elsewhere."""

    def __init__(self, clock: VirtualLoop) -> None:
        super().__init__(Layout(chunk_tokens=64, slots=SLOTS, context_tokens=1_024))
        self._clock = clock
        self.slowdown = 1.0

    def feed(self, slot: int, position: int, tokens: Sequence[int], want_logits: bool) -> Logits | None:
        self._clock.now += self.slowdown * (CALL_SECONDS + PROMPT_TOKEN_SECONDS * len(tokens))
        return super().feed(slot, position, tokens, want_logits)

    def step(self, slots: Sequence[int], positions: Sequence[int], tokens: Sequence[int]) -> list[Logits]:
        self._clock.now += self.slowdown * (CALL_SECONDS + TOKEN_SECONDS * len(tokens))
        return super().step(slots, positions, tokens)


class VirtualEngine:
    """The engine's executor, stepped by the event loop in virtual time; implements ``serving.ports.Engine``."""

    def __init__(self, clock: VirtualLoop) -> None:
        self.runtime = Costed(clock)
        self._clock = clock
        self._executor = ModelExecutor(self.runtime, clock.time)
        self._told: dict[int, asyncio.Queue[Any]] = {}
        self._tickets = 0
        self._stepping: asyncio.Task[None] | None = None

    async def describe(self) -> EngineDescription:
        raise EngineError("It is not asked here.")

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta | GenerationResult, None]:
        self._tickets += 1
        ticket, told = self._tickets, asyncio.Queue[Any]()
        self._told[ticket] = told
        wanted = Request(self._clock.now, PROMPT_TOKENS, request.max_tokens)
        self._executor.add(generation(self.runtime, ticket, wanted, request.priority))
        if self._stepping is None or self._stepping.done():
            self._stepping = asyncio.create_task(self._step())
        try:
            while True:
                event = await told.get()
                if isinstance(event, RequestFailure):
                    raise EngineError(event.message)
                yield event
                if isinstance(event, GenerationResult):
                    return
        finally:
            del self._told[ticket]
            self._executor.cancel(ticket)

    async def ended(self) -> None:
        """Every step has ended."""
        if self._stepping is not None:
            await self._stepping

    async def _step(self) -> None:
        while not self._executor.idle:
            for ticket, event in self._executor.step(StepBudget()):
                if ticket in self._told:
                    self._told[ticket].put_nowait(event)
            for _ in range(10):  # whoever is due by now arrives, is told or leaves before the next step
                await asyncio.sleep(0)


def virtually(work: Callable[[VirtualLoop], Coroutine[Any, Any, Any]]) -> Any:
    """Run this in a virtual time of its own."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(work(loop))
    finally:
        loop.close()


def asked(number: int, length: int) -> GenerationRequest:
    return GenerationRequest(f"g{number}", "simulated", "", length)


def lengths(rng: np.random.Generator, count: int) -> list[int]:
    return [int(length) for length in np.clip(rng.geometric(1 / MEAN_TOKENS, count), 4, 96)]


async def capacity(loop: VirtualLoop) -> float:
    """Requests a second of the engine when it is never without work: a closed loop of twice as many as it has slots."""
    engine, rng, stop = VirtualEngine(loop), np.random.default_rng(0), 60.0
    ended = 0

    async def client(number: int) -> None:
        nonlocal ended
        for length in lengths(rng, 1_000):
            if loop.now >= stop:
                return
            async with aclosing(engine.generate(asked(number, length))) as events:
                async for _ in events:
                    pass
            ended += 1

    await asyncio.gather(*(client(number) for number in range(2 * SLOTS)))
    await engine.ended()
    return ended / loop.now


async def run(loop: VirtualLoop, policy: Policy, rate: float, load: float, size: Size, seed: int, slow: bool) -> Run:
    """Arrivals of ``load`` times the capacity through the policy's gate; ``slow``: the middle third at half speed."""
    engine, made, gate = VirtualEngine(loop), Run(policy.name, load), policy.gate(loop.time)
    gated = GatedEngine(engine, gate, loop.time, tells_queue=policy.told)
    rng = np.random.default_rng(seed)
    measured, end = size.warm, size.warm + size.seconds

    async def one(number: int, length: int, arrived: float) -> None:
        counted = measured <= arrived < end
        made.arrived += counted
        try:
            async with aclosing(gated.generate(asked(number, length))) as events:
                async for event in events:
                    if isinstance(event, GenerationResult) and measured <= loop.now < end:
                        made.seconds.append(loop.now - arrived)
                        made.tokens += event.usage.completion_tokens
        except OverloadedError:
            made.refused += counted

    async with asyncio.TaskGroup() as group:
        due, number = 0.0, 0
        while due < end:
            await asyncio.sleep(max(0.0, due - loop.now))
            third = (due - measured) / size.seconds
            engine.runtime.slowdown = 2.0 if slow and 1 / 3 <= third < 2 / 3 else 1.0
            group.create_task(one(number, lengths(rng, 1)[0], due))
            number, due = number + 1, due + float(rng.exponential(1 / (rate * load)))
            if due > measured:
                made.limits.append(gate.gradient.limit)
    await engine.ended()
    made.elapsed = size.seconds
    return made


async def come_back(loop: VirtualLoop, rate: float, burst: int) -> dict[str, Any]:
    """A full engine, then a burst: who is refused comes back at the moment that the refusal named."""
    gate = EngineGate(SLOTS, MOST, QUEUE_SECONDS, loop.time)
    engine = VirtualEngine(loop)
    gated = GatedEngine(engine, gate, loop.time, tells_queue=True)
    rng, waits, let_in = np.random.default_rng(7), list[float](), 0

    async def ask(number: int, length: int) -> float | None:
        """The moment that a refusal names; nothing, when it was answered."""
        try:
            async with aclosing(gated.generate(asked(number, length))) as events:
                async for _ in events:
                    pass
        except OverloadedError as refused:
            return refused.retry_after
        return None

    async def comes_back(number: int, length: int) -> None:
        nonlocal let_in
        wait = await ask(number, length)
        if wait is None:
            return
        waits.append(wait)
        await asyncio.sleep(wait)
        again = await ask(number, length)
        let_in += again is None

    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * 10)):
            group.create_task(ask(number, lengths(rng, 1)[0]))
            await asyncio.sleep(1 / (rate * 1.5))
        for number in range(burst):
            group.create_task(comes_back(10_000 + number, lengths(rng, 1)[0]))
    await engine.ended()
    return {
        "burst": burst,
        "refused": len(waits),
        "let_in_at_the_moment_named": let_in,
        "longest_wait": round(max(waits, default=0.0), 2),
        "work_of_the_refused_seconds": round(len(waits) / rate, 2),
    }


@dataclass(frozen=True)
class Policy:
    """A gate, and whether the engine tells it how long requests waited inside."""

    name: str
    gate: Callable[[Callable[[], float]], EngineGate]
    told: bool = True


def policies(size: Size) -> list[Policy]:
    def fixed(limit: int) -> Policy:
        return Policy(f"fixed {limit}", lambda clock: EngineGate(limit, limit, QUEUE_SECONDS, clock, adaptive=False))

    def adaptive(start: int) -> Policy:
        return Policy(f"adaptive from {start}", lambda clock: EngineGate(start, MOST, QUEUE_SECONDS, clock))

    untold = Policy("adaptive, untold", lambda clock: EngineGate(SLOTS, MOST, QUEUE_SECONDS, clock), told=False)
    return [*map(fixed, size.fixed), *map(adaptive, STARTS), untold]


def judged(rows: list[dict[str, Any]], load: float, slow: bool) -> dict[str, Any]:
    """How the adaptive policies stand at a load: medians over seeds."""

    def median(policy: str, name: str) -> float:
        found = [row[name] for row in rows if (row["policy"], row["load"], row["slow"]) == (policy, load, slow)]
        return statistics.median(found)

    names = sorted({row["policy"] for row in rows})
    fixed = [policy for policy in names if policy.startswith("fixed")]
    best = max(median(policy, "tokens_per_second") for policy in fixed)
    enough = [policy for policy in fixed if median(policy, "tokens_per_second") >= LEAST_SHARE * best]
    p99 = min(median(policy, "p99") for policy in enough)
    told = {
        policy: {
            "share_of_best": round(median(policy, "tokens_per_second") / best, 3),
            "p99_to_best": round(median(policy, "p99") / p99, 2),
        }
        for policy in names
        if policy not in fixed
    }
    held = [told[f"adaptive from {start}"] for start in STARTS]
    met = all(each["share_of_best"] >= LEAST_SHARE and each["p99_to_best"] <= MOST_P99 for each in held)
    return {"load": load, "slow": slow, "best": best, "best_p99": p99, "policies": told, "met": met}


def measure(size: Size) -> dict[str, Any]:
    rate = virtually(capacity)
    print(f"The engine can do {rate:.1f} requests a second.\n")
    print(f"{'load':>4}  {'policy':<18} {'tokens/s':>8} {'p50 s':>7} {'p99 s':>7} {'refused':>7}  limit")
    rows = []
    for slow in (False, True):
        print("the middle third at half speed" if slow else "at full speed")
        for load in size.loads:
            for policy in policies(size):
                for seed in size.seeds:
                    made: Run = virtually(
                        lambda loop, policy=policy, load=load, seed=seed, slow=slow: run(  # type: ignore[misc]
                            loop, policy, rate, load, size, seed, slow
                        )
                    )
                    rows.append({**made.row(), "slow": slow, "seed": seed})
                row = rows[-1]
                print(
                    f"{load:>4}  {policy.name:<18} {row['tokens_per_second']:>8} {row['p50']:>7} {row['p99']:>7} "
                    f"{row['refused']:>7.1%}  {row['limit'][0]} to {row['limit'][1]}",
                    flush=True,
                )
    back = virtually(lambda loop: come_back(loop, rate, 60))
    print(f"\nOf {back['refused']} refused, {back['let_in_at_the_moment_named']} were let in at the moment named.")
    goals = [judged(rows, load, slow) for slow in (False, True) for load in size.loads]
    return {"capacity": round(rate, 2), "rows": rows, "goals": goals, "back": back}


def main() -> int:
    """Measure, print, keep; returns 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="demo")
    options = parser.parse_args()
    found = measure(SIZES[options.size])
    met = all(goal["met"] for goal in found["goals"])
    for goal in found["goals"]:
        print(f"load {goal['load']}{', slow' * goal['slow']}: {goal['policies']} {'met' if goal['met'] else 'MISSED'}")
    print(f"goal: at least {LEAST_SHARE} of the best fixed limit's tokens, p99 within {MOST_P99} of its")
    line = json.dumps(
        {"benchmark": "admission", "at": datetime.now(UTC).isoformat(), "size": options.size, **found, "met": met}
    )
    with RESULTS.open("a") as kept:
        kept.write(line + "\n")
    print(line)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
