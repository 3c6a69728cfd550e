"""Limits batch requests of a server beside online ones, learnt from how long requests wait for their first token.

For servers whose scheduler is not ours. There are two limits, both on the requests that the server has at once, online
and batch together, so that batch gets what online leaves:

- Beside online requests: additive increase and multiplicative decrease (Chiu and Jain 1989), with steps in the ratio at
  which :data:`HARMED` of online requests are harmed at rest, as a quantile is tracked (Gibbs and Candès 2021). A
  request is harmed that waits longer than its service level lets it beside what it would wait without batch.
- Without online requests for :data:`QUIET_SECONDS`: the gradient of
  :mod:`~antiphon.engine.scheduling.gradient`, so that batch waits here and not in the server.

What a request would wait without batch is learnt from requests that met none (recursive least squares over the prompt's
length and the other requests); so that there are such ones, batch pauses for a hundredth of the time.

Invariants:
- Online requests are never held back.
- One batch request at a time, where nothing is known: before anything was learnt, after an error of the server until
  it serves again, while an online request waits longer than it may, and when a server that reports its state has ceased
  to.

Pure: no clock, no waiting.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from antiphon.core.errors import AntiphonError, EngineError, OverloadedError, UnavailableError
from antiphon.engine.api.messages import Priority
from antiphon.engine.scheduling.gradient import Gradient, Window
from antiphon.engine.scheduling.latency_model import CallModel
from antiphon.engine.scheduling.service_level import DEFAULT_LEVEL, ServiceLevel

FIRST, LEAST, MOST = 2.0, 1.0, 256.0
HARMED = 0.005
"""Share of online requests that are harmed at rest."""
QUIET_SECONDS = 60.0
"""Seconds without an online request after which the limit is that of batch alone."""
REPORT_SECONDS = 5.0
"""Age at which a server's report says nothing any more."""

_FALL = 0.9
_LEARNT = 8
"""Requests served alone before anything is judged."""
_PAUSED = 0.01
"""Share of the time in which no batch request is sent, for online requests to be served alone."""
_ALONE_SECONDS = 10.0
"""Longest pause."""
_WINDOW_SECONDS, _WINDOW_SAMPLES = 0.25, 10
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

    @property
    def others(self) -> int:
        return self.online + self.batch


