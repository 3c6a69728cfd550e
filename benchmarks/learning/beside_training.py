"""Training beside serving: online time to first token with the training process governed and ungoverned, beside none.

One engine process, one real training process, and open-loop online arrivals (Poisson, measured from the moment each
request was due). The conditions take turns in blocks on the same machine, every one with the same arrivals:

- ``none``: training is stopped for the block.
- ``governed``: as the worker runs it, at idle priority, and stopped while online requests are served.
- ``idle``: at idle priority (SCHED_IDLE, in a session of the lowest weight), never stopped.
- ``idle0``: SCHED_IDLE in a session that weighs as much as the engine's, never stopped: where Linux weighs sessions
  (autogroups), idle priority alone is none.
- ``nice0``: at the engine's own priority, never stopped: what happens without either measure.

The worker's side (the trainer's parent and the governor) runs in a process of its own at nice 15, as in a project.
``training`` and ``others`` are shares of all cores: of the training process, and of everything that is no part of this
benchmark's engine or training. Figures taken beside busy others say little.

    python -m benchmarks.learning.beside_training [--quick] [--rounds 6] [--block-seconds 18] [--rate 0.7] [--seed 7]
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
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from benchmarks.learning.trained_beside import RAISED, Trainer, spent, trainer

from antiphon.core.child_process import start_child
from antiphon.core.errors import AntiphonError, UnavailableError
from antiphon.engine.api.client import EngineClient
from antiphon.engine.api.messages import Delta, GenerationRequest, GenerationResult

MODEL = "smollm2-135m"
OUTPUT_TOKENS = 30
GIVE_UP_SECONDS = 60.0
CORES = os.cpu_count() or 1
CONDITIONS = ("none", "governed", "idle", "idle0", "nice0")
SYSTEM = (
    "<|im_start|>system\nYou are the flight desk of a large airport. You answer passengers in one or two sentences. "
    "You state only the figures that you were given, you never guess, and you stay polite whatever happens. When a "
    "figure is missing you say so. When the passenger asks for something else you say that you only know about "
    "flights, delays, weather and gates, and you offer to help with those.<|im_end|>\n<|im_start|>user\n"
)
QUESTION = (
    "Flight {number} to Boston leaves at {hour}:{minute:02d} from gate {gate}. Departures here are {delay} minutes "
    "late, the airline is late {carrier}% of the time, the route {route}%. The wind blows at {wind} mph, visibility is "
    "{sight} miles, and {waiting} aircraft wait before the runway. Will it leave on time, and what should I do until "
    "then?<|im_end|>\n<|im_start|>assistant\n"
)


@dataclass
class Seen:
    """What one condition showed, over its blocks."""

    first_token: list[float] = field(default_factory=list)
    token_gap: list[float] = field(default_factory=list)
    block_medians: list[float] = field(default_factory=list)
    failed: int = 0
    seconds: float = 0.0
    others_seconds: float = 0.0
    steps: int = 0
    processor_seconds: float = 0.0
    paused: list[float] = field(default_factory=list)


def main() -> None:
    options = _options()
    summary = asyncio.run(measure(options))
    line = json.dumps(summary)
    results = Path(__file__).parents[1] / "results"
    results.mkdir(exist_ok=True)
    with (results / "beside_training.jsonl").open("a") as file:
        file.write(line + "\n")
    print(line)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--quick", action="store_true", help="two rounds of short blocks of the first three: under a minute"
    )
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--block-seconds", type=float, default=18.0)
    parser.add_argument("--rate", type=float, default=0.7, help="online requests a second")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--batch", type=int, default=4, help="examples a training step")
    parser.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=list(CONDITIONS))
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.block_seconds = 2, 5.0
        options.conditions = [name for name in options.conditions if name not in RAISED]
    return options


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All blocks; prints the table and returns the summary."""
    begun, load_before = time.monotonic(), os.getloadavg()
    seen = {name: Seen() for name in options.conditions}
    with tempfile.TemporaryDirectory() as folder:
        async with (
            engine_process(Path(folder)) as (client, engine),
            trainer(Path(folder), MODEL, options.batch, options.seed) as training,
        ):
            for number in range(3):
                await ask(client, prompt(random.Random(number)), 0.0)
            looking = await cost_of_looking(client, engine)
            for round_ in range(options.rounds):
                turn = options.conditions[round_ % len(seen) :] + options.conditions[: round_ % len(seen)]
                for name in turn:
                    if name in RAISED and not training.may_raise:
                        continue
                    await block(client, training, engine, name, seen[name], options, round_)
    print(f"\nonline requests at {options.rate}/s (Poisson), {OUTPUT_TOKENS} tokens each; times in ms")
    print(
        "condition   requests  TTFT p50    p90    p99    max  block p50s   per token  steps/s  training  paused  others"
    )
    for name, found in seen.items():
        print(row(name, found))
    busiest = max((told(found)["others_processor_share"] for found in seen.values() if found.first_token), default=0)
    if busiest > 0.1:
        print(
            f"Others took up to {busiest:.0%} of the machine: these figures say little. Run it again when it is quiet."
        )
    return {
        "benchmark": "beside_training",
        "at": datetime.datetime.now(datetime.UTC).isoformat(),
        "machine": platform.processor() or platform.machine(),
        "cores": CORES,
        "model": MODEL,
        "trainer": "antiphon.training",
        "batch": options.batch,
        "rate": options.rate,
        "seed": options.seed,
        "rounds": options.rounds,
        "block_seconds": options.block_seconds,
        "seconds": round(time.monotonic() - begun, 1),
        "load_average": [round(load_before[0], 2), round(os.getloadavg()[0], 2)],
        "governor_look": looking,
        "conditions": {name: told(found) for name, found in seen.items() if found.first_token},
    }


