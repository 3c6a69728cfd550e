"""What the work of late was like: by that it is decided whether batch may delay anybody."""

from __future__ import annotations

from math import exp

_REMEMBERED_SECONDS = 30.0
"""Time over which the share of it with somebody online is followed."""
_REMEMBERED_SEQUENCES = 16
"""Batch sequences over which their lengths are followed."""
_GAPS_END = 0.9
"""The share of time with somebody online above which batch cannot wait for gaps."""


class OnlineShare:
    """The share of the last half minute or so with somebody online. Owned by the step loop's thread."""

    def __init__(self, now: float) -> None:
        self.value = 0.5
        self._until = now

    def turned(self, begin: float, end: float, *, online: bool) -> None:
        """A turn of the loop, with or without somebody online; the time since the one before was idle. Seconds."""
        idle = exp((self._until - begin) / _REMEMBERED_SECONDS)
        turn = exp((begin - end) / _REMEMBERED_SECONDS)
        self.value = online + (self.value * idle - online) * turn
        self._until = end

    @property
    def leaves_gaps(self) -> bool:
        """Whether batch can wait for a time with nobody online."""
        return self.value <= _GAPS_END


class BatchLengths:
    """How long batch sequences are. Owned by the step loop's thread."""

    def __init__(self) -> None:
        self._prompt = self._output = 0.0

    @property
    def prompt_per_token(self) -> float:
        """Prompt tokens that batch computes for each token that it generates."""
        return self._prompt / self._output if self._output else 0.0

    def came(self, prompt: int, most: int) -> None:
        """A batch sequence came: the first one stands for all until some have ended."""
        if not self._output:
            self._prompt, self._output = float(prompt), float(most)

    def ended(self, computed: int, generated: int) -> None:
        """A batch sequence ended, of whose prompt so many tokens were computed and not found kept."""
        self._prompt += (computed - self._prompt) / _REMEMBERED_SEQUENCES
        self._output += (generated - self._output) / _REMEMBERED_SEQUENCES
