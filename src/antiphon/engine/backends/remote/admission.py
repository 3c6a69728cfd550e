"""How many batch requests a server may have beside online ones, learnt from how long those wait for their first token.

For servers whose scheduler is not ours: whatever they do inside, batch takes less of it when fewer batch requests are
there. The limit rises by one while online requests are served as they should be and falls to a part of itself when
one is not (additive increase, multiplicative decrease: Chiu and Jain 1989). Bounds in seconds are compared with
directly. For a slowdown it takes what a request would wait without batch; that is learnt from requests that met none
(recursive least squares over the prompt's length and the online requests beside it), and so that there are such ones,
no batch request is begun now and then until an online request was served alone.

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
"""Seconds without an online request after which batch is limited by nothing but its own growth."""
_ALONE_EVERY = 24
"""One online request of so many, on average, begins a time in which no batch request is begun."""
_ALONE_SECONDS = 10.0
"""Its longest."""
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
    """One server's. ``limit`` is how many batch requests it may have now."""

    def __init__(self) -> None:
        self.limit = FIRST
        self.online = self.batch = 0
        self._alone = CallModel((0.05, 0.0001, 0.02))
        self._last_online = float("-inf")
        self._last_fall = float("-inf")
        self._silent_until = float("-inf")
        self._chance = Random(_SEED)

    def admits(self, now: float) -> bool:
        """Whether one more batch request may be sent."""
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
        begun = RequestStart(now, size, self.online, self.batch, level or DEFAULT_LEVEL)
        self.online += 1
        self._last_online = now
        return begun

    def first_token(self, begun: RequestStart, now: float) -> None:
        """Its first token is here."""
        waited = now - begun.at
        if not begun.batch and not self.batch:
            self._alone = self._alone.observe(begun.size, begun.beside, waited)
            self._silent_until = now
        elif self._harmed(begun, waited):
            self._fall(begun.at, now)
        elif begun.batch >= int(self.limit) - 1:  # What was not used is not known to be harmless.
            self._rise()

    def online_ended(self, now: float) -> None:
        """It is over, whether it was served or not."""
        self.online -= 1
        self._last_online = now

    def _harmed(self, begun: RequestStart, waited: float) -> bool:
        level = begun.level
        alone = self._alone.predict(begun.size, begun.beside)
        if level.ttft is not None and waited > level.ttft > alone:
            return True
        if level.slowdown is None:
            return False
        return self._alone.seen < _LEARNT or waited > (1.0 + level.slowdown) * alone

    def _fall(self, begun: float, now: float) -> None:
        # Who was sent before the last fall says nothing of what came of it.
        if begun >= self._last_fall:
            self.limit, self._last_fall = max(self.limit * _FALL, LEAST), now

    def _rise(self) -> None:
        self.limit = min(self.limit + 1.0 / max(self.limit, 1.0), MOST)