async def block(
    client: EngineClient,
    training: Trainer,
    engine: psutil.Process,
    name: str,
    seen: Seen,
    options: argparse.Namespace,
    round_: int,
) -> None:
    """One block of one condition; its requests have ended when it returns, and training is stopped."""
    # The same arrivals for every condition of a round.
    arrivals, content = random.Random(f"{options.seed} {round_}"), random.Random(f"{options.seed} {round_} {name}")
    due, at = [], arrivals.expovariate(options.rate)
    while at < options.block_seconds:
        due.append(at)
        at += arrivals.expovariate(options.rate)
    before = await training.enter(name)
    begin, busy = time.monotonic(), _busy() - spent(engine)
    answers = [asyncio.create_task(ask(client, prompt(content), begin + at)) for at in due]
    await asyncio.sleep(options.block_seconds)
    after = await training.standing()
    trained = after["processor_seconds"] - before["processor_seconds"]
    seen.others_seconds += _busy() - spent(engine) - busy - trained
    seen.seconds += time.monotonic() - begin
    found = [answer for answer in await asyncio.gather(*answers) if answer is not None]
    await training.leave()
    seen.failed += len(due) - len(found)
    seen.first_token += [first for first, _ in found]
    seen.token_gap += [gap for _, gap in found]
    if found:
        seen.block_medians.append(statistics.median(first for first, _ in found))
    seen.steps += after["step"] - before["step"]
    seen.processor_seconds += trained
    if after["paused_share"] is not None:
        seen.paused.append(after["paused_share"])


async def ask(client: EngineClient, text: str, due: float) -> tuple[float, float] | None:
    """Seconds from when the request was due to its first token, and between its tokens; ``None`` if it failed."""
    due = due or time.monotonic()
    await asyncio.sleep(max(0.0, due - time.monotonic()))
    first = None
    try:
        async with asyncio.timeout(GIVE_UP_SECONDS):
            async for event in client.generate(GenerationRequest("r", MODEL, text, OUTPUT_TOKENS)):
                if isinstance(event, Delta) and first is None:
                    first = time.monotonic()
                elif isinstance(event, GenerationResult) and first is not None:
                    gap = (time.monotonic() - first) / max(1, event.usage.completion_tokens - 1)
                    return first - due, gap
    except (AntiphonError, TimeoutError) as error:
        print(f"A request failed: {error}")
    return None


