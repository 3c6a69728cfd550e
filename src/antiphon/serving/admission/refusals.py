"""Refusals of an overloaded service: the moment to come back, from the measured slot release rate, and a throttle for a
tenant that does not wait for it, since each refusal costs processor time that the answers of others need."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from antiphon.core.token_bucket import MICROSECONDS, Level, Meter

SAMPLES = 64
LONGEST_WAIT = 60.0
REFUSALS = Meter("refusals", capacity=20, seconds=2.0)
"""Refusals of one tenant that are answered at once; ten a second come back."""
MAX_DELAY_SECONDS = 2.0
_MOST_TENANTS = 10_000


class SlotReleaseRate:
    """Measures the rate at which slots are released while all are taken. ``monotonic`` is the clock, in seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._ends: deque[float] = deque(maxlen=SAMPLES)
        self._promised = 0.0

    def ended(self, *, full: bool) -> None:
        """Record the release of a slot; ``full``: every one was taken."""
        if full:
            self._ends.append(self._monotonic())
        else:
            self.forget()  # this is the rate of arrivals, not of service

    def forget(self) -> None:
        """Take the rate for unknown: nothing was to be released."""
        self._ends.clear()

    @property
    def per_second(self) -> float:
        """Slots a second, zero while unknown; it falls while no slot is released."""
        if len(self._ends) < 2:
            return 0.0
        elapsed = self._monotonic() - self._ends[0]
        return (len(self._ends) - 1) / elapsed if elapsed > 0 else 0.0

    def seconds(self, places: int) -> float:
        """Seconds until so many slots have been released; zero while unknown."""
        pace = self.per_second
        return places / pace if pace else 0.0

    def retry_after(self, earliest: float) -> float:
        """Seconds after which a refused request finds room: at least ``earliest``, and one slot each after requests
        that were refused before, so that they do not come back together."""
        now, pace = self._monotonic(), self.per_second
        if not pace:
            return max(earliest, 1.0)
        self._promised = min(max(self._promised + 1 / pace, now + max(earliest, 1 / pace)), now + LONGEST_WAIT)
        return self._promised - now


class RefusalThrottle:
    """Token bucket of refusals by tenant. ``monotonic`` is the clock, in seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._levels: dict[str, Level] = {}

    def delay(self, tenant: str) -> float:
        """Count a refusal of a tenant, and return the seconds by which to delay it."""
        now = int(self._monotonic() * MICROSECONDS)
        if len(self._levels) > _MOST_TENANTS:
            drained = {each: REFUSALS.drained(level, now) for each, level in self._levels.items()}
            self._levels = {each: level for each, level in drained.items() if level.used}
        level = REFUSALS.drained(self._levels.get(tenant, Level(0.0, now, now)), now)
        seconds = REFUSALS.wait(level.used, 1, now)
        # One that gets the longest delay takes no token: later ones wait no longer for it.
        if seconds < MAX_DELAY_SECONDS:
            self._levels[tenant] = msgspec.structs.replace(level, used=level.used + 1)
        return min(seconds, MAX_DELAY_SECONDS)
