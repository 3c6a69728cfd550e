"""``python -m examples.flight_desk.machine``: how quickly this machine trains and generates, measured in seconds.

The demo measures before it declares its sizes. Both measurements run in processes of their own, so that neither torch
nor llama.cpp stays in the demo's memory.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from antiphon.core.child_process import die_with_parent
from antiphon.core.errors import SetupError
from antiphon.engine import weights
from antiphon.training.arithmetic import choose, measure_apart
from antiphon.training.recipe import Arithmetic

MODEL = "smollm2-135m"
THREADS = min(os.cpu_count() or 1, 8)
LAYERS_PER_STEP = {"fp32": 100.0, "bf16": 170.0}
"""A training step of the desk's (16 examples) takes so many times as long as the layer that is measured (seen in four
runs of the demo); the loss over the vocabulary and the optimizer are no quicker in bf16."""
_PROMPT, _SEQUENCES, _STEPS = 256, 8, 20
_TIMEOUT = 300.0


class Generation(msgspec.Struct, frozen=True):
    """Tokens a second of reading a prompt, and of writing eight answers at once."""

    prefill: float
    decode: float


class Machine(msgspec.Struct, frozen=True):
    """A machine's measured speeds.

    Attributes:
        generation: of the engine.
        arithmetic, step_seconds: what a training computes in here and how long a step takes; ``None`` without torch.
    """

    generation: Generation
    arithmetic: Arithmetic | None = None
    step_seconds: float | None = None

    def __str__(self) -> str:
        said = f"reads {self.generation.prefill:.0f} and writes {self.generation.decode:.0f} tokens/s"
        if self.arithmetic is None or self.step_seconds is None:
            return said
        return (
            f"{said}, trains {60 / self.step_seconds:.0f} steps a minute in {self.arithmetic.dtype}"
            f" on the {self.arithmetic.device.replace('cuda', 'GPU')}"
        )


def measure(*, training: bool) -> Machine:
    """Measure this machine as it is now, with whatever else runs on it.

    Raises:
        SetupError: the weights or a library cannot be had.
    """
    weights.pull(MODEL)
    done = subprocess.run(
        die_with_parent([sys.executable, "-m", "examples.flight_desk.machine"]),
        cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, timeout=_TIMEOUT, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise SetupError(
            "The engine's speed cannot be measured.",
            where="engine",
            next_step="Look at the lines above; `antiphon doctor`.",
        )
    generation = msgspec.json.decode(done.stdout, type=Generation)
    if not training:
        return Machine(generation)
    speeds = measure_apart(THREADS)
    chosen = choose(speeds)
    layer = next(speed.mean_milliseconds for speed in speeds if speed.arithmetic == chosen)
    return Machine(generation, chosen, LAYERS_PER_STEP[chosen.dtype] * layer / 1_000)


def generation() -> Generation:
    """Time the engine's own runtime: a prompt in chunks, then steps of eight sequences."""
    from antiphon.engine.backends.llamacpp.runtime import LlamaCpp
    from antiphon.engine.execution.runtime import Layout

    runtime = LlamaCpp(MODEL, weights.resolve(MODEL), Layout(slots=_SEQUENCES, context_tokens=640), threads=THREADS)
    try:
        prompt = [100 + 7 * position for position in range(_PROMPT)]
        size = runtime.layout.chunk_tokens
        taken = []
        for slot in range(_SEQUENCES):
            began = time.perf_counter()
            for start in range(0, _PROMPT, size):
                runtime.feed(slot, start, prompt[start : start + size], start + size >= _PROMPT)
            taken.append(time.perf_counter() - began)
        began = time.perf_counter()
        for step in range(_STEPS):
            runtime.step(range(_SEQUENCES), [_PROMPT + step] * _SEQUENCES, prompt[:_SEQUENCES])
        writing = time.perf_counter() - began
        return Generation(_SEQUENCES * _PROMPT / sum(taken), _SEQUENCES * _STEPS / writing)
    finally:
        runtime.close()


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(generation()) + b"\n")
