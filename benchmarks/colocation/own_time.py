"""What the engine takes beside its model: planning, sampling, the socket, and a caller who reads every token.

The model computes on every core, so what others compute meanwhile is taken from it.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from benchmarks.colocation.simulator import Costless

from antiphon.engine.api.client import EngineClient
from antiphon.engine.api.messages import GenerationRequest
from antiphon.engine.api.server import serve
from antiphon.engine.execution.local import LocalEngine
from antiphon.engine.execution.runtime import Layout, Logits

SLEEP_SECONDS = 0.002
TOKENS = 100


class _Sleeping(Costless):
    """A step takes time and no processor, so that every step's tokens are told by themselves, as a model's are."""

    def step(self, slots: Sequence[int], positions: Sequence[int], tokens: Sequence[int]) -> list[Logits]:
        time.sleep(SLEEP_SECONDS)
        return super().step(slots, positions, tokens)


def own_time(vocabulary: int) -> tuple[float, float]:
    """Processor seconds of a turn beside the model: (each turn, each sequence decoded in it)."""
    seconds = {sequences: asyncio.run(_turn(vocabulary, sequences)) for sequences in (1, 8, 16)}
    slope, base = np.polyfit(list(seconds), list(seconds.values()), 1)
    return max(float(base), 0.0), max(float(slope), 0.0)


async def _turn(vocabulary: int, sequences: int) -> float:
    runtime = _Sleeping(Layout(slots=sequences, context_tokens=4096), vocabulary)
    stop, ready = asyncio.Event(), asyncio.Event()
    engine = await LocalEngine({"costed": runtime}).start()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "engine.sock"
        serving = asyncio.create_task(serve(engine, path, stop, ready=ready.set))
        await ready.wait()
        client = EngineClient(path)

        async def read(number: int, tokens: int) -> None:
            async for _ in client.generate(
                GenerationRequest(str(number), "costed", "a prompt", tokens, ignore_end=True)
            ):
                pass

        try:
            await asyncio.gather(*(read(number, 5) for number in range(sequences)))
            begin, before = time.process_time(), engine.load().steps
            await asyncio.gather(*(read(number, TOKENS) for number in range(sequences)))
            return (time.process_time() - begin) / (engine.load().steps - before)
        finally:
            await client.close()
            stop.set()
            await serving
