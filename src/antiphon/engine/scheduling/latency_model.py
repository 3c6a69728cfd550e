"""Predicts the seconds of the engine's calls, learnt while serving.

Prompts are computed in calls of their own and all decoding sequences in one, so each kind of call is learnt by itself,
from calls measured one by one: recursive least squares with exponential forgetting (Haykin, *Adaptive Filter Theory*,
ch. 10; in information form), over (1, tokens, tokens × thousand context tokens) for a prompt's chunk and over
(1, sequences, thousand context tokens read) for a decode call. A quantile of measured over predicted seconds moves with
each call (adaptive conformal inference, Gibbs and Candès 2021), so that it holds whatever the errors' distribution.

Frozen: an observation gives a new model.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar, Protocol

_FORGETTING = 0.98
"""Remembers about fifty calls: two seconds of a busy engine."""
_RIDGE = 0.05
"""Strength, in squared units, with which weights keep their values in directions without observations."""
_OUTLIER = 3.0
"""Cap of a call's seconds, in multiples of the prediction: one pause of the machine does not change the model, and a
machine that has become slower is learnt all the same."""
_TRUSTED = 8
"""Calls after which a prediction is worth comparing with."""
_COVERED = 0.9
"""Share of calls that shall not exceed the upper prediction."""
_STEP = 0.02

Weights = tuple[float, float, float]
Matrix = tuple[float, float, float, float, float, float]
"""A symmetric 3 × 3 matrix: its upper triangle, row by row. Three weights are few enough for plain arithmetic, which
costs a third of what array operations on such small arrays do."""

_FEED: Weights = (0.002, 0.002, 0.0005)
_SCORE: Weights = (0.002, 0.004, 0.0005)
_DECODE: Weights = (0.005, 0.003, 0.001)


@dataclass(frozen=True, slots=True)
class CallModel:
    """One kind of call. ``weights`` are seconds per unit of what it is predicted from, never negative: a negative cost
    of work would make a scheduler add work to save time.

    Attributes:
        information, evidence: the forgetting sums of x xᵀ and of x · seconds. In this form the recursion stays stable
            when one kind of call is all there is for long.
        excess: calls take at most so many times the predicted seconds in nine of ten cases; at least 1.
        seen: calls observed.
    """

    weights: Weights
    information: Matrix = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    evidence: Weights = (0.0, 0.0, 0.0)
    excess: float = 1.25
    seen: int = 0

    def predict(self, x1: float, x2: float) -> float:
        """Expected seconds."""
        w0, w1, w2 = self.weights
        return w0 + w1 * x1 + w2 * x2

    def observe(self, x1: float, x2: float, seconds: float) -> CallModel:
        """The model after one more measured call."""
        expected = self.predict(x1, x2)
        excess = self.excess
        if self.seen >= _TRUSTED and expected > 0:
            seconds = min(seconds, _OUTLIER * expected)
            # Up by nine parts when a call took longer, down by one when it did not: at rest one in ten does.
            excess += _STEP * (_COVERED if seconds > excess * expected else _COVERED - 1.0)
        a, b, c, d, e, f = (_FORGETTING * value for value in self.information)
        information = (a + 1.0, b + x1, c + x2, d + x1 * x1, e + x1 * x2, f + x2 * x2)
        e0, e1, e2 = (_FORGETTING * value for value in self.evidence)
        evidence = (e0 + seconds, e1 + x1 * seconds, e2 + x2 * seconds)
        return CallModel(
            _solved(information, evidence, self.weights),
            information,
            evidence,
            min(max(excess, 1.0), _OUTLIER),
            self.seen + 1,
        )


def _solved(information: Matrix, evidence: Weights, before: Weights) -> Weights:
    """The weights that fit the evidence best, and stay what they were where it says nothing."""
    a, b, c, d, e, f = information
    a, d, f = a + _RIDGE, d + _RIDGE, f + _RIDGE
    r0, r1, r2 = (found + _RIDGE * weight for found, weight in zip(evidence, before, strict=True))
    # Cramer's rule; the ridge keeps the determinant away from 0.
    m0, m1, m2 = d * f - e * e, c * e - b * f, b * e - c * d
    determinant = a * m0 + b * m1 + c * m2
    w0 = r0 * m0 + r1 * m1 + r2 * m2
    w1 = r0 * m1 + r1 * (a * f - c * c) + r2 * (b * c - a * e)
    w2 = r0 * m2 + r1 * (b * c - a * e) + r2 * (a * d - b * b)
    return max(w0 / determinant, 0.0), max(w1 / determinant, 0.0), max(w2 / determinant, 0.0)


class StepTimes(Protocol):
    """Predicted seconds of a step by its contents; a port because our own step loop and vLLM's passes differ.

    Implemented by :class:`LatencyModel` and :class:`~antiphon.engine.backends.vllm.forward_model.ForwardModel`.

    Attributes:
        mixed: prompts and tokens are computed in one call, so that what is added to a step costs less than a step of
            its own.
        step: fixed cost of a step.
        excess: in nine of ten steps the measured seconds are at most so many times the predicted ones.
    """

    @property
    def mixed(self) -> bool: ...

    @property
    def step(self) -> float: ...

    @property
    def excess(self) -> float: ...

    def feed(self, tokens: int, context: int) -> float:
        """Seconds that tokens of one prompt add, of which ``context`` tokens are computed already."""
        ...

    def score(self, tokens: int, context: int) -> float:
        """As :meth:`feed`, with the logits after each token."""
        ...

    def decode(self, sequences: int, context: int) -> float:
        """Seconds that one token each of several sequences adds, which have ``context`` tokens in all."""
        ...


@dataclass(frozen=True, slots=True)
class LatencyModel:
    """Seconds of the kinds of call that a step is made of; implements :class:`StepTimes`."""

    mixed: ClassVar[bool] = False
    step: ClassVar[float] = 0.0

    feeding: CallModel = field(default_factory=lambda: CallModel(_FEED))
    decoding: CallModel = field(default_factory=lambda: CallModel(_DECODE))
    scoring: CallModel = field(default_factory=lambda: CallModel(_SCORE))

    def feed(self, tokens: int, context: int) -> float:
        """Seconds of a call that computes so many tokens of one sequence, which has ``context`` tokens already."""
        return self.feeding.predict(tokens, tokens * context / 1000.0) if tokens else 0.0

    def score(self, tokens: int, context: int) -> float:
        """As :meth:`feed`, with the logits after each token and their use."""
        return self.scoring.predict(tokens, tokens * context / 1000.0) if tokens else 0.0

    def decode(self, sequences: int, context: int) -> float:
        """Seconds of a call that computes one token each of several sequences, which have ``context`` tokens in all."""
        return self.decoding.predict(sequences, context / 1000.0) if sequences else 0.0

    @property
    def excess(self) -> float:
        """In nine of ten calls the measured seconds are at most so many times the predicted ones."""
        return max(self.feeding.excess, self.decoding.excess)

    def observe_feed(self, tokens: int, context: int, seconds: float) -> LatencyModel:
        """The model after one more measured call that computed a prompt's chunk."""
        return replace(self, feeding=self.feeding.observe(tokens, tokens * context / 1000.0, seconds))

    def observe_score(self, tokens: int, context: int, seconds: float) -> LatencyModel:
        """The model after one more measured call that computed a prompt's chunk with all its logits."""
        return replace(self, scoring=self.scoring.observe(tokens, tokens * context / 1000.0, seconds))

    def observe_decode(self, sequences: int, context: int, seconds: float) -> LatencyModel:
        """The model after one more measured decode call."""
        return replace(self, decoding=self.decoding.observe(sequences, context / 1000.0, seconds))