def prompt(draw: random.Random) -> str:
    """About 200 tokens, of which the first 90 are those of every prompt."""
    return SYSTEM + QUESTION.format(
        number=draw.randint(100, 9999),
        hour=draw.randint(6, 22),
        minute=draw.randint(0, 59),
        gate=draw.randint(1, 60),
        delay=draw.randint(0, 90),
        carrier=draw.randint(5, 40),
        route=draw.randint(5, 40),
        wind=draw.randint(0, 35),
        sight=draw.randint(1, 10),
        waiting=draw.randint(0, 20),
    )


async def cost_of_looking(client: EngineClient, engine: psutil.Process, looks: int = 1000) -> dict[str, float]:
    """What one look of the governor costs: wall, and processor time on both sides, in ms."""
    waited, ours, theirs = [], time.process_time(), spent(engine)
    for _ in range(looks):
        begin = time.perf_counter()
        await client.describe()
        waited.append(time.perf_counter() - begin)
    return {
        "p50_ms": round(statistics.median(waited) * 1e3, 3),
        "own_processor_ms": round((time.process_time() - ours) / looks * 1e3, 3),
        "engine_processor_ms": round((spent(engine) - theirs) / looks * 1e3, 3),
    }


def quantile(values: Sequence[float], share: float) -> float:
    """The nearest-rank quantile, in ms."""
    ordered = sorted(values)
    return 1e3 * ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


def told(found: Seen) -> dict[str, Any]:
    """One condition for the summary; times in ms."""
    return {
        "requests": len(found.first_token),
        "failed": found.failed,
        "ttft_ms": {
            name: round(quantile(found.first_token, share), 1)
            for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))
        },
        "block_p50_ms": [round(1e3 * median, 1) for median in found.block_medians],
        "token_ms_p50": round(quantile(found.token_gap, 0.5), 1),
        "steps_per_second": round(found.steps / found.seconds, 3),
        "training_processor_share": round(found.processor_seconds / found.seconds / CORES, 3),
        "others_processor_share": round(found.others_seconds / found.seconds / CORES, 3),
        "paused_share": round(statistics.mean(found.paused), 3) if found.paused else None,
    }


def row(name: str, found: Seen) -> str:
    """One line of the table."""
    if not found.first_token:
        return f"{name:10s}  left out: this user may not raise a priority, or nothing arrived"
    values = told(found)
    ttft, medians = values["ttft_ms"], values["block_p50_ms"]
    paused = "" if values["paused_share"] is None else f"{values['paused_share']:.0%}"
    first = "".join(f"{ttft[name]:7.0f}" for name in ("p90", "p99", "max"))
    return (
        f"{name:10s} {values['requests']:9d} {ttft['p50']:9.0f}{first} {min(medians):5.0f}-{max(medians):<5.0f}"
        f"{values['token_ms_p50']:11.1f}{values['steps_per_second']:9.2f}{values['training_processor_share']:10.0%}"
        f"{paused:>8s}{values['others_processor_share']:8.0%}"
    )


def _busy() -> float:
    """Processor seconds of the whole machine since it started, idle ones left out."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


@contextlib.asynccontextmanager
async def engine_process(folder: Path) -> AsyncIterator[tuple[EngineClient, psutil.Process]]:
    """An engine as a project runs it."""
    path = folder / "engine.sock"
    command = [sys.executable, "-m", "antiphon.engine", "--socket", str(path), "--model", MODEL, "--slots", "8"]
    process = start_child([*command, "--context", "512", "--log-level", "warning"], env=dict(os.environ))
    client = EngineClient(path)
    try:
        async with asyncio.timeout(60):
            while True:
                with contextlib.suppress(UnavailableError):
                    await client.describe()
                    break
                if process.poll() is not None:
                    raise RuntimeError("The engine ended; what it said is above.")
                await asyncio.sleep(0.05)
        yield client, psutil.Process(process.pid)
    finally:
        await client.close()
        process.terminate()
        process.wait(30)


if __name__ == "__main__":
    main()
