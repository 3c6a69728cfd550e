"""Limits batch requests of a server beside online ones, learnt from the latter's time to first token.

For servers whose scheduler is not ours: batch work takes less of them when fewer batch requests are there. The limit
rises by one while online requests meet their levels and falls to a part of itself when one does not (additive
increase, multiplicative decrease: Chiu and Jain 1989). Bounds in seconds are compared with directly. For a slowdown it
takes what a request would wait without batch; that is learnt from requests that met none (recursive least squares over
the prompt's length and the online requests beside it), and so that there are such ones, no batch request is sent now
and then until an online request was served alone.

Pure: no clock, no waiting.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from antiphon.engine.scheduling.latency_model import CallModel
from antiphon.engine.scheduling.service_level import DEFAULT_LEVEL, ServiceLevel

FIRST, LEAST, MOST = 2.0, 1.0, 256.0
_FALL = 0.7
_LEARNT = 8
"""Requests served alone before a slowdown is judged."""
_QUIET = 5.0
"""Seconds without an online request after which the limit only grows."""
_ALONE_EVERY = 24
"""One online request of so many, on average, starts a pause in which no batch request is sent."""
_ALONE_SECONDS = 10.0
"""Longest pause."""
_SEED = 1


@dataclass(frozen=True, slots=True)
class RequestStart:
    """An online request as it was sent.

    Attributes:
        at: seconds of a monotonic clock.
        size: characters of the prompt.
        beside: other online requests under way.
        batch: batch requests under way.
    """

    at: float
    size: int
    beside: int
    batch: int
    level: ServiceLevel


class BatchAdmission:
    """Admits batch requests to one server; ``limit`` is the number that it may have now."""

    def __init__(self) -> None:
        self.limit = FIRST
        self.online = self.batch = 0
        self._alone = CallModel((0.05, 0.0001, 0.02))
        self._last_online = float("-inf")
        self._last_fall = float("-inf")
        self._silent_until = float("-inf")
        self._chance = Random(_SEED)

    def admits(self, now: float) -> bool:
        """True if one more batch request may be sent."""
        return self.batch < int(self.limit) and now >= self._silent_until

    def batch_began(self) -> None:
        self.batch += 1

    def batch_ended(self, now: float, *, refused: bool = False) -> None:
        """A batch request is over; ``refused`` when the server said that it has too many."""
        self.batch -= 1
        if refused:
            self._fall(now, now)
        elif not self.online and now - self._last_online > _QUIET:
            self._rise()

    def online_began(self, now: float, size: int, level: ServiceLevel | None) -> RequestStart:
        """An online request is sent."""
        if not self._chance.randrange(_ALONE_EVERY):
            self._silent_until = now + _ALONE_SECONDS
        start = RequestStart(now, size, self.online, self.batch, level or DEFAULT_LEVEL)
        self.online += 1
        self._last_online = now
        return start

    def first_token(self, start: RequestStart, now: float) -> None:
        """Its first token is here."""
        waited = now - start.at
        if not start.batch and not self.batch:
            self._alone = self._alone.observe(start.size, start.beside, waited)
            self._silent_until = now
        elif self._harmed(start, waited):
            self._fall(start.at, now)
        elif start.batch >= int(self.limit) - 1:  # An unused limit is not known to be harmless.
            self._rise()

    def online_ended(self, now: float) -> None:
        """It is over, whether it was served or not."""
        self.online -= 1
        self._last_online = now

    def _harmed(self, start: RequestStart, waited: float) -> bool:
        level = start.level
        alone = self._alone.predict(start.size, start.beside)
        if level.ttft is not None and waited > level.ttft > alone:
            return True
        if level.slowdown is None:
            return False
        return self._alone.seen < _LEARNT or waited > (1.0 + level.slowdown) * alone

    def _fall(self, start: float, now: float) -> None:
        # A request sent before the last fall says nothing about its effect.
        if start >= self._last_fall:
            self.limit, self._last_fall = max(self.limit * _FALL, LEAST), now

    def _rise(self) -> None:
        self.limit = min(self.limit + 1.0 / max(self.limit, 1.0), MOST)