class UpstreamAdmission:
    """Admits batch requests to one server."""

    def __init__(self) -> None:
        self.beside_online = FIRST
        self.alone = Gradient(FIRST, least=LEAST, most=MOST)
        self.online = self.batch = 0
        self.known = True
        """False from an error of the server until it serves again."""
        self._model = CallModel((0.05, 0.0001, 0.02))
        self._without_token: dict[SentRequest, None] = {}
        """Online requests, the oldest first."""
        self._grows_fast = True
        self._unharmed = 0
        self._last_online = self._last_fall = float("-inf")
        self._paused_at = self._paused_until = self._next_pause = float("-inf")
        self._report: ServerReport | None = None
        self._reported_at = float("-inf")
        self._since_report = 0
        self._window: list[tuple[float, float]] = []
        self._window_began = float("-inf")
        self._window_most = 0

    def limit(self, now: float) -> int:
        """Requests that the server may have for one more of batch to be sent."""
        return int(self.alone.limit if self._quiet(now) else self.beside_online)

    def admits(self, now: float) -> bool:
        """True if one more batch request may be sent."""
        if self._report is None and now < self._paused_until:
            return False
        if self._blind(now):
            return self.batch < LEAST
        if self._report is not None:
            more = max(_MOST_QUEUED, self._report.running // 4)
            return self._report.waiting + max(self._since_report, 0) < more and self._report.cache < _FULL
        if not self._learnt:
            return self.batch < LEAST
        return self.online + self.batch < max(self.limit(now), LEAST)

    def sent(self, now: float, priority: Priority, size: int, level: ServiceLevel | None) -> SentRequest:
        """A request is sent."""
        request = SentRequest(priority, now, size, self.online, self.batch, level or DEFAULT_LEVEL)
        if priority == "online":
            if now >= max(self._next_pause, self._paused_until) and self._report is None:
                self._paused_at, self._paused_until = now, now + _ALONE_SECONDS
                self._next_pause = self._paused_until + _ALONE_SECONDS
            self.online += 1
            self._last_online = now
            self._without_token[request] = None
        else:
            self.batch += 1
            self._since_report += 1
        self._window_most = max(self._window_most, self.online + self.batch)
        return request

    def first_token(self, request: SentRequest, now: float) -> None:
        """Its first token is here."""
        request.waited = now - request.at
        self.known = True
        self._without_token.pop(request, None)
        met_none = not request.batch and (not self.batch if request.priority == "online" else not request.online)
        if met_none:
            self._model = self._model.observe(request.size, request.others, request.waited)
            if request.priority == "online" and self._learnt and now < self._paused_until:
                self._paused_until = now
                self._next_pause = now + max((now - self._paused_at) / _PAUSED, _ALONE_SECONDS)
        elif request.priority == "online" and self._learnt:
            if request.waited > self._allowed(request):
                self._fall(request, now)
            elif request.others + 1 >= int(self.beside_online):  # An unused limit is not known to be harmless.
                self._rise()

    def ended(self, request: SentRequest, now: float, failure: AntiphonError | None = None) -> None:
        """It is over, with an error or without one."""
        self._without_token.pop(request, None)
        if request.priority == "online":
            self.online -= 1
            self._last_online = now
        else:
            self.batch -= 1
            self._since_report -= 1
        if isinstance(failure, OverloadedError):
            self._fall(request, now)
        elif isinstance(failure, UnavailableError | EngineError):
            self.known = False
        elif failure is None and request.priority == "batch" and request.waited is not None and self._quiet(now):
            self._measure(request, request.waited, now)

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
                self._fall(oldest, now)
            return True
        return not self.known

    def _allowed(self, request: SentRequest) -> float:
        """Seconds that a request may wait for its first token; a server's own noise is no harm."""
        alone = self._model.predict(request.size, request.online)
        level, noise = request.level, self._model.excess
        bounds = [float("inf")]
        if level.ttft is not None:
            bounds.append(max(level.ttft, noise * alone))
        if level.slowdown is not None:
            bounds.append(max(1.0 + level.slowdown, noise) * alone)
        return min(bounds)

    def _fall(self, request: SentRequest, now: float) -> None:
        # A request sent before the last fall says nothing about its effect.
        if request.at < self._last_fall:
            return
        self._last_fall, self._grows_fast, self._unharmed = now, False, 0
        self.beside_online = max(self.beside_online * _FALL, LEAST)
        if request.priority == "batch":
            self.alone = msgspec.structs.replace(self.alone, limit=max(self.alone.limit * _FALL, LEAST))

    def _rise(self) -> None:
        # Twice as fast with every time that so many are unharmed as one harmed is expected among.
        self._unharmed += 1
        step = HARMED * (1.0 - _FALL) * self.beside_online * 2.0 ** min(HARMED * self._unharmed, 32.0)
        self.beside_online = min(self.beside_online + (1.0 if self._grows_fast else min(step, 1.0)), MOST)

    def _measure(self, request: SentRequest, waited: float, now: float) -> None:
        """One batch request among no online ones has been served."""
        queued = max(waited - self._model.predict(request.size, 0), 0.0)
        self._window.append((now - request.at, queued))
        if now - self._window_began < _WINDOW_SECONDS or len(self._window) < _WINDOW_SAMPLES:
            return
        count = len(self._window)
        seconds, waits = sum(whole for whole, _ in self._window), sum(wait for _, wait in self._window)
        self.alone = self.alone.after(Window(seconds / count, waits / count, self._window_most))
        self._window, self._window_began, self._window_most = [], now, self.online + self.batch
