"""How fast places come free, measured, and from it when somebody who is refused may come back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

SAMPLES = 64
LONGEST_WAIT = 60.0


class Drain:
    """The pace at which places come free while all are taken. ``monotonic`` is the clock, in seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._ends: deque[float] = deque(maxlen=SAMPLES)
        self._promised = 0.0

    def ended(self, *, full: bool) -> None:
        """A place comes free; ``full``: every one was taken."""
        if full:
            self._ends.append(self._monotonic())
        else:
            self._ends.clear()  # this is the pace at which requests came, not the one at which they could be done

    @property
    def per_second(self) -> float:
        """Places a second, zero while it is not known; what stands still gets slower by it."""
        if len(self._ends) < 2:
            return 0.0
        elapsed = self._monotonic() - self._ends[0]
        return (len(self._ends) - 1) / elapsed if elapsed > 0 else 0.0

    def seconds(self, places: int) -> float:
        """How long it takes until so many places have come free; zero while that is not known."""
        pace = self.per_second
        return places / pace if pace else 0.0

    def retry_after(self, earliest: float) -> float:
        """Seconds after which one who is refused finds room: at least ``earliest``, and after those who were refused
        before, one place each, so that they do not come back together."""
        now, pace = self._monotonic(), self.per_second
        if not pace:
            return max(earliest, 1.0)
        self._promised = min(max(self._promised + 1 / pace, now + max(earliest, 1 / pace)), now + LONGEST_WAIT)
        return self._promised - now
