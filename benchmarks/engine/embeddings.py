"""Embedding a corpus beside people who chat: what it takes from them, and how much of it gets done.

One engine with the generating model and the embedding model, and open-loop online arrivals (Poisson; measured from the
moment each was due). The conditions take turns in blocks, every one with the same arrivals:

- ``online``: nobody embeds.
- ``flex``: an endless corpus as batch work, as the engine schedules it.
- ``ungoverned``: the same corpus, embedded by a thread of its own beside the engine: what it costs when no scheduler
  knows of it.
- ``corpus``: the corpus as batch work, nobody chats.

Ratios are between blocks of one round; the figures are medians over rounds. Taken beside busy others they say little.

    python -m benchmarks.engine.embeddings [--rounds 3] [--block-seconds 15] [--rate 0.5] [--seed 7]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import random
import statistics
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from antiphon.definitions.embedding import MODELS
from antiphon.engine import weights
from antiphon.engine.api.messages import Delta, GenerationRequest, TextEmbeddingRequest
from antiphon.engine.backends.llamacpp.encoder import LlamaCppEmbedding, LlamaCppEncoder
from antiphon.engine.backends.llamacpp.runtime import LlamaCpp
from antiphon.engine.execution.local import LocalEngine
from antiphon.engine.execution.runtime import Layout
from antiphon.engine.scheduling.service_level import ServiceLevel

MODEL, ENCODER = "smollm2-135m", "minilm-l6-v2"
OUTPUT_TOKENS = 30
CONDITIONS = ("online", "flex", "ungoverned", "corpus")
LEVEL = ServiceLevel(slowdown=0.1)
PROMPT = (
    "<|im_start|>user\nFlight {number} to Boston leaves from gate {gate}. Departures here are {delay} minutes late. "
    "What do you tell its passengers?<|im_end|>\n<|im_start|>assistant\n"
)
TEXT = "Flight {number} of the morning was {delay} minutes late because of the weather at gate {gate}."


class Block:
    """What one block measured: seconds of each request, and texts embedded a second."""

    def __init__(self) -> None:
        self.first: list[float] = []
        self.token: list[float] = []
        self.texts = 0.0

    def figures(self) -> dict[str, float]:
        found = {"texts_per_second": self.texts}
        for name, values in (("ttft", self.first), ("tpot", self.token)):
            for share in (50, 90):
                found[f"{name}_p{share}_ms"] = 1e3 * quantile(values, share / 100) if values else 0.0
        return found


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def texts(generator: random.Random, count: int) -> tuple[str, ...]:
    return tuple(
        TEXT.format(number=generator.randrange(9_000), delay=generator.randrange(90), gate=generator.randrange(60))
        for _ in range(count)
    )


async def chat(engine: LocalEngine, number: int, due: float, generator: random.Random, block: Block) -> None:
    prompt = PROMPT.format(number=number, gate=generator.randrange(60), delay=generator.randrange(90))
    asked = GenerationRequest(f"c{number}", MODEL, prompt, OUTPUT_TOKENS, ignore_end=True, level=LEVEL)
    await asyncio.sleep(max(0.0, due - time.monotonic()))
    first = None
    async with contextlib.aclosing(engine.generate(asked)) as events:
        async for event in events:
            if isinstance(event, Delta) and first is None:
                first = time.monotonic()
    assert first is not None
    block.first.append(first - due)
    block.token.append((time.monotonic() - first) / (OUTPUT_TOKENS - 1))


async def people(engine: LocalEngine, seconds: float, rate: float, seed: int, block: Block) -> None:
    generator = random.Random(seed)
    now, begin = 0.0, time.monotonic()
    chats = []
    while (now := now + generator.expovariate(rate)) < seconds:
        chats.append(chat(engine, len(chats), begin + now, random.Random(generator.random()), block))
    await asyncio.gather(*chats)
    await asyncio.sleep(max(0.0, begin + seconds - time.monotonic()))


async def corpus(engine: LocalEngine, seed: int) -> None:
    """Embed until cancelled, four requests at a time."""

    async def one(generator: random.Random) -> None:
        while True:
            await engine.embed(TextEmbeddingRequest("corpus", ENCODER, texts(generator, 8), priority="batch"))

    await asyncio.gather(*(one(random.Random(seed + number)) for number in range(4)))


class Ungoverned:
    """A thread that embeds beside the engine."""

    def __init__(self) -> None:
        self._model = LlamaCppEmbedding(weights.resolve(ENCODER), tokens=MODELS[ENCODER].tokens)
        self._stop = threading.Event()
        self.done = 0
        self._thread: threading.Thread | None = None

    def begin(self, seed: int) -> None:
        self._stop.clear()
        self.done = 0
        self._thread = threading.Thread(target=self._work, args=(random.Random(seed),))
        self._thread.start()

    def _work(self, generator: random.Random) -> None:
        while not self._stop.is_set():
            self._model.embed(texts(generator, 1))
            self.done += 1

    def end(self) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join()


async def block_of(
    engine: LocalEngine, ungoverned: Ungoverned, condition: str, options: argparse.Namespace, seed: int
) -> Block:
    block, seconds = Block(), options.block_seconds
    before, began = engine.load().embedded_texts, time.monotonic()
    embedding = asyncio.create_task(corpus(engine, seed)) if condition in ("flex", "corpus") else None
    if condition == "ungoverned":
        ungoverned.begin(seed)
    if condition == "corpus":
        await asyncio.sleep(seconds)
    else:
        await people(engine, seconds, options.rate, seed, block)
    lasted = time.monotonic() - began
    if condition == "ungoverned":
        ungoverned.end()
    if embedding is not None:
        embedding.cancel()
        await asyncio.gather(embedding, return_exceptions=True)
    done = ungoverned.done if condition == "ungoverned" else engine.load().embedded_texts - before
    block.texts = done / lasted
    await engine.drain()
    return block


async def measured(options: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    layout = Layout(slots=8, context_tokens=512)
    threads = min(os.cpu_count() or 1, 8)
    runtime = LlamaCpp(MODEL, weights.resolve(MODEL), layout, threads=threads)
    described = MODELS[ENCODER]
    encoder = LlamaCppEncoder(
        ENCODER, weights.resolve(ENCODER), tokens=described.tokens, dimensions=described.dimensions
    )
    engine = await LocalEngine({MODEL: runtime}, encoders={ENCODER: encoder}).start()
    ungoverned = Ungoverned()
    found: dict[str, list[dict[str, float]]] = {condition: [] for condition in CONDITIONS}
    warming = argparse.Namespace(**{**vars(options), "block_seconds": 5.0})
    await block_of(engine, ungoverned, "flex", warming, options.seed)
    for number in range(options.rounds):
        order = CONDITIONS if number % 2 == 0 else CONDITIONS[::-1]
        for condition in order:
            block = await block_of(engine, ungoverned, condition, options, options.seed + number)
            found[condition].append(block.figures())
    await engine.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--block-seconds", type=float, default=15.0)
    parser.add_argument("--rate", type=float, default=0.5, help="chats a second")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    found = asyncio.run(measured(options))
    columns = ("ttft_p50_ms", "ttft_p90_ms", "tpot_p50_ms", "tpot_p90_ms", "texts_per_second")
    table, ratios = {}, {}
    print(f"{'':12}" + "".join(f"{column:>18}" for column in columns))
    for condition, rounds in found.items():
        table[condition] = {column: round(statistics.median(one[column] for one in rounds), 1) for column in columns}
        print(f"{condition:12}" + "".join(f"{table[condition][column]:>18}" for column in columns))
    for condition in ("flex", "ungoverned"):
        ratios[condition] = {
            column: round(
                statistics.median(
                    one[column] / other[column] for one, other in zip(found[condition], found["online"], strict=True)
                ),
                3,
            )
            for column in columns[:4]
        } | {
            "texts": round(
                statistics.median(
                    one["texts_per_second"] / other["texts_per_second"]
                    for one, other in zip(found[condition], found["corpus"], strict=True)
                ),
                3,
            )
        }
        print(f"{condition} beside online alone: {ratios[condition]}")
    line = json.dumps(
        {
            "benchmark": "embeddings",
            "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "cores": os.cpu_count(),
            "load": round(os.getloadavg()[0], 1),
            **vars(options),
            "medians": table,
            "ratios": ratios,
            "rounds_measured": found,
        }
    )
    results = Path(__file__).parents[1] / "results"
    results.mkdir(exist_ok=True)
    with (results / "embeddings.jsonl").open("a") as file:
        file.write(line + "\n")
    print(line)


if __name__ == "__main__":
    main()
