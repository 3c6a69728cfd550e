"""Prompt tokens computed again when requests that share long beginnings are routed over two engines.

Three contenders take turns on the same requests in the same order: one engine, two engines with prefix affinity, and
two with random routing. Engines are processes behind their sockets; each contender gets fresh ones. A prompt's tokens
that did not come out of the prefix cache were computed; an engine caches a beginning the second time that it sees it,
so even one engine computes each of them twice.

    python -m benchmarks.engine.prefix_affinity [--rounds 2] [--concurrency 4 16] [--simulated] [--record]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from antiphon.core.child_process import start_child
from antiphon.core.errors import UnavailableError
from antiphon.engine import weights
from antiphon.engine.api.client import EngineClient
from antiphon.engine.api.messages import (
    Delta,
    EngineInstance,
    EngineLoad,
    GenerationRequest,
    GenerationResult,
    Priority,
)
from antiphon.engine.routing.route import Route
from antiphon.engine.routing.routed_engine import Choice, RoutedEngine, by_affinity

MODEL = "smollm2-135m"
RESULTS = Path(__file__).parents[1] / "results"
SUBJECTS = ("river", "market", "winter", "harbor", "teacher", "engine", "garden", "letter", "mountain", "doctor")


def prompts(prefixes: int, each: int, characters: int, seed: int) -> list[str]:
    """Questions about so many long documents, shuffled."""
    generator = random.Random(seed)

    def document(number: int) -> str:
        words = [generator.choice(SUBJECTS) for _ in range(characters // 7)]
        return f"Document {number}: " + " ".join(words)

    asked = [
        f"{text}\nQuestion {number} about the {SUBJECTS[number % len(SUBJECTS)]}:"
        for text in map(document, range(prefixes))
        for number in range(each)
    ]
    generator.shuffle(asked)
    return asked


def at_random(seed: int) -> Choice:
    generator = random.Random(seed)

    def choose(key: bytes, routes: list[Route], priority: Priority) -> Route:  # type: ignore[misc]
        return generator.choice(routes)

    return choose  # type: ignore[return-value]


@contextlib.asynccontextmanager
async def engines(count: int, choose: Choice, options: argparse.Namespace) -> AsyncIterator[RoutedEngine]:
    """So many fresh engine processes behind a router."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as running:
        paths = [Path(folder) / f"{number}.sock" for number in range(count)]
        for path in paths:
            command = [sys.executable, "-m", "antiphon.engine", "--socket", str(path), "--model", MODEL]
            command += ["--threads", "1", "--slots", "16", "--log-level", "error"]
            if options.simulated:
                command += ["--simulated", "--simulated-prefill-milliseconds", "0.2"]
            process = start_child(command, env={**os.environ, "GOMP_SPINCOUNT": "1000"})
            running.callback(process.wait)
            running.callback(process.terminate)
        clients = {str(path): EngineClient(path, peer="bench") for path in paths}

        async def living() -> list[EngineInstance]:
            load = EngineLoad(slots=16)
            return [
                EngineInstance(f"engine-{number}", str(path), "here", str(path), "", {MODEL: ""}, {}, load)
                for number, path in enumerate(paths)
            ]

        for client in clients.values():
            await _until_it_answers(client)
        router = RoutedEngine(living, lambda instance: clients[instance.process], choose=choose)
        try:
            yield router
        finally:
            await router.close()


async def _until_it_answers(client: EngineClient) -> None:
    async with asyncio.timeout(120):
        while True:
            with contextlib.suppress(UnavailableError):
                await client.describe()
                return
            await asyncio.sleep(0.05)


async def measured(router: RoutedEngine, asked: list[str], concurrency: int) -> dict[str, float]:
    """Tokens computed, seconds to the first text (median) and in all."""
    computed, total, first = 0, 0, []
    turns = asyncio.Semaphore(concurrency)

    async def ask(number: int, prompt: str) -> None:
        nonlocal computed, total
        async with turns:
            begun, waited = time.perf_counter(), None
            async for event in router.generate(GenerationRequest(f"r{number}", MODEL, prompt, 4, ignore_end=True)):
                if isinstance(event, Delta) and waited is None:
                    waited = time.perf_counter() - begun
                if isinstance(event, GenerationResult):
                    computed += event.usage.prompt_tokens - event.usage.cached_prompt_tokens
                    total += event.usage.prompt_tokens
            first.append(waited or 0.0)

    begun = time.perf_counter()
    await asyncio.gather(*(ask(number, prompt) for number, prompt in enumerate(asked)))
    seconds = time.perf_counter() - begun
    return {"computed": computed, "prompt": total, "first": statistics.median(first), "seconds": seconds}


async def compare(concurrency: int, options: argparse.Namespace) -> dict[str, object]:
    rounds: dict[str, list[dict[str, float]]] = {"one": [], "affinity": [], "random": []}
    for turn in range(options.rounds):
        asked = prompts(options.prefixes, options.each, options.characters, turn)
        contenders = [("one", 1, by_affinity), ("affinity", 2, by_affinity), ("random", 2, at_random(turn))]
        for name, count, choose in contenders[turn % 3 :] + contenders[: turn % 3]:
            async with engines(count, choose, options) as router:
                rounds[name].append(await measured(router, asked, concurrency))

    def ratios(name: str) -> list[float]:
        pairs = zip(rounds[name], rounds["one"], strict=True)
        return sorted(mine["computed"] / alone["computed"] for mine, alone in pairs)

    found: dict[str, object] = {"concurrency": concurrency}
    print(f"{concurrency} at once    tokens computed   of one engine's   first text   seconds")
    for name, seen in rounds.items():
        share = ratios(name)
        middle = {key: statistics.median(one[key] for one in seen) for key in seen[0]}
        print(
            f"  {name:<12}{middle['computed']:>13.0f}{statistics.median(share):>12.3f} ({share[0]:.3f}-{share[-1]:.3f})"
            f"{middle['first']:>10.3f} s{middle['seconds']:>9.1f}"
        )
        found[name] = {key: round(value, 4) for key, value in middle.items()} | {
            "ratio": round(statistics.median(share), 4),
            "worst": round(share[-1], 4),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--prefixes", type=int, default=6)
    parser.add_argument("--each", type=int, default=10, help="requests that share one beginning")
    parser.add_argument("--characters", type=int, default=3000, help="of a beginning")
    parser.add_argument("--simulated", action="store_true", help="no weights, and a token a byte")
    parser.add_argument("--record", action="store_true", help="add the line to benchmarks/results")
    options = parser.parse_args()
    if not options.simulated:
        weights.pull(MODEL)
    summary: dict[str, object] = {
        "benchmark": "prefix-affinity",
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": platform.processor() or platform.machine(),
        "model": "simulated" if options.simulated else MODEL,
        "rounds": options.rounds,
        "prefixes": options.prefixes,
        "requests": options.prefixes * options.each,
        "runs": [asyncio.run(compare(concurrency, options)) for concurrency in options.concurrency],
    }
    line = json.dumps(summary)
    if options.record:
        with (RESULTS / "prefix-affinity.jsonl").open("a") as file:
            file.write(line + "\n")
    print(line)


if __name__ == "__main__":
    main()
