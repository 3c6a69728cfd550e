"""Chooses the device and the number format that a machine trains quickest in, by a short measurement on it.

On processors without AVX-512 or AMX torch has no fast bfloat16: a step takes four to eight times as long as in float32.
On those that have it, bfloat16 is twice as fast. Which of them a machine is cannot be told from its name alone
(instruction sets are masked in virtual machines and by environment variables), so it is measured, once, and kept.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from antiphon.core.child_process import die_with_parent
from antiphon.core.disk import replace_file
from antiphon.core.errors import SetupError
from antiphon.core.ids import content_hash
from antiphon.training.child import environment, processor
from antiphon.training.recipe import Arithmetic, libraries, torch_dtype

DtypeSetting = Literal["auto", "bf16", "fp32"]

ADVANTAGE = 1.1
"""bfloat16 must be so many times as fast as float32 to be chosen: rounding less is worth a tenth."""
_WIDTH, _INNER, _TOKENS = 576, 1_536, 512
"""Shape of a layer of the smallest base model, and tokens of a group of examples."""
_SECONDS = 2.0
_ROUNDS = 40
_TIMEOUT = 1_800.0
"""Ten seconds of processor time are enough; a worker on a crowded machine may wait long for them."""
_MASKS = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "CUDA_VISIBLE_DEVICES")
"""Environment variables that change which instructions and devices are used."""


class Speed(msgspec.Struct, frozen=True):
    """Time that one layer's forward and backward pass takes with an arithmetic.

    Attributes:
        milliseconds: of the best round, which other work on the machine hardly changes: for choosing.
        mean_milliseconds: of all rounds, with whatever else the machine does: for predicting.
    """

    arithmetic: Arithmetic
    milliseconds: float
    mean_milliseconds: float = 0.0


def choose(speeds: tuple[Speed, ...], dtype: DtypeSetting = "auto") -> Arithmetic:
    """The quickest arithmetic among those of this dtype; float32 unless bfloat16 is faster by ``ADVANTAGE``."""
    candidates = [speed for speed in speeds if dtype in ("auto", speed.arithmetic.dtype)]
    best = min(
        candidates, key=lambda speed: speed.milliseconds * (ADVANTAGE if speed.arithmetic.dtype == "bf16" else 1)
    )
    return best.arithmetic


def speeds_of_this_machine(
    threads: int, cache: Path, measured: Callable[[int], tuple[Speed, ...]] | None = None
) -> tuple[Speed, ...]:
    """The measurement of this machine with so many threads, from the cache folder or made now in a process of its own;
    raises ``SetupError`` when torch cannot be loaded or used."""
    kept = cache / f"training-speed-{machine(threads, os.environ)[:16]}.json"
    try:
        return msgspec.json.decode(kept.read_bytes(), type=tuple[Speed, ...])
    except (FileNotFoundError, msgspec.DecodeError):
        speeds = (measured or measure_apart)(threads)
    kept.parent.mkdir(parents=True, exist_ok=True)
    replace_file(kept, msgspec.json.encode(speeds))
    return speeds


def machine(threads: int, variables: Mapping[str, str]) -> str:
    """Hash of everything that a measurement depends on: processor, libraries, threads, masked instructions."""
    masks = {name: variables[name] for name in _MASKS if name in variables}
    devices = sorted(path.name for path in Path("/dev").glob("nvidia[0-9]*"))
    return content_hash(
        {"processor": processor(), "devices": devices, "libraries": libraries(), "threads": threads, "masks": masks}
    )


def measure(threads: int) -> tuple[Speed, ...]:
    """Time a layer's forward and backward pass in every arithmetic that this machine has, in turns, for two seconds."""
    import torch as library

    torch: Any = library
    torch.set_num_threads(threads)
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    arithmetics = [Arithmetic(dtype, device) for device in devices for dtype in ("bf16", "fp32")]
    layers = {arithmetic: _Layer(torch, arithmetic) for arithmetic in arithmetics}
    for layer in layers.values():
        layer.milliseconds()  # The first pass allocates and compiles.
    rounds: dict[Arithmetic, list[float]] = {arithmetic: [] for arithmetic in arithmetics}
    # In turns, and the best of each: what else runs on the machine slows some rounds of both and not all of one.
    end = time.perf_counter() + _SECONDS
    for _ in range(_ROUNDS):
        for arithmetic, layer in layers.items():
            rounds[arithmetic].append(layer.milliseconds())
        if time.perf_counter() > end:
            break
    return tuple(
        Speed(arithmetic, round(min(taken), 3), round(statistics.fmean(taken), 3))
        for arithmetic, taken in rounds.items()
    )


class _Layer:
    """A gated feed-forward layer with frozen weights, as LoRA trains beside."""

    def __init__(self, torch: Any, arithmetic: Arithmetic) -> None:
        self._torch = torch
        self._cuda = arithmetic.device == "cuda"
        options = {"dtype": torch_dtype(torch, arithmetic.dtype), "device": arithmetic.device}
        self._input = torch.randn(_TOKENS, _WIDTH, **options).requires_grad_()
        self._up = torch.randn(_INNER, _WIDTH, **options)
        self._gate = torch.randn(_INNER, _WIDTH, **options)
        self._down = torch.randn(_WIDTH, _INNER, **options)

    def milliseconds(self) -> float:
        """One pass forward and back."""
        linear = self._torch.nn.functional.linear
        began = time.perf_counter()
        gated = self._torch.nn.functional.silu(linear(self._input, self._gate)) * linear(self._input, self._up)
        linear(gated, self._down).sum().backward()
        self._input.grad = None
        if self._cuda:
            self._torch.cuda.synchronize()
        return 1_000 * (time.perf_counter() - began)


def measure_apart(threads: int) -> tuple[Speed, ...]:
    """:func:`measure` in a process of its own: torch would stay in the worker's memory for good. Raises ``SetupError``
    when torch cannot be loaded or used."""
    command = (sys.executable, "-m", "antiphon.training.arithmetic", "--threads", str(threads))
    try:
        done = subprocess.run(
            die_with_parent(command),
            env={**os.environ, **environment(threads)},
            capture_output=True,
            timeout=_TIMEOUT,
            check=True,
        )
        return msgspec.json.decode(done.stdout, type=tuple[Speed, ...])
    except (subprocess.SubprocessError, msgspec.DecodeError) as error:
        said = getattr(error, "stderr", None) or b""
        last = said.decode(errors="replace").strip().splitlines()[-1:]
        raise SetupError(
            f"The speed of training on this machine cannot be measured ({''.join(last) or error}).",
            where="training",
            next_step='Mend the installation of torch: `python -c "import torch"` must work in this environment.',
        ) from error


def main(arguments: list[str] | None = None) -> int:
    """Measure and print the speeds as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m antiphon.training.arithmetic", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("--threads", type=int, default=2)
    sys.stdout.buffer.write(msgspec.json.encode(measure(parser.parse_args(arguments).threads)) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
