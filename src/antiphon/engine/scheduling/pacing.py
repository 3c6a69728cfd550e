"""Decides by how much batch work may delay online tokens: due times from service levels, corrected by feedback.

Allowances of the service levels are tightened by a factor, one for bounds in seconds and one for slowdowns. It falls
with every request that missed its level though it would have met it without batch work, and rises with every other, so
that in the long run the share of harmed requests is the declared one whatever the model's errors are (adaptive
conformal inference, Gibbs and Candès 2021).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from dataclasses import dataclass, replace
from math import exp, inf, log
from random import Random

from antiphon.engine.scheduling.latency_model import StepTimes
from antiphon.engine.scheduling.service_level import DEFAULT_LEVEL, Factors, ServiceLevel
from antiphon.engine.scheduling.state import SequenceView, StepBudget
from antiphon.engine.scheduling.twin import Twin

_MOST_POINTS = 8192
"""A minute or more of a busy engine."""


class WorkClock:
    """A monotonic, piecewise linear map between time and work; both are seconds since the same beginning."""

    def __init__(self) -> None:
        self._times = [0.0]
        self._works = [0.0]

    def observe(self, begin: float, end: float, predicted: float) -> None:
        """A call ran from ``begin`` to ``end``. Calls come in order and do not overlap."""
        begin = max(begin, self._times[-1])
        if end <= begin:
            return
        if begin > self._times[-1]:
            self._add(begin, self._works[-1] + begin - self._times[-1])
        self._add(end, self._works[-1] + predicted)

    def work(self, time: float) -> float:
        """Seconds of work done by a moment."""
        return _mapped(self._times, self._works, time, bisect_right(self._times, time))

    def time(self, work: float) -> float:
        """The first moment at which so much work is done."""
        return _mapped(self._works, self._times, work, bisect_left(self._works, work))

    def _add(self, time: float, work: float) -> None:
        if len(self._times) >= _MOST_POINTS:
            del self._times[: _MOST_POINTS // 2], self._works[: _MOST_POINTS // 2]
        self._times.append(time)
        self._works.append(work)


def _mapped(points: list[float], images: list[float], at: float, right: int) -> float:
    """The image of a value before ``points[right]``; outside of all points a second is a second."""
    if right == len(points):
        return images[-1] + at - points[-1]
    if right == 0:
        return images[0] - (points[0] - at)
    left = right - 1
    return images[left] + (at - points[left]) / (points[right] - points[left]) * (images[right] - images[left])


_STEP = 0.1
_FIRST, _LEAST = 0.5, 0.1
_REMEMBERED = 0.9
_LENGTHS = 64
"""Latest output lengths that stand for the next ones."""
_SEED = 1
_MOST_PATIENCE = 0.25
HARMED_SECONDS = 0.01
"""Share of requests that batch work may make miss bounds in seconds: the rest of a p99."""
HARMED_SLOWDOWN = 0.1
"""Share of requests that batch work may slow down by more than their level says: anything slows down a request of a few
milliseconds, and batch need not stop for it."""


class Factor:
    """A tightening factor that follows the share of harmed requests; ``accepted`` is the share that may be harmed."""

    def __init__(self, accepted: float) -> None:
        self._accepted = accepted
        self._log = log(_FIRST)

    @property
    def value(self) -> float:
        return exp(self._log)

    def follow(self, expected: bool, met: bool) -> None:
        """Adjust the factor to a request that was expected to meet its bounds or not, and did or did not. One that met
        them against expectation counts as well: at the edge, requests fall to either side by chance."""
        self._log = min(max(self._log + _STEP * (self._accepted - (expected - met)), log(_LEAST)), 0.0)


@dataclass(slots=True)
class _Request:
    level: ServiceLevel
    arrived: float
    most: int
    expected: int


class Pacer:
    """Knows when the tokens of one model's online requests are due. Owned by the step loop's thread."""

    def __init__(self, slots: int, chunk_tokens: int) -> None:
        self._twin = Twin(slots, chunk_tokens)
        self._work = WorkClock()
        self._requests: dict[int, _Request] = {}
        self._seconds = Factor(HARMED_SECONDS)
        self._slowdown = Factor(HARMED_SLOWDOWN)
        self._allowance = inf
        self._lengths: deque[int] = deque(maxlen=_LENGTHS)
        self._chance = Random(_SEED)

    @property
    def factors(self) -> Factors:
        """The factors that allowances are multiplied by."""
        return Factors(self._seconds.value, self._slowdown.value)

    @property
    def patience(self) -> float:
        """Seconds that a new online request may wait for a batch call that could be aborted, whose work would be lost;
        read by other threads. Half of the wait that recent requests could have borne."""
        return min(self._allowance / 2, _MOST_PATIENCE)

    def add(self, new: SequenceView, level: ServiceLevel | None, now: float, most: int) -> None:
        """Add an online request that has arrived, and may write ``most`` tokens; see :meth:`Twin.add`."""
        expected = self._length(0, most)
        self._requests[new.ticket] = _Request(level or DEFAULT_LEVEL, now, most, expected)
        self._twin.add(new, self._work.work(now), expected)

    def observe_call(self, begin: float, end: float, predicted: float) -> None:
        """Note that a call ran from ``begin`` to ``end``: the twin's calls would have been as fast or slow."""
        self._work.observe(begin, end, predicted)

    def advance(self, now: float, model: StepTimes, budget: StepBudget) -> None:
        """Bring the twin up to now."""
        self._twin.advance(self._work.work(now), model, budget)

    def due(
        self, ticket: int, emitted: int, first_token: float | None, model: StepTimes, budget: StepBudget
    ) -> tuple[float, float]:
        """The due time of a request's next token, and the time until which batch may delay it."""
        request = self._requests[ticket]
        if emitted >= request.expected:
            request.expected = self._length(emitted, request.most)
            self._twin.extend(ticket, request.expected)
        alone = self.time_without_batch(ticket, emitted, model, budget)
        due = request.level.due
        return (
            due(request.arrived, first_token, emitted, alone),
            due(request.arrived, first_token, emitted, alone, self.factors),
        )

    def time_without_batch(self, ticket: int, token: int, model: StepTimes, budget: StepBudget) -> float:
        """The moment at which a request's token (counted from 0) would be out without batch work."""
        return self._work.time(self._twin.token_time(ticket, token, model, budget))

    def remove(
        self, ticket: int, tokens: int, first_token: float | None, now: float, model: StepTimes, budget: StepBudget
    ) -> None:
        """Remove a request that has ended, with so many tokens; without a first token it says nothing about batch."""
        request = self._requests.pop(ticket, None)
        if request is None:
            return
        if first_token is not None and tokens > 0:
            level, begun = request.level, request.arrived
            alone = self.time_without_batch(ticket, tokens - 1, model, budget)
            first = self.time_without_batch(ticket, 0, model, budget)
            if level.in_seconds:
                expected = level.met_seconds(begun, first, alone, tokens)
                self._seconds.follow(expected, level.met_seconds(begun, first_token, now, tokens))
            if level.slowdown is not None:
                self._slowdown.follow(True, level.met_slowdown(begun, now, alone))
            self._lengths.append(tokens)
            allowance = level.allowance(alone - begun, self.factors)
            if allowance < inf:
                before = allowance if self._allowance == inf else self._allowance
                self._allowance = _REMEMBERED * before + (1 - _REMEMBERED) * allowance
        self._twin.remove(ticket)

    def _length(self, emitted: int, most: int) -> int:
        """Expected tokens of a request that has ``emitted`` some: as many as a recent request that had more."""
        longer = [length for length in self._lengths if length > emitted]
        return min(most, self._chance.choice(longer)) if longer else most

    def budget(self, base: StepBudget) -> StepBudget:
        """The bounds of the next step."""
        allowed = self._allowance
        return base if allowed >= base.arrival_seconds else replace(base, arrival_seconds=allowed)
