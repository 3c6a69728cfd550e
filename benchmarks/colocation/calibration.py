"""What a call of the model costs on this machine: measured by a bare loop that shares no code with the scheduler.

Two models come out of one set of measurements.

- The *envelope*: the largest affine cost that lies at or below the quickest tenth of every grid point, alpha a decode
  call, beta a decoded token, gamma a prefilled token, delta a context token read. The oracle pays this. The quickest
  tenth, because neighbors that were busy while it was measured may be quiet during a run.
- The *mean model*: a table by number of sequences and by chunk with a slope in the context, how much slower and faster
  the machine was from moment to moment (neighbors stay for seconds, so that draws alone would not show them), and the
  distribution of what is left. The simulator pays this, and what the engine's own code and callers take.

Grid points are visited in random order, round after round, so that a machine that grows slower in between does not
tilt the table. The file says how far the mean model is from the measurements.
"""

from __future__ import annotations

import platform
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import NormalDist

import msgspec
import numpy as np
from scipy.optimize import linprog

from antiphon.engine.backends.llamacpp.runtime import LlamaCpp
from antiphon.engine.execution.runtime import Layout

DECODES = (1, 2, 3, 4, 6, 8, 12, 16)
CHUNKS = (1, 4, 8, 16, 24, 32)
CONTEXTS = (32, 256, 512, 864)
RESIDUALS = 201
PACE_SECONDS = 0.5
"""How finely the machine's pace is followed."""


class Point(msgspec.Struct, frozen=True, array_like=True):
    """One grid point: sequences or tokens in the call, context tokens of one sequence before it, seconds; a tenth of
    the samples took ``quick`` or less."""

    size: int
    context: int
    mean: float
    quick: float
    samples: int


class Envelope(msgspec.Struct, frozen=True):
    """Seconds; see the module."""

    alpha: float
    beta: float
    gamma: float
    delta: float

    def least(self, steps: int, decoded: int, prefilled: int) -> float:
        """What so many decode calls and tokens take at the least, whatever context they read."""
        return self.alpha * steps + self.beta * decoded + self.gamma * prefilled


class Calibration(msgspec.Struct, frozen=True):
    """Everything the simulator and the oracle know of a machine and model.

    Attributes:
        decode, prefill: grid points.
        pace: how many times the mean calls took, in pieces of ``PACE_SECONDS`` one after another; mean 1.
        decode_residuals, prefill_residuals: ascending quantiles of measured / (mean · pace), mean 1.
        step_seconds, sequence_seconds: what the engine's own code, the socket and callers add to a turn, and for each
            sequence that it holds.
        move_seconds: keeping or restoring a state, per context token.
        residual: mean absolute relative distance of the table with its interpolation from held-out grid points.
    """

    machine: str
    model: str
    at: str
    chunk_tokens: int
    slots: int
    decode: tuple[Point, ...]
    prefill: tuple[Point, ...]
    decode_residuals: tuple[float, ...]
    prefill_residuals: tuple[float, ...]
    step_seconds: float
    sequence_seconds: float
    move_seconds: float
    envelope: Envelope
    residual: float
    pace: tuple[float, ...] = (1.0,)


def read(path: Path) -> Calibration:
    """A calibration that was written before.

    Raises:
        OSError, msgspec.MsgspecError: it cannot be read.
    """
    return msgspec.json.decode(path.read_bytes(), type=Calibration)


class Table:
    """Mean seconds of a call by interpolation: linear between sizes, linear in the context."""

    def __init__(self, points: tuple[Point, ...]) -> None:
        self._sizes = sorted({point.size for point in points})
        self._lines: list[tuple[float, float]] = []
        for size in self._sizes:
            own = [point for point in points if point.size == size]
            contexts = np.array([point.context for point in own], dtype=float)
            means = np.array([point.mean for point in own])
            slope = 0.0
            if len(own) > 1:
                slope = max(float(np.polyfit(contexts, means, 1)[0]), 0.0)
            self._lines.append((float(means.mean() - slope * contexts.mean()), slope))

    def seconds(self, size: int, context: float) -> float:
        """Of a call with ``size`` sequences (or tokens), each after ``context`` tokens."""
        sizes = self._sizes
        right = min(max(bisect_right(sizes, size), 1), len(sizes) - 1) if len(sizes) > 1 else 0
        left = max(right - 1, 0)
        low, high = (self._lines[side][0] + self._lines[side][1] * context for side in (left, right))
        if left == right:
            return max(low * size / sizes[0], 0.0)
        share = (size - sizes[left]) / (sizes[right] - sizes[left])
        return max(low + share * (high - low), 0.2 * low)


