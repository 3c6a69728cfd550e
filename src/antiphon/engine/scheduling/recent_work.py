"""Statistics of recent work, which decide whether batch work may delay online work."""

from __future__ import annotations

from math import exp

_REMEMBERED_SECONDS = 30.0
"""Time over which the online share is averaged."""
_REMEMBERED_SEQUENCES = 16
"""Batch sequences over which lengths are averaged."""
_GAPS_END = 0.9
"""Online share above which batch work cannot wait for gaps."""


class OnlineShare:
    """Share of the last half minute or so with online work. Owned by the step loop's thread."""

    def __init__(self, now: float) -> None:
        self.value = 0.5
        self._until = now

    def observe_turn(self, begin: float, end: float, *, online: bool) -> None:
        """Add a turn of the loop with or without online work, in seconds; the time since the previous turn was idle."""
        idle = exp((self._until - begin) / _REMEMBERED_SECONDS)
        turn = exp((begin - end) / _REMEMBERED_SECONDS)
        self.value = online + (self.value * idle - online) * turn
        self._until = end

    @property
    def leaves_gaps(self) -> bool:
        """True if batch work can wait for a time without online work."""
        return self.value <= _GAPS_END


class BatchLengths:
    """Average lengths of batch sequences. Owned by the step loop's thread."""

    def __init__(self) -> None:
        self._prompt = self._output = 0.0

    @property
    def prompt_ratio(self) -> float:
        """Prompt tokens that batch computes for each token that it generates."""
        return self._prompt / self._output if self._output else 0.0

    def add(self, prompt: int, most: int) -> None:
        """Add a batch sequence that arrives: the first one stands for all until some have ended."""
        if not self._output:
            self._prompt, self._output = float(prompt), float(most)

    def remove(self, computed: int, generated: int) -> None:
        """Add the lengths of a batch sequence that ended: prompt tokens computed (not found in the cache) and
        generated."""
        self._prompt += (computed - self._prompt) / _REMEMBERED_SEQUENCES
        self._output += (generated - self._output) / _REMEMBERED_SEQUENCES
