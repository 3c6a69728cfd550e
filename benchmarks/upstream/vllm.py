"""Two gateways and a worker before one real vLLM on this machine's processor: what batch costs online, and gets.

    python -m benchmarks.upstream.vllm [--size ci|demo|full] [--passes TOKENS] [--brief] [--eager] [--keep]

vLLM is started as ``benchmarks.colocation.vllm`` starts it, with its own priority scheduling and our admission before
it; both gateways and the worker are clients of one front. Arrivals, prompts and forced lengths of a seed are the same
in every arm; arms follow each other in one server, which keeps no prefix of another arm. What one process gets that
knows every request is the best of several numbers of slots that it keeps free, of those that leave the p99 of first
tokens within 5 % of online alone, or, where none does, the one that harms online least (said in the line).

Prompts have about 150, 300 or 450 tokens, so that online requests alone keep the processor busy for a third of the
time. Declared: ``ci`` one seed of 45 s an arm after 20 s (about 15 first tokens: it shows that it runs, and no p99),
``demo`` one seed of 200 s after 50 s (about 60), ``full`` three seeds of 600 s (about 500). Nothing else should run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from benchmarks.colocation.open_loop import MODEL
from benchmarks.colocation.vllm import SLOTS, server
from benchmarks.upstream.__main__ import LEAST_SHARE, MOST_P99, RESULTS, pooled, told
from benchmarks.upstream.real import Arm, BatchGate, Outcome, Workload, direct, fronted

from antiphon.engine.api.client import EngineClient
from antiphon.engine.api.port import GenerationEngine
from antiphon.engine.scheduling.service_level import ServiceLevel

LEVEL = ServiceLevel(slowdown=0.05)
WORKLOAD = Workload(
    MODEL, SLOTS, rate=0.3, online_words=12, batch_words=24, sizes=(600, 1_200, 1_800), forced=True
)  # fmt: skip
IGNORES_END = ("ignore_eos",)
PASSES = 64
"""Tokens of a pass: nothing interrupts one, and a prompt of batch of 450 tokens takes a second here."""


class Size(msgspec.Struct, frozen=True):
    """Seeds, seconds of an arm and before it counts, and the slots that one with all knowledge keeps free."""

    seeds: tuple[int, ...]
    seconds: float
    warm: float
    free: tuple[int, ...]


SIZES = {
    "ci": Size((1,), 45.0, 20.0, (31,)),
    "demo": Size((1,), 200.0, 50.0, (31, 30)),
    "full": Size((1, 2, 3), 600.0, 60.0, (31, 30, 28, 24, 16)),
}


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; the exit code says nothing of the goals: one machine's noise decides them in small sizes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.upstream.vllm")
    parser.add_argument("--size", choices=SIZES, default="ci")
    parser.add_argument("--passes", type=int, default=PASSES, help=f"tokens of a pass, at least {SLOTS}")
    parser.add_argument("--brief", action="store_true", help="online alone, one with all knowledge, and one front")
    parser.add_argument("--eager", action="store_true", help="without vLLM's compilation: slower passes, a quick start")
    parser.add_argument("--keep", action="store_true", help=f"add the line to {RESULTS.name}")
    options = parser.parse_args(arguments)
    size, began = SIZES[options.size], time.monotonic()
    brief = {"online alone", f"all knowledge, {size.free[0]} free", "one front"}
    only = brief if options.brief else None
    with tempfile.TemporaryDirectory(prefix="antiphon-upstream-") as folder:
        outcomes = asyncio.run(measure(Path(folder), size, only, passes=options.passes, eager=options.eager))
    alone = pooled(outcomes.pop("online alone"))
    title = f"vLLM: {len(size.seeds)} seeds of {size.seconds:g} s, {len(alone.waits)} online first tokens each"
    found = told(title, alone, {name: pooled(each) for name, each in outcomes.items()})
    ours = found["one front"]
    line = {
        "benchmark": "upstream_vllm", "size": options.size, "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "eager": options.eager, "passes": options.passes, "seeds": size.seeds, "seconds": size.seconds,
        "goals_met": ours["p99"] <= MOST_P99 and ours["batch"] >= LEAST_SHARE,
        "alone_ttft_ms": {str(share): round(1e3 * alone.at(share), 1) for share in (0.5, 0.99)},
        "vllm": found, "took": round(time.monotonic() - began, 1),
    }  # fmt: skip
    text = json.dumps(line)
    if options.keep:
        with RESULTS.open("a", encoding="utf-8") as results:
            results.write(text + "\n")
    print(text)
    return 0


async def measure(
    folder: Path, size: Size, only: set[str] | None, *, passes: int, eager: bool
) -> dict[str, list[Outcome]]:
    """Outcomes of each way to send, of all or ``only`` these, a seed each."""
    outcomes: dict[str, list[Outcome]] = {}
    options = ("--max-num-batched-tokens", str(passes))
    async with server(ours=False, eager=eager, trace=folder / "trace", log=folder / "vllm.log", options=options) as url:
        for seed in size.seeds:
            async with aclosing(ways(folder / str(seed), f"{url}/v1", size)) as each:
                async for name, arm in each:
                    if only is not None and name not in only:
                        continue
                    outcome = await arm.run(size.seconds, size.warm, seed)
                    outcomes.setdefault(name, []).append(outcome)
                    waits = ", ".join(f"p{100 * share:g} {outcome.at(share):.2f} s" for share in (0.5, 0.99))
                    print(f"  seed {seed}: {name}, {waits}, {outcome.batch:.2f} batch/s", file=sys.stderr, flush=True)
    return outcomes


async def ways(folder: Path, url: str, size: Size) -> AsyncIterator[tuple[str, Arm]]:
    """Each way to send, by name, with its processes while it is used."""
    folder.mkdir()

    def arm(
        name: str, *engines: GenerationEngine, gate: BatchGate | None = None, batch: bool = True
    ) -> tuple[str, Arm]:
        workload = replace(WORKLOAD, salt=f"{folder.name} {name}")
        return name, Arm(engines[:2], engines[2] if batch else None, gate or BatchGate(), LEVEL, workload)

    async with direct(url, "vllm") as one:
        yield arm("online alone", one, one, one, batch=False)
        for free in size.free:
            yield arm(f"all knowledge, {free} free", one, one, one, gate=BatchGate(free=free, slots=SLOTS))
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(fronted(folder, "front", url, 'serves = "vllm"\n'))
        second, worker = (EngineClient(folder / "front" / ".antiphon" / "run" / "engine.sock") for _ in range(2))
        stack.push_async_callback(second.close)
        stack.push_async_callback(worker.close)
        yield arm("one front", first, second, worker)
    async with direct(url, parameters=IGNORES_END) as one:
        yield arm("static cap 4", one, one, one, gate=BatchGate(4))
        yield arm("no control", one, one, one)


if __name__ == "__main__":
    sys.exit(main())
