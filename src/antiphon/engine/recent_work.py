"""What the work of late was like: by that the scheduler decides whether batch may delay anybody."""

from __future__ import annotations

from math import exp

_REMEMBERED_SECONDS = 30.0
"""Time over which the share of it with somebody online is followed."""
_REMEMBERED_SEQUENCES = 16
"""Batch sequences over which their lengths are followed."""


class RecentWork:
    """One model's. Owned by the step loop's thread.

    Attributes:
        online_share: of the time there was somebody online.
    """

    def __init__(self) -> None:
        self.online_share = 0.5
        self._prompt = self._output = 0.0

    @property
    def batch_prompt(self) -> float:
        """Prompt tokens that batch computes for each token that it generates."""
        return self._prompt / self._output if self._output else 0.0

    def stepped(self, since: float, begin: float, end: float, *, online: bool) -> None:
        """A step ran, with or without somebody online; the time ``since`` the one before was idle. Seconds."""
        idle = exp((since - begin) / _REMEMBERED_SECONDS)
        step = exp((begin - end) / _REMEMBERED_SECONDS)
        self.online_share = online + (self.online_share * idle - online) * step

    def batch_came(self, prompt: int, most: int) -> None:
        """A batch sequence came: the first ones stand for themselves until they have ended."""
        if not self._output:
            self._prompt, self._output = float(prompt), float(most)

    def batch_ended(self, computed: int, generated: int) -> None:
        """A batch sequence ended, of whose prompt so many tokens were computed and not found kept."""
        self._prompt += (computed - self._prompt) / _REMEMBERED_SEQUENCES
        self._output += (generated - self._output) / _REMEMBERED_SEQUENCES
