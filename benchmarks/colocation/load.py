"""How much of a trace this machine can bear: where online work alone fills it, a comparison says nothing of batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from benchmarks.colocation.calibration import Calibration
from benchmarks.colocation.policies import online_only
from benchmarks.colocation.simulator import simulate
from benchmarks.colocation.traces import SCALING, Scaling, arrivals

MOST_BUSY = 0.6
"""Share of the time for which online work alone may keep the engine busy."""
_STEPS = 20
_SEEDS = (0, 1, 2)
SECONDS = 180.0
"""Of each window on which that is found out."""


def bearable(calibration: Calibration, trace: str, seconds: float = SECONDS) -> Scaling:
    """The declared scaling of a trace, with fewer arrivals where this machine needs that, by its calibration."""
    declared = SCALING[trace]
    for left in range(_STEPS, 1, -1):
        scaling = replace(declared, rate=round(declared.rate * left / _STEPS, 4))
        if busy(calibration, trace, scaling, seconds) <= MOST_BUSY:
            return scaling
    return scaling


def busy(calibration: Calibration, trace: str, scaling: Scaling, seconds: float = SECONDS) -> float:
    """Share of the time for which the simulator's engine is busy with online work alone."""
    runs = [
        simulate(
            calibration, online_only(), arrivals(trace, seed, seconds, scaling), seconds, seed=seed, residuals=False
        )
        for seed in _SEEDS
    ]
    return float(np.mean([run.busy for run in runs]))
