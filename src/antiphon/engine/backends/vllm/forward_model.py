"""Predicts the seconds of a forward pass that computes prompts and tokens together.

One pass has a price of its own, and every token in it adds to that. The price and what tokens of running sequences
add are learnt from passes without a prompt, what a prompt's tokens add from what is left of the others: the same
recursion as for our own loop's calls (:class:`~antiphon.engine.scheduling.latency_model.CallModel`), another
composition.

Frozen: an observation gives a new model.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from antiphon.engine.scheduling.latency_model import CallModel

_PROMPT = CallModel((0.0, 0.001, 0.0002))
_TOKENS = CallModel((0.02, 0.002, 0.001))


@dataclass(frozen=True, slots=True)
class ForwardPass:
    """Contents of one pass.

    Attributes:
        sequences, context: those with one token each, and the tokens they had in all.
        prompt_tokens: of all prompts in it.
        prompt_context: for every prompt's part, its tokens times those computed before; in all.
    """

    sequences: int
    context: int
    prompt_tokens: int
    prompt_context: int


@dataclass(frozen=True, slots=True)
class ForwardModel:
    """Seconds of a pass; implements :class:`~antiphon.engine.scheduling.latency_model.StepTimes`."""

    mixed: ClassVar[bool] = True
    prompt: CallModel = field(default=_PROMPT)
    tokens: CallModel = field(default=_TOKENS)

    @property
    def step(self) -> float:
        return self.tokens.weights[0]

    @property
    def excess(self) -> float:
        return self.tokens.excess

    def feed(self, tokens: int, context: int) -> float:
        """Seconds without the fixed cost of a pass, which is paid once while a prompt may take part in any number of
        pieces."""
        _, of_token, of_context = self.prompt.weights
        return of_token * tokens + of_context * tokens * context / 1000.0

    def score(self, tokens: int, context: int) -> float:
        return self.feed(tokens, context)

    def decode(self, sequences: int, context: int) -> float:
        _, of_sequence, of_context = self.tokens.weights
        return of_sequence * sequences + of_context * context / 1000.0

    def predict(self, forward: ForwardPass) -> float:
        """Expected seconds of a whole pass."""
        return (
            self.step
            + self.decode(forward.sequences, forward.context)
            + self.prompt.weights[1] * forward.prompt_tokens
            + self.prompt.weights[2] * forward.prompt_context / 1000.0
        )

    def observe(self, forward: ForwardPass, seconds: float) -> ForwardModel:
        """The model after one more measured pass."""
        if not forward.prompt_tokens:
            return replace(self, tokens=self.tokens.observe(forward.sequences, forward.context / 1000.0, seconds))
        rest = max(seconds - self.tokens.predict(forward.sequences, forward.context / 1000.0), 0.0)
        return replace(self, prompt=self.prompt.observe(forward.prompt_tokens, forward.prompt_context / 1000.0, rest))