def envelope(decode: tuple[Point, ...], prefill: tuple[Point, ...]) -> Envelope:
    """The affine lower envelope: the linear programme that lifts it as far as the quickest calls allow."""
    rows = [(1.0, 1.0 * point.size, 0.0, 1.0 * point.size * point.context) for point in decode]
    rows += [(0.0, 0.0, 1.0 * point.size, 1.0 * point.context) for point in prefill]
    every = np.array(rows, dtype=float)
    points = (*decode, *prefill)
    weights = np.array([1.0 / point.mean for point in points])
    scale = np.maximum(every.max(axis=0), 1e-9)
    solved = linprog(
        -(weights @ every) / scale, A_ub=every / scale, b_ub=[point.quick for point in points], bounds=[(0, None)] * 4
    )
    if not solved.success:
        raise RuntimeError(f"The envelope cannot be fitted: {solved.message}")
    alpha, beta, gamma, delta = (float(value) for value in solved.x / scale)
    return Envelope(alpha, beta, gamma, delta)


class _Measured:
    """Seconds of calls by (kind, size, context), and in the order in which they were made."""

    def __init__(self) -> None:
        self.samples: dict[tuple[str, int, int], list[float]] = {}
        self._calls: list[tuple[float, tuple[str, int, int], float]] = []

    def time(self, key: tuple[str, int, int], call: Callable[[], object]) -> None:
        begin = time.perf_counter()
        call()
        seconds = time.perf_counter() - begin
        self.samples.setdefault(key, []).append(seconds)
        self._calls.append((begin, key, seconds))

    def points(self, kind: str) -> tuple[Point, ...]:
        found = []
        for (of, size, context), samples in sorted(self.samples.items()):
            if of == kind:
                mean, quick = float(np.mean(samples)), float(np.percentile(samples, 10))
                found.append(Point(size, context, mean, quick, len(samples)))
        return tuple(found)

    def pace(self) -> tuple[float, ...]:
        """What calls took over what such calls take on average, piece of time by piece of time."""
        taken, usual = self._pieces()
        return tuple(float(value) for value in taken[usual > 0] / usual[usual > 0])

    def ratios(self, kind: str) -> tuple[float, ...]:
        """Quantiles of measured / (mean · pace) over all calls of a kind, scaled to mean 1."""
        means = {key: np.mean(samples) for key, samples in self.samples.items()}
        taken, usual = self._pieces()
        pace = taken / np.maximum(usual, 1e-12)
        pooled = [
            seconds / (means[key] * pace[self._piece(begin)]) for begin, key, seconds in self._calls if key[0] == kind
        ]
        quantiles = np.quantile(pooled, np.linspace(0, 1, RESIDUALS))
        return tuple(float(value) for value in quantiles / quantiles.mean())

    def _pieces(self) -> tuple[np.ndarray, np.ndarray]:
        """Seconds that the calls of each piece of time took, and that they take on average."""
        means = {key: np.mean(samples) for key, samples in self.samples.items()}
        pieces = [self._piece(begin) for begin, _, _ in self._calls]
        count = pieces[-1] + 1
        taken = np.bincount(pieces, [seconds for _, _, seconds in self._calls], count)
        return taken, np.bincount(pieces, [means[key] for _, key, _ in self._calls], count)

    def _piece(self, begin: float) -> int:
        return int((begin - self._calls[0][0]) / PACE_SECONDS)


