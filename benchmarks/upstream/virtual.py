"""A server with so many slots in virtual time, and who sends it batch beside online requests.

The server takes requests in order of arrival, a slot each; beyond its slots they queue. It knows nothing of how batch
is admitted. The arrivals of a seed are the same for everyone.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import msgspec

from antiphon.engine.api.messages import Priority
from antiphon.engine.backends.remote.admission import SentRequest, UpstreamAdmission
from antiphon.engine.scheduling.service_level import ServiceLevel
from antiphon.serving.admission.gradient import Gradient, SampleWindow

SIZES = (400, 800, 1200)
"""Characters of a prompt."""
ENDLESS = 64
"""Batch requests that a sender without control has under way."""


class Load(msgspec.Struct, frozen=True):
    """A server and what is asked of it; times are seconds.

    Attributes:
        rate: online requests a second, arriving independently.
        noise: standard deviation of the logarithm of the time to a first token.
        lost: slots that the server loses after a third of the time.
        interference: share by which each other request in it slows a first token down.
    """

    slots: int = 10
    rate: float = 5.0
    seconds: float = 300.0
    warm: float = 60.0
    online_seconds: float = 0.3
    batch_seconds: float = 0.5
    noise: float = 0.02
    lost: int = 0
    interference: float = 0.0

    def first_token(self, size: int) -> float:
        return 0.05 + 0.05 * size / 400


class Outcome(msgspec.Struct, frozen=True):
    """Sorted first tokens of online requests, and batch requests that ended a second, after the warm-up."""

    waits: tuple[float, ...]
    batch: float

    def at(self, share: float) -> float:
        """A percentile of the first tokens, seconds."""
        return self.waits[min(int(len(self.waits) * share), len(self.waits) - 1)]


@dataclass(slots=True, eq=False)
class _Job:
    priority: Priority
    at: float
    size: int
    factor: float
    sent: object = None


@dataclass(slots=True)
class Server:
    """What the server has; whoever admits batch may look at it only where it is said so."""

    load: Load
    online: int = 0
    batch: int = 0
    running: int = 0
    queue: deque[_Job] = field(default_factory=deque)


class Sender:
    """Who decides about batch: by default nobody, and there is none."""

    def admits(self, server: Server, now: float) -> bool:
        return False

    def sent(self, job: _Job, now: float) -> object:
        return None

    def first_token(self, sent: object, now: float) -> None: ...

    def ended(self, sent: object, now: float) -> None: ...


class Static(Sender):
    """At most so many batch requests, whatever is online."""

    def __init__(self, most: int) -> None:
        self._most = most

    def admits(self, server: Server, now: float) -> bool:
        return server.batch < self._most


class Oracle(Sender):
    """Knows the server's slots and every request in it, and keeps so many slots free."""

    def __init__(self, free: int) -> None:
        self._free = free

    def admits(self, server: Server, now: float) -> bool:
        return server.online + server.batch < server.load.slots - self._free


class Front(Sender):
    """The admission of one process in front of the server, which sees what is sent and when it is answered."""

    def __init__(self, level: ServiceLevel, *, blind_to_online: bool = False) -> None:
        self.admission = UpstreamAdmission()
        self._level = level
        self._blind = blind_to_online

    def admits(self, server: Server, now: float) -> bool:
        return self.admission.admits(now)

    def sent(self, job: _Job, now: float) -> SentRequest | None:
        if self._blind and job.priority == "online":
            return None
        return self.admission.sent(now, job.priority, job.size, self._level)

    def first_token(self, sent: object, now: float) -> None:
        if isinstance(sent, SentRequest):
            self.admission.first_token(sent, now)

    def ended(self, sent: object, now: float) -> None:
        if isinstance(sent, SentRequest):
            self.admission.ended(sent, now)


