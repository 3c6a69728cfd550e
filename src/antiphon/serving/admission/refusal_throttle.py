"""Delays the refusals of a tenant that asks on and on: each costs processor time that the answers of others need."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from antiphon.core.token_bucket import MICROSECONDS, Level, Meter

REFUSALS = Meter("refusals", capacity=20, seconds=2.0)
"""Refusals of one tenant that are answered at once; ten a second come back."""
MAX_DELAY_SECONDS = 2.0
_MOST_TENANTS = 10_000


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
