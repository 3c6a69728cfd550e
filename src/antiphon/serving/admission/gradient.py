"""Gradient2: how many requests an engine is given at once, found from how long they take.

Source: Netflix ``concurrency-limits``, ``Gradient2Limit``. With every window of samples::

    gradient = max(0.5, min(1, tolerance * reference / mean seconds))
    limit    = limit * (1 - smoothing) + (limit * gradient + room) * smoothing

``room`` is what may queue: the square root of the limit. A window in which less than half of the limit was in use says
nothing about it. Two things differ here:

- Where the engine tells how long a request waited inside it, the reference is the same requests' time without that
  wait. Gradient2's own reference, a long moving average of what was measured, drifts upwards with the queue as long as
  an overload lasts, and the limit follows it; it is what is left for engines that tell nothing.
- The requests of one window are of all lengths. Reference and measurement of the same requests cancel that.
"""

from __future__ import annotations

from math import sqrt

import msgspec

TOLERANCE = 1.5
"""Of engines that do not tell how long a request waited: what is measured varies by itself."""
TOLERANCE_REPORTED = 1.1
"""Of those that do: the same requests are compared."""
SMOOTHING = 0.2
LONG_WINDOWS = 600
WARM_WINDOWS = 10


class SampleWindow(msgspec.Struct, frozen=True):
    """Measurements between two adjustments.

    Attributes:
        seconds: mean, from being given to the engine to the end.
        queued: mean of the seconds of these that they waited inside the engine; ``None``: it does not tell.
        most: requests that were in the engine at once, at most.
    """

    seconds: float
    queued: float | None
    most: int


class Gradient(msgspec.Struct, frozen=True):
    """The state between two windows.

    Attributes:
        limit: requests at once.
        reference: seconds that a request takes when none waits; zero: unknown.
        windows: how many the reference was made from.
    """

    limit: float
    least: float = 1.0
    most: float = 1_000.0
    reference: float = 0.0
    windows: int = 0

    def after(self, window: SampleWindow) -> Gradient:
        """The state after one more window."""
        reference, windows = self._referred(window), min(self.windows + 1, LONG_WINDOWS)
        limit = self.limit
        if window.most >= limit / 2:
            if window.queued is None:
                without = TOLERANCE * reference
            else:
                without = TOLERANCE_REPORTED * (window.seconds - window.queued)
            gradient = max(0.5, min(1.0, without / max(window.seconds, 1e-9)))
            limit = limit * (1 - SMOOTHING) + (limit * gradient + sqrt(limit)) * SMOOTHING
            limit = max(self.least, min(self.most, limit))
        return Gradient(limit, self.least, self.most, reference, windows)

    def _referred(self, window: SampleWindow) -> float:
        """A mean of the first windows, then a long moving average that falls fast once it is far too high."""
        measured = window.seconds - (window.queued or 0.0)
        if self.windows < WARM_WINDOWS:
            return (self.reference * self.windows + measured) / (self.windows + 1)
        weight = 2 / (LONG_WINDOWS + 1)
        reference = self.reference * (1 - weight) + measured * weight
        return reference * 0.95 if reference > 2 * measured else reference
