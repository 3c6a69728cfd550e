"""The arithmetic of a token bucket whose level is kept as how much is *used*, which runs down with time.

After the generic cell rate algorithm (ITU-T I.371): the level at a moment follows from one that was stored, so nothing
has to tick. All moments are microseconds since 1970.
"""

from __future__ import annotations

from math import inf

import msgspec

MICROSECONDS = 1_000_000
DAY = 86_400 * MICROSECONDS
_ROUNDING = 1e-6


class Level(msgspec.Struct, frozen=True):
    """Level of a bucket at a moment, and the time it was last empty."""

    used: float
    at: int
    emptied_at: int


class Meter(msgspec.Struct, frozen=True):
    """Measure of one quota.

    Attributes:
        capacity: the most that may be used at once, and what runs down in ``seconds``.
        calendar: it does so all at once when a UTC day begins, instead of steadily.
    """

    name: str
    capacity: int
    seconds: float
    calendar: bool = False

    def drained(self, level: Level, now: int) -> Level:
        """The level at a later moment; a clock that is behind changes nothing."""
        now = max(now, level.at)
        if self.calendar:
            begin = now - now % DAY
            return Level(level.used, now, level.emptied_at) if level.at >= begin else Level(0.0, now, begin)
        rate = self.capacity / (self.seconds * MICROSECONDS)
        left = level.used - rate * (now - level.at)
        if left > _ROUNDING:
            return Level(left, now, level.emptied_at)
        return Level(0.0, now, min(now, level.at + int(level.used / rate)))

    def wait(self, used: float, need: float, now: int) -> float:
        """Seconds until ``need`` more fits; infinite when it never does."""
        if need > self.capacity:
            return inf
        over = used + need - self.capacity
        if over <= _ROUNDING:
            return 0.0
        return self._until_tomorrow(now) if self.calendar else over * self.seconds / self.capacity

    def reset(self, used: float, now: int) -> float:
        """Seconds until nothing of it is used, if nothing more is."""
        if used <= 0:
            return 0.0
        return self._until_tomorrow(now) if self.calendar else used * self.seconds / self.capacity

    def _until_tomorrow(self, now: int) -> float:
        return (DAY - now % DAY) / MICROSECONDS
