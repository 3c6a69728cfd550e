"""How long a step will take, learnt while serving.

Recursive least squares with exponential forgetting (Haykin, *Adaptive Filter Theory*, ch. 10) over
(1, decoding sequences, prefill tokens, thousands of context tokens read). Frozen: an observation gives a new model.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

_PRIOR = (0.003, 0.003, 0.0024, 0.0005)
_FORGETTING = 0.99
_WIDEST = 1e3


def _initial_covariance() -> NDArray[np.float64]:
    return np.diag([1e-2, 1e-2, 1e-2, 1e-2])


@dataclass(frozen=True, slots=True)
class StepShape:
    """What a step does: sequences that decode together, tokens prefilled in calls of their own, context tokens read."""

    decodes: int
    prefill_tokens: int
    context_tokens: int


@dataclass(frozen=True, slots=True)
class LatencyModel:
    """``weights`` are seconds per unit of (step, decoding sequence, prefill token, thousand context tokens)."""

    weights: tuple[float, float, float, float] = _PRIOR
    covariance: NDArray[np.float64] = field(default_factory=_initial_covariance)

    def predict(self, shape: StepShape) -> float:
        """Seconds; never negative, and 0 for an empty step."""
        if not shape.decodes and not shape.prefill_tokens:
            return 0.0
        base, decode, prefill, context = self.weights
        seconds = (
            base + decode * shape.decodes + prefill * shape.prefill_tokens + context * shape.context_tokens / 1000.0
        )
        return max(seconds, 0.0)

    def observe(self, shape: StepShape, seconds: float) -> LatencyModel:
        """The model after one more measured step."""
        features = np.array([1.0, shape.decodes, shape.prefill_tokens, shape.context_tokens / 1000.0])
        spread = self.covariance @ features
        gain = spread / (_FORGETTING + float(features @ spread))
        weights = np.array(self.weights) + gain * (seconds - float(features @ np.array(self.weights)))
        covariance = (self.covariance - np.outer(gain, spread)) / _FORGETTING
        # A direction that is not excited for long would otherwise grow without bound and then jump.
        widest = float(np.trace(covariance))
        if widest > _WIDEST:
            covariance *= _WIDEST / widest
        # A negative cost of work would make the scheduler add work to save time.
        floor = np.maximum(weights, 0.0)
        return LatencyModel((float(floor[0]), float(floor[1]), float(floor[2]), float(floor[3])), covariance)
