"""Arrivals: windows of two production traces, scaled to one small machine, and the batch work beside them.

Scaling is declared in :class:`Scaling` and is the same for every policy. The rate is scaled by keeping each arrival
with the same probability (seeded), which leaves bursts and silences where and as long as they were; stretching time
would turn a burst of the code trace into minutes. A seed is a window's offset and the draw of the thinning.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent
TRACES = ("conv", "code")
FIRST, LAST = 1200.0, 2400.0
"""Seconds of the original trace that the shipped sample covers."""

LONGEST_OUTPUT = 128
LONGEST_PROMPT = 1024 - LONGEST_OUTPUT
BATCH_PROMPT_TOKENS = 256
BATCH_OUTPUT_TOKENS = 64
BATCH_IN_FLIGHT = 32
_WORDS = (
    "time year people way day man thing woman life child world school state family student group country problem "
    "hand part place case week company system program question work government number night point home water room "
    "mother area money story fact month lot right study book eye job word business issue side kind head house "
    "service friend father power hour game line end member law car city name president team minute idea body back"
)
WORDS = tuple(_WORDS.split())


@dataclass(frozen=True, slots=True)
class Request:
    """One request of forced length. ``at`` is in seconds after the window's begin; a first token counts as output."""

    at: float
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Scaling:
    """How a production trace becomes a load that one small machine can bear.

    Attributes:
        rate: share of the arrivals that are kept.
        prompt, output: factors of the lengths, which are at least 1 and at most ``LONGEST_*``.
    """

    rate: float = 0.2
    prompt: float = 0.1
    output: float = 0.25


SCALING = {"conv": Scaling(), "code": Scaling()}


def arrivals(trace: str, seed: int, seconds: float, scaling: Scaling | None = None) -> tuple[Request, ...]:
    """The online requests of one window.

    Args:
        trace: ``conv`` or ``code``.
        seed: 0, 1, 2, …; window ``seed`` begins where window ``seed - 1`` of six minutes ended, modulo the sample.
        seconds: the window's length, at most that of the sample.

    Raises:
        ValueError: the trace is unknown or the window longer than the sample.
    """
    if trace not in TRACES:
        raise ValueError(f"No trace {trace!r}; there are {', '.join(TRACES)}.")
    if not 0 < seconds <= LAST - FIRST:
        raise ValueError(f"A window has at most {LAST - FIRST:.0f} s, not {seconds}.")
    scaling = scaling or SCALING[trace]
    begin = FIRST + (seed * 360.0) % (LAST - FIRST - seconds + 1)
    kept = np.random.default_rng([seed, TRACES.index(trace)])
    requests = []
    with (FOLDER / f"azure_2023_{trace}.csv").open() as lines:
        for row in csv.DictReader(lines):
            at = int(row["milliseconds"]) / 1000.0 - begin
            if not 0 <= at < seconds or kept.random() >= scaling.rate:
                continue
            prompt = round(int(row["prompt_tokens"]) * scaling.prompt)
            output = round(int(row["output_tokens"]) * scaling.output)
            requests.append(Request(at, min(max(prompt, 1), LONGEST_PROMPT), min(max(output, 1), LONGEST_OUTPUT)))
    return tuple(requests)


def pieces(
    trace: str, seeds: Sequence[int], seconds: float, most: float, scaling: Scaling
) -> dict[int, tuple[Request, ...]]:
    """Windows of ``seconds`` cut into pieces of at most ``most`` seconds, by number; a request belongs to the piece in
    which it arrives. Every seed's first piece comes before the second ones: who runs a part has of each seed.
    """
    count = ceil(seconds / most)
    wholes = {seed: arrivals(trace, seed, seconds, scaling) for seed in seeds}
    found = {}
    for piece in range(count):
        begin, end = piece * seconds / count, (piece + 1) * seconds / count
        for seed, whole in wholes.items():
            found[seed * count + piece] = tuple(
                replace(request, at=request.at - begin) for request in whole if begin <= request.at < end
            )
    return found


def prompt_text(tokens: int, number: int) -> str:
    """A prompt of exactly ``tokens`` tokens for the base model, different from its first word on for each number.

    Every word of ``WORDS`` is one token of SmolLM2's vocabulary after a space, and so is the first.
    """
    draw = np.random.default_rng([number, tokens])
    return "".join(" " + WORDS[index] for index in draw.integers(len(WORDS), size=tokens))
