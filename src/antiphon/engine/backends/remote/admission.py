"""Limits batch requests of a server beside online ones, learnt from how long requests wait for their first token.

For servers whose scheduler is not ours. A limit bounds the requests that the server has at once, online and batch
together, so that batch gets what online leaves. It is one of additive increase and multiplicative decrease (Chiu and
Jain 1989) with steps in such a ratio that a small share of requests is harmed at rest, as a quantile is tracked (Gibbs
and Candès 2021). Beside online requests those are the ones that may be harmed; after :data:`QUIET_SECONDS` without one
a second limit holds, by the first tokens of batch, so that batch waits here and not in the server. A server that
reports its queue and its memory gets no batch while either is full, and is held to no second limit.

A request is harmed that waits longer than its service level lets it beside what it would wait without batch, and longer
than the server's own noise explains. Where noise hides single requests, the mean of the latest is held to the level as
well. What a request would wait is learnt from requests that met no batch (recursive least squares over the prompt's
length and the other requests); so that there are such ones, batch pauses for a hundredth of the time.

Invariants:
- Online requests are never held back.
- There is always one batch request, or one within :data:`HELD_SECONDS`: none starves. It is the only one where nothing
  is known: before anything was learnt, after an error of the server until it serves again, while an online request
  waits longer than it may, and when a server that reports its state has ceased to.

Pure: no clock, no waiting.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log

import msgspec

from antiphon.core.errors import AntiphonError, EngineError, OverloadedError, UnavailableError
from antiphon.engine.api.messages import Priority
from antiphon.engine.scheduling.latency_model import CallModel
from antiphon.engine.scheduling.service_level import DEFAULT_LEVEL, ServiceLevel

FIRST, LEAST, MOST = 2.0, 1.0, 256.0
HARMED, HARMED_BATCH = 0.005, 0.05
"""Shares of online and of batch requests that are harmed at rest."""
BATCH_LEVEL = ServiceLevel(slowdown=1.0)
"""Level of a batch request among no online ones: beyond it, it has waited in the server's queue."""
QUIET_SECONDS = 60.0
"""Seconds without an online request after which the limit is that of batch alone."""
REPORT_SECONDS = 5.0
"""Age at which a server's report says nothing any more."""

HELD_SECONDS = 10.0
"""Longest time without a batch request for which one waits until online requests have their first token."""

_FALL = 0.9
_LEARNT = 8
"""Requests served alone before anything is judged."""
_RECENT = 0.02
"""Weight of the latest request in means."""
_NOISE = 3.3
"""Standard deviations of what one waits alone, beyond which its own noise explains nothing."""
_MEAN_NOISE = 0.3
"""Of the same, what the mean of the latest may be off."""
_PAUSED = 0.01
"""Share of the time in which no batch request is sent, for online requests to be served alone."""
_ALONE_SECONDS, _ALONE_REQUESTS = 10.0, 24
"""Longest pause, and online requests served alone after which it ends sooner."""
_MOST_QUEUED = 2
"""Requests that wait in a server that reports them, and new ones until it reports again, at which it gets no batch;
more, in proportion, where many run."""
_FULL = 0.95
"""Share of a reported KV cache from which on the server gets no batch."""


class ServerReport(msgspec.Struct, frozen=True):
    """State that a server reports of itself: requests in it, and the share of its KV cache that is in use."""

    running: int
    waiting: int
    cache: float


@dataclass(slots=True, eq=False)
class SentRequest:
    """A request in the server.

    Attributes:
        at: seconds of a monotonic clock.
        size: characters of the prompt.
        online, batch: other requests in the server as it was sent.
        waited: seconds until its first token, once that is there.
        overdue: it has been counted as harmed before its first token.
    """

    priority: Priority
    at: float
    size: int
    online: int
    batch: int
    level: ServiceLevel
    waited: float | None = None
    overdue: bool = False