class LoadBoard(Front):
    """The same admission in the worker, which reads every so many seconds what gateways have written of theirs."""

    def __init__(self, level: ServiceLevel, every: float) -> None:
        super().__init__(level)
        self._every = every
        self._read_at = 0.0
        self._written: list[Callable[[], None]] = []
        self._known: dict[int, SentRequest] = {}

    def admits(self, server: Server, now: float) -> bool:
        if now >= self._read_at:
            self._read_at = now + self._every
            for write in self._written:
                write()
            self._written = []
        return super().admits(server, now)

    def sent(self, job: _Job, now: float) -> SentRequest | _Job | None:
        if job.priority == "batch":
            return super().sent(job, now)
        self._written.append(lambda: self._put(job, now))
        return job

    def first_token(self, sent: object, now: float) -> None:
        if isinstance(sent, _Job):
            self._written.append(lambda: super(LoadBoard, self).first_token(self._known[id(sent)], now))
        else:
            super().first_token(sent, now)

    def ended(self, sent: object, now: float) -> None:
        if isinstance(sent, _Job):
            self._written.append(lambda: super(LoadBoard, self).ended(self._known.pop(id(sent)), now))
        else:
            super().ended(sent, now)

    def _put(self, job: _Job, now: float) -> None:
        self._known[id(job)] = sent = self.admission.sent(now, job.priority, job.size, self._level)
        sent.overdue = True
        self.admission._without_token.pop(sent)  # A first token that was not read yet is not late.


class GradientAlone(Sender):
    """Gradient2 over all requests at once, as the gate in front of an engine has it; batch gets what online leaves."""

    def __init__(self) -> None:
        self._gradient = Gradient(2.0, most=256.0)
        self._window: list[float] = []
        self._most = self._inside = 0

    def admits(self, server: Server, now: float) -> bool:
        return self._inside < int(self._gradient.limit)

    def sent(self, job: _Job, now: float) -> float:
        self._inside += 1
        self._most = max(self._most, self._inside)
        return now

    def ended(self, sent: object, now: float) -> None:
        assert isinstance(sent, float)
        self._inside -= 1
        self._window.append(now - sent)
        if len(self._window) >= 10:
            mean = sum(self._window) / len(self._window)
            self._gradient = self._gradient.after(SampleWindow(mean, None, self._most))
            self._window, self._most = [], self._inside


def play(load: Load, sender: Sender, seed: int) -> Outcome:
    """Play one seed's arrivals."""
    arrivals, noise, batches = Random(seed), Random(seed + 1), Random(seed + 2)
    server, events, number = Server(load), list[tuple[float, int, Callable[[], None]]](), 0
    now, waits, ended = 0.0, list[float](), 0

    def at(moment: float, what: Callable[[], None]) -> None:
        nonlocal number
        number += 1
        heapq.heappush(events, (moment, number, what))

    def send(job: _Job) -> None:
        job.sent = sender.sent(job, now)
        if job.priority == "online":
            server.online += 1
        else:
            server.batch += 1
        server.queue.append(job)
        take()

    def take() -> None:
        while server.queue and server.running < load.slots - (load.lost if now > load.seconds / 3 else 0):
            job = server.queue.popleft()
            server.running += 1
            first = load.first_token(job.size) * noise.lognormvariate(0.0, load.noise)
            first *= 1.0 + load.interference * (server.running - 1)
            rest = (load.online_seconds if job.priority == "online" else load.batch_seconds) * job.factor
            at(now + first, lambda job=job: show(job))  # type: ignore[misc]
            at(now + first + rest, lambda job=job: end(job))  # type: ignore[misc]

    def show(job: _Job) -> None:
        sender.first_token(job.sent, now)
        if job.priority == "online" and now > load.warm:
            waits.append(now - job.at)

    def end(job: _Job) -> None:
        nonlocal ended
        server.running -= 1
        sender.ended(job.sent, now)
        if job.priority == "online":
            server.online -= 1
        else:
            server.batch -= 1
            ended += now > load.warm
        take()

    def tick() -> None:
        at(now + 0.25, tick)

    moment = arrivals.expovariate(load.rate)
    while moment < load.seconds:
        job = _Job("online", moment, arrivals.choice(SIZES), arrivals.uniform(0.6, 1.4))
        at(moment, lambda job=job: send(job))  # type: ignore[misc]
        moment += arrivals.expovariate(load.rate)
    at(0.0, tick)
    while events[0][0] < load.seconds:
        now, _, what = heapq.heappop(events)
        what()
        while server.batch < ENDLESS and sender.admits(server, now):
            send(_Job("batch", now, batches.choice(SIZES), batches.uniform(0.6, 1.4)))
    return Outcome(tuple(sorted(waits)), ended / (load.seconds - load.warm))
