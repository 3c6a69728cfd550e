"""Tells a training that other work on the machine holds back, from processor time against time that passed.

A training takes only what others leave (``child.confine``). Beside busy neighbors that can be next to nothing for an
hour, in which its last estimate of what is left stands unchanged. Pauses are left out: they are the governor's.
"""

from __future__ import annotations

import math
from collections import deque

import msgspec

WINDOW_SECONDS = 60.0
"""Running time over which the share is taken, and how often starvation is told."""
LITTLE = 0.25
"""Share of a core below which a training counts as starved where no floor is set."""
_STEP = 1.25
"""One nice level more weighs so much less (``sched_prio_to_weight`` in the kernel)."""


class Starvation(msgspec.Struct, frozen=True):
    """A training got ``share`` of a core over the last window, and too little for ``seconds`` of running time."""

    share: float
    seconds: float

    def __str__(self) -> str:
        lasted = f"{self.seconds / 60:.0f} min" if self.seconds >= 90 else f"{self.seconds:.0f} s"
        return f"it got {self.share:.0%} of a core for {lasted}: other work on this machine holds it back"


class StarvationWatch:
    """Follows one training process.

    Args:
        floor: share of a core that it is to get; 0 where none is set.
        at, processor_seconds: a first reading: a monotonic moment, and what the process had used by then.
        window: seconds of running time over which the share is taken.
    """

    def __init__(self, floor: float, at: float, processor_seconds: float, window: float = WINDOW_SECONDS) -> None:
        self._threshold = floor or LITTLE
        self._window = window
        self._at = at
        self._was_paused = False
        self._running = 0.0
        self.begin_again(processor_seconds)

    def begin_again(self, processor_seconds: float) -> None:
        """Forget what was: from now on the process runs at another priority."""
        self._readings: deque[tuple[float, float]] = deque([(self._running, processor_seconds)])
        self._starved_since: float | None = None
        self._told_at = -math.inf

    def look(self, at: float, processor_seconds: float, paused: bool) -> Starvation | None:
        """Take a reading; what is to be told now, at most once a window."""
        if not paused and not self._was_paused:
            self._running += at - self._at
        self._at, self._was_paused = at, paused
        self._readings.append((self._running, processor_seconds))
        # The oldest reading kept is the last one from before the window.
        while len(self._readings) > 1 and self._readings[1][0] <= self._running - self._window:
            self._readings.popleft()
        since, used_before = self._readings[0]
        if paused or self._running - since < self._window:
            return None
        share = (processor_seconds - used_before) / (self._running - since)
        if share >= self._threshold:
            self._starved_since = None
            return None
        if self._starved_since is None:
            self._starved_since = since
        if self._running - self._told_at < self._window:
            return None
        self._told_at = self._running
        return Starvation(share, self._running - self._starved_since)


def nice_for(share: float) -> int:
    """The highest nice value with which a process gets this share of a core that one other at 0 wants as well."""
    if share >= 0.5:
        return 0
    return min(19, math.floor(math.log((1 - share) / share) / math.log(_STEP)))