class ConcurrencyLimit:
    """A limit on requests at once at which a share ``harmed`` of them is harmed at rest."""

    def __init__(self, harmed: float) -> None:
        self.value = FIRST
        self._harmed = harmed
        self._unharmed = 0
        self._grows_fast = True
        self._last_fall = float("-inf")

    def fall(self, sent_at: float, now: float) -> None:
        """One that was sent then has been harmed; if before the last fall, it says nothing about its effect."""
        if sent_at >= self._last_fall:
            self.value = max(self.value * _FALL, LEAST)
            self._last_fall, self._grows_fast, self._unharmed = now, False, 0

    def rise(self) -> None:
        """One that used the limit has not been harmed."""
        # Twice as fast with every time that so many are unharmed as one harmed is expected among.
        self._unharmed += 1
        step = self._harmed * (1.0 - _FALL) * self.value * 2.0 ** min(self._harmed * self._unharmed, 32.0)
        self.value = min(self.value + (1.0 if self._grows_fast else min(step, 1.0)), MOST)


class UpstreamAdmission:
    """Admits batch requests to one server.

    Args:
        preempts: batch requests are taken out of the server for online ones, and not sent before those have their first
            token.
    """

    def __init__(self, *, preempts: bool = False) -> None:
        self._preempts = preempts
        self.beside_online, self.alone = ConcurrencyLimit(HARMED), ConcurrencyLimit(HARMED_BATCH)
        self.online = self.batch = 0
        self.known = True
        """False from an error of the server until it serves again."""
        self._model = CallModel((0.05, 0.0001, 0.00002))
        self._variance = 0.0
        """Of the logarithm of what requests wait alone over what the model says."""
        self._mean = 1.0
        """Of what online requests beside batch wait over what they would wait alone."""
        self._without_token: dict[SentRequest, None] = {}
        """Online requests, the oldest first."""
        self._last_online = self._last_batch = float("-inf")
        self._paused_at = self._paused_until = self._next_pause = float("-inf")
        self._in_pause = 0
        """Online requests served alone since the pause began."""
        self._report: ServerReport | None = None
        self._reported_at = float("-inf")
        self._since_report = 0

    def limit(self, now: float) -> int:
        """Requests that the server may have for one more of batch to be sent."""
        return int((self.alone if self._quiet(now) else self.beside_online).value)

    def admits(self, now: float) -> bool:
        """True if one more batch request may be sent."""
        if now < self._paused_until:
            return False
        if self._preempts and self._without_token and now - self._last_batch < HELD_SECONDS:
            return False
        if self.batch < LEAST:
            return True
        if self._blind(now):
            return False
        if self._report is not None:
            more = max(_MOST_QUEUED, self._report.running // 4)
            if self._report.waiting + max(self._since_report, 0) >= more or self._report.cache >= _FULL:
                return False
            if self._quiet(now):
                return True  # Its queue is known, and nothing else is harmed.
        return self._learnt and self.online + self.batch < self.limit(now)

    def sent(self, now: float, priority: Priority, size: int, level: ServiceLevel | None) -> SentRequest:
        """A request is sent."""
        request = SentRequest(priority, now, size, self.online, self.batch, level or DEFAULT_LEVEL)
        if priority == "online":
            if now >= max(self._next_pause, self._paused_until):
                self._paused_at, self._paused_until, self._in_pause = now, now + _ALONE_SECONDS, 0
                # While nothing has been learnt, half of the time.
                self._next_pause = self._paused_until + _ALONE_SECONDS / (_PAUSED if self._learnt else 1.0)
            self.online += 1
            self._last_online = now
            self._without_token[request] = None
        else:
            self.batch += 1
            self._last_batch = now
            self._since_report += 1
        return request

    def first_token(self, request: SentRequest, now: float) -> None:
        """Its first token is here."""
        request.waited = now - request.at
        self.known = True
        self._without_token.pop(request, None)
        if request.priority == "online":
            if not request.batch and not self.batch:
                self._learn(request, request.waited, now)
            elif self._learnt:
                self._judge(request, request.waited, now)
        elif not self.online and not request.online:
            if not request.batch and self.batch == 1:  # No other has come meanwhile, as far as it can be seen.
                self._learn(request, request.waited, now)
            elif self._learnt and self._quiet(now):
                self._judge_batch(request, request.waited, now)

    def ended(self, request: SentRequest, now: float, failure: AntiphonError | None = None) -> None:
        """It is over, with an error or without one."""
        self._without_token.pop(request, None)
        if request.priority == "online":
            self.online -= 1
            self._last_online = now
        else:
            self.batch -= 1
            self._last_batch = now
            self._since_report -= 1
        if isinstance(failure, OverloadedError):
            self.beside_online.fall(request.at, now)
            self.alone.fall(request.at, now)
        elif isinstance(failure, UnavailableError | EngineError):
            self.known = False

    def reported(self, report: ServerReport, now: float) -> None:
        """The server has told its state."""
        self._report, self._reported_at, self._since_report = report, now, 0

    @property
    def _learnt(self) -> bool:
        return self._model.seen >= _LEARNT

    def _quiet(self, now: float) -> bool:
        return not self.online and now - self._last_online > QUIET_SECONDS

    def _blind(self, now: float) -> bool:
        """True where the server's state is not known, or is known to be bad."""
        if self._report is not None and now - self._reported_at > REPORT_SECONDS:
            return True
        oldest = next(iter(self._without_token), None)
        if oldest is not None and self._learnt and oldest.batch and now - oldest.at > self._allowed(oldest):
            if not oldest.overdue:
                oldest.overdue = True
                self.beside_online.fall(oldest.at, now)
            return True
        return not self.known

    def _learn(self, request: SentRequest, waited: float, now: float) -> None:
        """It met no batch."""
        if self._learnt:
            noise = log(max(waited, 1e-6) / max(self._expected(request), 1e-6))
            weight = max(_RECENT, 1.0 / (self._model.seen - _LEARNT + 2))
            self._variance += weight * (noise * noise - self._variance)
        self._model = self._model.observe(request.size, request.online * request.size, waited)
        self._in_pause += request.priority == "online"
        if self._in_pause >= _ALONE_REQUESTS and now < self._paused_until:
            self._paused_until = now
            self._next_pause = now + max((now - self._paused_at) / _PAUSED, _ALONE_SECONDS)

    def _judge(self, request: SentRequest, waited: float, now: float) -> None:
        """An online request met batch."""
        slowdown, allowed = request.level.slowdown, self._allowed(request)
        # No more than what is allowed: one that is harmed must not count twice.
        self._mean += _RECENT * (min(waited, allowed) / max(self._expected(request), 1e-6) - self._mean)
        if slowdown is not None and self._mean > 1.0 + max(slowdown, _MEAN_NOISE * self._variance**0.5):
            self._mean = 1.0
            self.beside_online.fall(request.at, now)
        elif waited > allowed:
            self.beside_online.fall(request.at, now)
        elif request.online + request.batch + 1 >= int(self.beside_online.value):
            self.beside_online.rise()  # An unused limit is not known to be harmless.

    def _judge_batch(self, request: SentRequest, waited: float, now: float) -> None:
        """A batch request met others of batch alone."""
        if waited > self._allowed(request, BATCH_LEVEL):
            self.alone.fall(request.at, now)
        elif request.batch + 1 >= int(self.alone.value):
            self.alone.rise()

    def _expected(self, request: SentRequest) -> float:
        """Seconds until its first token without batch."""
        return self._model.predict(request.size, request.online * request.size)

    def _allowed(self, request: SentRequest, level: ServiceLevel | None = None) -> float:
        """Seconds that a request may wait for its first token."""
        level = level or request.level
        alone, noise = self._expected(request), exp(_NOISE * self._variance**0.5)
        bounds = [float("inf")]
        if level.ttft is not None:
            bounds.append(max(level.ttft, noise * alone))
        if level.slowdown is not None:
            bounds.append(max(1.0 + level.slowdown, noise) * alone)
        return min(bounds)