def measure(
    runtime: LlamaCpp,
    seconds: float,
    *,
    decodes: Sequence[int] = DECODES,
    chunks: Sequence[int] = CHUNKS,
    contexts: Sequence[int] = CONTEXTS,
    seed: int = 0,
) -> Calibration:
    """Measure a runtime for about ``seconds``, at least two rounds over the grid.

    The runtime's slots are empty before and after. ``decodes`` are numbers of sequences that decode together,
    ``chunks`` prompt tokens of one call, ``contexts`` what is in the KV before (multiples of the layout's chunk).
    """
    draw = np.random.default_rng(seed)
    layout = runtime.layout
    tokens = [int(token) for token in draw.integers(100, 40_000, layout.context_tokens)]
    grid = [("decode", size, context) for size in decodes for context in contexts]
    grid += [("prefill", size, context) for size in chunks for context in (0, *contexts)]
    states = {}
    for position in range(0, max(contexts), layout.chunk_tokens):
        runtime.feed(0, position, tokens[position : position + layout.chunk_tokens], False)
        if position + layout.chunk_tokens in contexts:
            states[position + layout.chunk_tokens] = runtime.copy_state(0)
    measured = _Measured()
    ends, rounds = time.monotonic() + seconds, 0
    while rounds < 2 or time.monotonic() < ends:
        for index in draw.permutation(len(grid)):
            kind, size, context = grid[index]
            if kind == "decode":
                for slot in range(size):
                    begin = time.perf_counter()
                    runtime.restore_state(slot, states[context])
                    measured.samples.setdefault(("move", 1, context), []).append(time.perf_counter() - begin)
                for after in range(3):
                    positions = [context + after] * size
                    measured.time(
                        ("decode", size, context), partial(runtime.step, range(size), positions, tokens[:size])
                    )
            else:
                runtime.drop(0)
                if context:
                    runtime.restore_state(0, states[context])
                fed = tokens[context : context + size]
                measured.time((kind, size, context), partial(runtime.feed, 0, context, fed, True))
        rounds += 1
    for slot in range(layout.slots):
        runtime.drop(slot)
    moves = [np.mean(samples) / key[2] for key, samples in measured.samples.items() if key[0] == "move"]
    from benchmarks.colocation.own_time import own_time

    step_seconds, sequence_seconds = own_time(len(runtime.vocabulary.pieces))
    return calibrated(
        measured.points("decode"),
        measured.points("prefill"),
        measured.ratios("decode"),
        measured.ratios("prefill"),
        model=runtime.description.name,
        layout=layout,
        step_seconds=step_seconds,
        sequence_seconds=sequence_seconds,
        move_seconds=float(np.mean(moves)),
        pace=measured.pace(),
    )


def calibrated(
    decode: tuple[Point, ...],
    prefill: tuple[Point, ...],
    decode_residuals: tuple[float, ...] = (1.0, 1.0),
    prefill_residuals: tuple[float, ...] = (1.0, 1.0),
    *,
    model: str,
    layout: Layout,
    step_seconds: float = 0.0,
    sequence_seconds: float = 0.0,
    move_seconds: float = 0.0,
    pace: tuple[float, ...] = (1.0,),
) -> Calibration:
    """A calibration from its grid points, with the envelope and the error of interpolation."""
    return Calibration(
        machine=platform.processor() or platform.machine(),
        model=model,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        chunk_tokens=layout.chunk_tokens,
        slots=layout.slots,
        decode=decode,
        prefill=prefill,
        decode_residuals=decode_residuals,
        prefill_residuals=prefill_residuals,
        step_seconds=step_seconds,
        sequence_seconds=sequence_seconds,
        move_seconds=move_seconds,
        envelope=envelope(decode, prefill),
        residual=held_out(decode, prefill),
        pace=pace,
    )


def held_out(decode: tuple[Point, ...], prefill: tuple[Point, ...]) -> float:
    """Mean absolute relative error at grid sizes that the table is not told: how far to trust it between them."""
    errors = []
    for points in (decode, prefill):
        sizes = sorted({point.size for point in points})
        for left_out in sizes[1:-1]:
            table = Table(tuple(point for point in points if point.size != left_out))
            errors += [
                abs(table.seconds(point.size, point.context) / point.mean - 1.0)
                for point in points
                if point.size == left_out
            ]
    return float(np.mean(errors)) if errors else 0.0


def reference() -> Calibration:
    """A machine to develop and test against without measuring: two quiet cores and the base model, rounded.

    From the speeds that ``benchmarks.engine`` recorded (500 prompt tokens a second in chunks of 32; decode steps of 5,
    16, 26 and 48 ms for 1, 4, 8 and 16 sequences). Figures that are to count need :func:`measure`.
    """
    decode = {1: 5.3, 2: 9.0, 3: 12.6, 4: 16.0, 6: 21.0, 8: 26.0, 12: 37.0, 16: 48.0}
    prefill = {1: 6.0, 4: 20.0, 8: 31.0, 16: 42.0, 24: 53.0, 32: 64.0}
    residuals = np.exp(0.08 * np.array([NormalDist().inv_cdf(share) for share in np.linspace(0.005, 0.995, RESIDUALS)]))
    quick = float(np.percentile(residuals, 10) / residuals.mean())

    def point(size: int, context: int, milliseconds: float) -> Point:
        return Point(size, context, milliseconds / 1e3, quick * milliseconds / 1e3, 0)

    every = tuple(float(value) for value in residuals / residuals.mean())
    return calibrated(
        tuple(
            point(size, context, ms + 0.0015 * size * context) for size, ms in decode.items() for context in CONTEXTS
        ),
        tuple(
            point(size, context, ms * (1 + 0.00025 * context))
            for size, ms in prefill.items()
            for context in (0, *CONTEXTS)
        ),
        every,
        every,
        model="reference",
        layout=Layout(),
        step_seconds=0.0003,
        sequence_seconds=0.00003,
        move_seconds=0.000004,
    )
