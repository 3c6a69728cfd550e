"""How much of a trace this machine can bear. Where online work alone fills it, or does not keep its service level, a
comparison says nothing of batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from benchmarks.colocation.calibration import Calibration
from benchmarks.colocation.outcome import Outcome
from benchmarks.colocation.policies import online_only
from benchmarks.colocation.simulator import simulate
from benchmarks.colocation.traces import SCALING, Scaling, arrivals

MOST_BUSY = 0.6
"""Share of the time for which online work alone may keep the engine busy."""
LEAST_WITHIN = 0.97
"""Share of the requests that online work alone has to answer within the service level."""
NEARLY = 0.9
"""Of how busy the fullest load keeps the engine, what one with longer prompts has to reach to be taken instead."""
STEPS = 10
_SEEDS = (0, 1, 2)
SECONDS = 180.0
"""Of each window on which that is found out."""


def bearable(calibration: Calibration, trace: str, seconds: float = SECONDS) -> Scaling:
    """The declared load with shorter prompts, fewer arrivals or both, each in tenths, so that online work alone leaves
    room and keeps its service level by this machine's calibration: nearly the fullest there is, with the longest
    prompts. A tenth of both where there is none."""
    found: list[tuple[float, Scaling]] = []
    for prompt in range(STEPS, 0, -1):
        fewest, most = 0, STEPS
        while fewest < most:  # The most arrivals that it bears with these prompts.
            rate = (fewest + most + 1) // 2
            scaling = _tenths(SCALING[trace], rate, prompt)
            runs = alone(calibration, trace, scaling, seconds)
            if busy(runs) <= MOST_BUSY and within(runs) >= LEAST_WITHIN:
                fewest = rate
                found.append((busy(runs), scaling))
            else:
                most = rate - 1
    if not found:
        return _tenths(SCALING[trace], 1, 1)
    fullest = max(filled for filled, _ in found)
    nearly = [one for one in found if one[0] >= NEARLY * fullest]
    return max(nearly, key=lambda one: (one[1].prompt, one[0]))[1]


def _tenths(declared: Scaling, rate: int, prompt: int) -> Scaling:
    return replace(
        declared, rate=round(declared.rate * rate / STEPS, 4), prompt=round(declared.prompt * prompt / STEPS, 4)
    )


def alone(calibration: Calibration, trace: str, scaling: Scaling, seconds: float = SECONDS) -> list[Outcome]:
    """What the simulator's engine does with online work alone."""
    return [
        simulate(
            calibration, online_only(), arrivals(trace, seed, seconds, scaling), seconds, seed=seed, residuals=False
        )
        for seed in _SEEDS
    ]


def busy(runs: Sequence[Outcome]) -> float:
    """Share of the time for which the engine was busy."""
    return float(np.mean([run.busy for run in runs]))


def within(runs: Sequence[Outcome]) -> float:
    """Share of the requests within the service level."""
    return float(np.mean([request.within for run in runs for request in run.served]))
