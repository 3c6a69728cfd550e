"""A circuit breaker: an engine that fails most of what it is asked is left alone, and then tried by one request.

Invariants:
- While it is open nobody waits for the engine, and it says when it will be tried next.
- At most one request at a time finds out whether the engine is back; what others ended with meanwhile, having begun
  before it opened, neither opens nor closes it.

States and transitions as in Nygard, "Release It!" (2nd edition, 2018), 5.2; it opens by the share of failures within a
window of time, and the time until the next try doubles with each try that fails (jittered, so that many gateways do not
try at once).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Literal

import msgspec

State = Literal["closed", "open", "half-open"]


class BreakerPolicy(msgspec.Struct, frozen=True):
    """When a breaker opens, and when it tries again.

    Attributes:
        window: seconds of outcomes that are looked at.
        least: as few outcomes say nothing.
        share: of failures among them, from which on it opens.
        first_wait: seconds until the first try; it doubles up to ``longest_wait``.
        jitter: by what share of itself a wait is made longer or shorter by chance.
    """

    window: float = 30.0
    least: int = 3
    share: float = 0.5
    first_wait: float = 1.0
    longest_wait: float = 30.0
    jitter: float = 0.2


class Ticket(msgspec.Struct, frozen=True):
    """One request that was let through: in which period of the breaker's life, and whether it is the probe."""

    period: int
    probe: bool


class BreakerStanding(msgspec.Struct, frozen=True):
    """How a breaker stands.

    Attributes:
        asked, failed: requests since the process started whose end said something about the engine, and those of them
            that failed. ``opened``: how often it opened.
        next_probe_seconds: until the next try; ``None`` while it is closed.
    """

    engine: str
    state: State
    asked: int
    failed: int
    opened: int
    next_probe_seconds: float | None


class Breaker:
    """Belongs to one engine in one event loop.

    Args:
        monotonic: seconds. ``chance``: uniform in [0, 1).
    """

    def __init__(
        self, engine: str, policy: BreakerPolicy, monotonic: Callable[[], float], chance: Callable[[], float]
    ) -> None:
        self._engine = engine
        self._policy = policy
        self._monotonic = monotonic
        self._chance = chance
        self._ended: deque[tuple[float, bool]] = deque()
        self._failures = 0
        """Of those."""
        self._period = 0
        self._opened_until: float | None = None
        self._waits = 0
        self._probing = False
        self._asked = self._failed = self._opened = 0

    def enter(self) -> Ticket | None:
        """Let one request through, or ``None``: the engine must not be asked now."""
        if self._opened_until is None:
            return Ticket(self._period, probe=False)
        if self._probing or self._monotonic() < self._opened_until:
            return None
        self._probing = True
        return Ticket(self._period, probe=True)

    def told(self, ticket: Ticket, *, failed: bool | None) -> None:
        """How a request ended; ``None`` when that says nothing about the engine (its caller went away, say)."""
        if failed is not None:
            self._asked += 1
            self._failed += failed
        if ticket.period != self._period:
            return
        if ticket.probe:
            self._probing = False
            if failed:
                self._open()
            elif failed is False:
                self._close()
            return
        if failed is None or self._opened_until is not None:
            return
        now = self._monotonic()
        self._ended.append((now, failed))
        self._failures += failed
        while self._ended[0][0] < now - self._policy.window:
            self._failures -= self._ended.popleft()[1]
        if len(self._ended) >= self._policy.least and self._failures >= self._policy.share * len(self._ended):
            self._open()

    @property
    def wait(self) -> float:
        """Seconds until the engine may be asked; 0 while it may be now."""
        return 0.0 if self._opened_until is None else max(0.0, self._opened_until - self._monotonic())

    @property
    def standing(self) -> BreakerStanding:
        """How it stands now."""
        state: State = "closed" if self._opened_until is None else "half-open" if self._probing else "open"
        return BreakerStanding(
            self._engine, state, self._asked, self._failed, self._opened, None if state == "closed" else self.wait
        )

    def _open(self) -> None:
        policy = self._policy
        wait = min(policy.first_wait * 2.0**self._waits, policy.longest_wait)
        # Both bounds of a double's exponent are far away: it stops counting once the longest wait is reached.
        self._waits += wait < policy.longest_wait
        self._opened_until = self._monotonic() + wait * (1.0 + policy.jitter * (2.0 * self._chance() - 1.0))
        self._opened += 1
        self._start_period()

    def _close(self) -> None:
        self._opened_until = None
        self._waits = 0
        self._start_period()

    def _start_period(self) -> None:
        self._period += 1
        self._probing = False
        self._ended.clear()
        self._failures = 0
