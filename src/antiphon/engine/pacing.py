"""How much batch may take now: due times from service levels, and what comes back from how they were met.

The levels' allowances are tightened by one factor, which falls with every request that was served worse than its level
though it would have been met without batch work, and rises with every other, so that in the long run the share of the
harmed is the declared one whatever the model's errors are (adaptive conformal inference, Gibbs and Candès 2021).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from math import exp, inf, log
from random import Random

from antiphon.engine.latency_model import LatencyModel
from antiphon.engine.scheduler import Budget
from antiphon.engine.service_level import DEFAULT_LEVEL, ServiceLevel
from antiphon.engine.twin import Twin

_STEP = 0.1
_FIRST, _LEAST = 0.5, 0.1
_REMEMBERED = 0.9
_LENGTHS = 64
"""So many latest lengths of outputs stand for the next ones."""
_SEED = 1
_MOST_PATIENCE = 0.25
HARMED_ABSOLUTE = 0.01
"""The share of requests that batch may make miss bounds in seconds: what a p99 leaves and a little."""
HARMED_SLOWDOWN = 0.1
"""The share of requests that batch may slow down by more than their level says: one of a few milliseconds is
slowed down by anything, and is not what batch has to stand still for."""


@dataclass(slots=True)
class _Request:
    level: ServiceLevel
    arrived: float


class Pacing:
    """One model's online requests: when their tokens are due. Owned by the step loop's thread."""

    def __init__(self, slots: int, chunk_tokens: int) -> None:
        self._twin = Twin(slots, chunk_tokens)
        self._requests: dict[int, _Request] = {}
        self._log_factor = log(_FIRST)
        self._allowance = inf
        self._lengths: deque[int] = deque(maxlen=_LENGTHS)
        self._chance = Random(_SEED)

    @property
    def factor(self) -> float:
        """What allowances are multiplied by."""
        return exp(self._log_factor)

    @property
    def patience(self) -> float:
        """Seconds that somebody who arrives may wait for a call of batch's that could be given up, whose work would be
        lost; read by other threads. Half of what the latest requests could have waited."""
        return min(self._allowance * self.factor / 2, _MOST_PATIENCE)

    def arrived(
        self, ticket: int, level: ServiceLevel | None, now: float, *, position: int, pending: int, most: int
    ) -> None:
        """An online request has arrived; see :meth:`Twin.arrive`."""
        self._requests[ticket] = _Request(level or DEFAULT_LEVEL, now)
        expected = min(most, self._chance.choice(self._lengths)) if self._lengths else most
        self._twin.arrive(ticket, now, position=position, pending=pending, most=expected)

    def advance(self, now: float, model: LatencyModel, budget: Budget) -> None:
        """Bring the twin up to now."""
        self._twin.advance(now, model, budget)

    def due(
        self, ticket: int, emitted: int, first_token: float | None, model: LatencyModel, budget: Budget
    ) -> tuple[float, float]:
        """When a request's next token is due, and until when batch may hold it up."""
        request = self._requests[ticket]
        alone = self.alone(ticket, emitted, model, budget)
        due = request.level.due
        return (
            due(request.arrived, first_token, emitted, alone),
            due(request.arrived, first_token, emitted, alone, self.factor),
        )

    def alone(self, ticket: int, token: int, model: LatencyModel, budget: Budget) -> float:
        """When a request's token (counted from 0) would be out without batch work."""
        return self._twin.out(ticket, token, model, budget)

    def ended(
        self, ticket: int, tokens: int, first_token: float | None, now: float, model: LatencyModel, budget: Budget
    ) -> None:
        """A request has ended, with so many tokens; without a first token it says nothing about batch."""
        request = self._requests.pop(ticket, None)
        if request is None:
            return
        if first_token is not None and tokens > 0:
            level, begun = request.level, request.arrived
            alone = self.alone(ticket, tokens - 1, model, budget)
            first = self.alone(ticket, 0, model, budget)
            met = level.met(begun, first_token, now, tokens, alone)
            expected = level.met(begun, first, alone, tokens, alone)
            accepted = HARMED_SLOWDOWN if level.ttft is None and level.tpot is None else HARMED_ABSOLUTE
            # What was met against expectation counts as well: of those at the edge some fall to either side by chance.
            self._log_factor += _STEP * (accepted - (expected - met))
            self._log_factor = min(max(self._log_factor, log(_LEAST)), 0.0)
            self._lengths.append(tokens)
            allowance = level.allowance(alone - begun)
            if allowance < inf:
                before = allowance if self._allowance == inf else self._allowance
                self._allowance = _REMEMBERED * before + (1 - _REMEMBERED) * allowance
        self._twin.leave(ticket)

    def budget(self, base: Budget) -> Budget:
        """The bounds of the next step."""
        allowed = self._allowance * self.factor
        return base if allowed >= base.arrival_seconds else replace(base, arrival_seconds=allowed)
