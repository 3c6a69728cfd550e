"""Tokens per second: the engine process under batch work against a bare llama.cpp loop, same batch size and layout.

The two take turns on the same machine; each round gives one ratio. The bare loop is the shortest program that
computes the same tokens: prompts in chunks of their own, then greedy decode steps over all sequences until the
wave is done. Prompts share no prefix and are chosen so that none ends early; the texts are compared too.

Wall time is what counts; on a machine with neighbors it is noisy, so processor time is told beside it (of the
engine process, without the client's).

    python -m benchmarks.engine [--rounds 3] [--batch 8 16] [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import psutil

from antiphon.core.child_process import start_child
from antiphon.core.errors import UnavailableError
from antiphon.engine import weights
from antiphon.engine.api.client import EngineClient
from antiphon.engine.api.messages import GenerationRequest, GenerationResult
from antiphon.engine.backends.llamacpp.runtime import LlamaCpp
from antiphon.engine.execution.runtime import Layout

MODEL = "smollm2-135m"
CONTEXT = 1024
SUBJECTS = ("river", "market", "winter", "harbour", "teacher", "engine", "garden", "letter", "mountain", "doctor")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--tokens", type=int, default=64, help="output tokens of one request")
    parser.add_argument("--waves", type=int, default=3, help="requests are this many times the batch size")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="one round of one wave at the first batch size")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.waves, options.batch = 1, 1, options.batch[:1]
    found = weights.resolve(str(weights.pull(MODEL)))
    summary: dict[str, object] = {"benchmark": "engine", "at": datetime.datetime.now(datetime.UTC).isoformat()}
    summary |= {"machine": platform.processor() or platform.machine(), "threads": options.threads, "model": MODEL}
    bare = LlamaCpp(MODEL, found, Layout(slots=max(options.batch), context_tokens=CONTEXT), threads=options.threads)
    summary["speed"] = speed(bare)
    summary["comparison"] = [asyncio.run(compare(bare, size, options)) for size in options.batch]
    bare.close()
    line = json.dumps(summary)
    results = Path(__file__).parents[1] / "results"
    results.mkdir(exist_ok=True)
    with (results / "engine.jsonl").open("a") as file:
        file.write(line + "\n")
    print(line)


def speed(runtime: LlamaCpp) -> dict[str, float]:
    """Tokens per second of prefill (256 tokens) and of decode steps at batch 1, 4, 8, 16 (context 200)."""
    generator = np.random.default_rng(0)
    prompt = [int(token) for token in generator.integers(100, 40_000, 256)]
    measured: dict[str, float] = {}
    spent = []
    for _ in range(3):
        runtime.drop(0)
        begin = time.perf_counter()
        feed(runtime, 0, prompt)
        spent.append(time.perf_counter() - begin)
    measured["prefill"] = round(len(prompt) / statistics.median(spent), 1)
    for size in (1, 4, 8, 16):
        if size > runtime.layout.slots:
            continue
        for slot in range(size):
            runtime.drop(slot)
            feed(runtime, slot, prompt[:200])
        steps = []
        tokens = prompt[:size]
        for step in range(20):
            begin = time.perf_counter()
            every = runtime.step(range(size), [200 + step] * size, tokens)
            tokens = [int(logits.argmax()) for logits in every]
            steps.append(time.perf_counter() - begin)
        measured[f"decode@{size}"] = round(size / statistics.median(steps[2:]), 1)
    for slot in range(runtime.layout.slots):
        runtime.drop(slot)
    print("tokens/s      " + "  ".join(f"{name} {value:.0f}" for name, value in measured.items()))
    return measured


def feed(runtime: LlamaCpp, slot: int, tokens: list[int]) -> int:
    """Prefill in chunks; returns the most probable next token."""
    size = runtime.layout.chunk_tokens
    logits = None
    for begin in range(0, len(tokens), size):
        chunk = tokens[begin : begin + size]
        logits = runtime.feed(slot, begin, chunk, begin + size >= len(tokens))
    assert logits is not None
    return int(logits.argmax())


def bare_loop(runtime: LlamaCpp, prompts: list[str], size: int, count: int) -> tuple[float, list[list[int]]]:
    """Seconds and the tokens of every prompt, wave after wave."""
    begin = time.perf_counter()
    every: list[list[int]] = []
    for start in range(0, len(prompts), size):
        wave = [runtime.tokenize(prompt) for prompt in prompts[start : start + size]]
        outputs = [[feed(runtime, slot, tokens)] for slot, tokens in enumerate(wave)]
        for step in range(count - 1):
            positions = [len(tokens) + step for tokens in wave]
            chosen = runtime.step(range(len(wave)), positions, [output[-1] for output in outputs])
            for output, logits in zip(outputs, chosen, strict=True):
                output.append(int(logits.argmax()))
        for slot in range(len(wave)):
            runtime.drop(slot)
        every += outputs
    return time.perf_counter() - begin, every


async def engine_run(client: EngineClient, prompts: list[str], count: int) -> tuple[float, list[list[int]]]:
    """The same through the engine process, all requests at once as batch work."""

    async def one(number: int, prompt: str) -> list[int]:
        request = GenerationRequest(f"bench-{number}-{time.monotonic_ns()}", MODEL, prompt, count, priority="batch")
        async for event in client.generate(request):
            if isinstance(event, GenerationResult):
                return list(event.token_ids)
        raise RuntimeError("The stream ended early.")

    begin = time.perf_counter()
    outputs = await asyncio.gather(*(one(number, prompt) for number, prompt in enumerate(prompts)))
    return time.perf_counter() - begin, list(outputs)


async def compare(bare: LlamaCpp, size: int, options: argparse.Namespace) -> dict[str, object]:
    prompts = await asyncio.to_thread(lasting_prompts, bare, size * options.waves, size, options.tokens)
    rows = []
    async with engine_process(size, options.threads) as (client, process):
        await engine_run(client, [f"Warm up {number}." for number in range(size)], 4)
        for _ in range(options.rounds):
            spent = time.process_time()
            bare_seconds, expected = await asyncio.to_thread(bare_loop, bare, prompts, size, options.tokens)
            bare_spent = time.process_time() - spent
            spent = processor_seconds(process)
            engine_seconds, outputs = await engine_run(client, prompts, options.tokens)
            engine_spent = processor_seconds(process) - spent
            tokens = len(prompts) * options.tokens
            same = sum(left == right for left, right in zip(expected, outputs, strict=True))
            rows.append(
                (
                    tokens / bare_seconds,
                    tokens / engine_seconds,
                    bare_seconds / engine_seconds,
                    same,
                    bare_spent / engine_spent,
                )
            )
    ratios = sorted(row[2] for row in rows)
    processor = sorted(row[4] for row in rows)
    print(f"\nbatch {size}: {len(prompts)} requests of {options.tokens} tokens")
    print("  bare loop tok/s   engine tok/s   engine/bare   by processor time   identical texts")
    for row in rows:
        print(f"  {row[0]:15.1f} {row[1]:14.1f} {row[2]:13.3f} {row[4]:19.3f} {row[3]:9d} of {len(prompts)}")
    print(f"  ratio min {ratios[0]:.3f}  median {statistics.median(ratios):.3f}  max {ratios[-1]:.3f}")
    middle = statistics.median(processor)
    print(f"  by processor time min {processor[0]:.3f}  median {middle:.3f}  max {processor[-1]:.3f}")
    return {
        "batch": size,
        "requests": len(prompts),
        "output_tokens": options.tokens,
        "bare_tokens_per_second": [round(row[0], 1) for row in rows],
        "engine_tokens_per_second": [round(row[1], 1) for row in rows],
        "ratio": {
            "min": round(ratios[0], 4),
            "median": round(statistics.median(ratios), 4),
            "max": round(ratios[-1], 4),
        },
        "ratio_by_processor_time": {
            "min": round(processor[0], 4),
            "median": round(statistics.median(processor), 4),
            "max": round(processor[-1], 4),
        },
        "identical_texts": [row[3] for row in rows],
    }


def lasting_prompts(runtime: LlamaCpp, wanted: int, size: int, count: int) -> list[str]:
    """Prompts of about 60 tokens that differ from their first word and do not end within ``count`` tokens."""
    kept: list[str] = []
    number = 0
    while len(kept) < wanted:
        candidates = []
        for _ in range(size):
            subject = SUBJECTS[number % len(SUBJECTS)]
            candidates.append(
                f"{number + 11} years ago the {subject} of our town was known to everyone, and people came from far "
                f"away to see it. They travelled for {number + 2} days by cart and by boat, slept in barns, and told "
                f"one another long stories about the {subject}. This is how the story usually began: Once"
            )
            number += 1
        _, outputs = bare_loop(runtime, candidates, size, count)
        lasting = [not runtime.vocabulary.ends.intersection(output) for output in outputs]
        kept += [prompt for prompt, lasts in zip(candidates, lasting, strict=True) if lasts]
    return kept[:wanted]


def processor_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextlib.asynccontextmanager
async def engine_process(slots: int, threads: int) -> AsyncIterator[tuple[EngineClient, psutil.Process]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "engine.sock"
        command = [sys.executable, "-m", "antiphon.engine", "--socket", str(path), "--model", MODEL, "--log-level"]
        command += ["warning", "--slots", str(slots), "--threads", str(threads), "--context", str(CONTEXT)]
        process = start_child(command, env=dict(os.environ))
        client = EngineClient(path)
        try:
            while True:
                try:
                    await client.describe()
                    break
                except UnavailableError:
                    if process.poll() is not None:
                        raise
                    await asyncio.sleep(0.05)
            yield client, psutil.Process(process.pid)
        finally:
            await client.close()
            process.terminate()
            process.wait(30)


if __name__ == "__main__":
    main()
