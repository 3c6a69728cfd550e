"""The engine's main loop: drain arrivals, plan, run, tell. It runs in a thread of its own and never waits for callers.

Invariants:
- Arrivals and cancellations are drained before every step, so an arrival waits for at most the step in flight and a
  cancelled request's slot is free before the next one.
- Between two calls of batch work, and in the middle of one, the loop turns to an online request that has arrived.
- A lane that leaves is closed here, after its last sequence has ended, so no runtime is freed while it computes.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf
from typing import Any, Protocol

from antiphon.core.errors import AntiphonError, EngineError
from antiphon.engine.api.messages import EngineLoad
from antiphon.engine.execution.counters import Counters
from antiphon.engine.execution.executor import Emission, Lane
from antiphon.engine.scheduling.recent_work import OnlineShare
from antiphon.engine.scheduling.scheduler import Budget

_log = logging.getLogger("antiphon.engine")


class ServedLane(Protocol):
    """One model at work: :class:`~antiphon.engine.execution.executor.Lane`, or one that makes vectors. ``add`` takes
    its own kind of work, which has a ``request`` with a ``priority``."""

    @property
    def name(self) -> str: ...
    @property
    def slots(self) -> int: ...
    @property
    def idle(self) -> bool: ...
    @property
    def serves_online(self) -> bool: ...
    @property
    def kept_on_disk(self) -> int: ...
    @property
    def resting(self) -> bool: ...
    @property
    def counters(self) -> Counters: ...
    @property
    def latest_step(self) -> tuple[float, float]:
        """When it began and ended."""
        ...

    def held_up(self, other: Any, /) -> None:
        """Another lane has made a step for somebody online."""
        ...

    def count(self, priority: str, *, waiting: bool) -> int: ...
    def add(self, work: Any, /) -> None: ...
    def cancel(self, ticket: int) -> list[Emission]: ...
    def fail_all(self, error: AntiphonError) -> list[Emission]: ...
    def give_way(self) -> None: ...
    def slack(self, budget: Budget) -> float: ...
    def step(self, budget: Budget, *, slack_elsewhere: float = inf, leaves_gaps: bool = True) -> list[Emission]: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Arrival:
    lane: ServedLane
    work: Any


@dataclass(frozen=True, slots=True)
class _Cancellation:
    ticket: int


@dataclass(frozen=True, slots=True)
class _Join:
    lane: ServedLane


@dataclass(frozen=True, slots=True)
class _Leave:
    lane: ServedLane


@dataclass(frozen=True, slots=True)
class _Rest:
    lane: Lane


@dataclass(frozen=True, slots=True)
class _Stop:
    pass


_Message = _Arrival | _Cancellation | _Join | _Leave | _Rest | _Stop


class Inbox(Protocol):
    """Where messages to the loop wait: a ``queue.SimpleQueue``, or what knows when they come."""

    def put(self, item: _Message) -> None: ...

    def get(self, block: bool = True) -> _Message:
        """The oldest; raises ``queue.Empty`` when there is none and it is not to be waited for."""
        ...

    def empty(self) -> bool: ...


class StepLoop:
    """Serves the lanes (one per model) one after another, those with online work first.

    ``emit`` is called from the loop's thread, once a turn, with everything callers are to be told.
    """

    def __init__(
        self,
        lanes: Iterable[ServedLane],
        budget: Budget,
        emit: Callable[[list[Emission]], None],
        inbox: Inbox | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        # In one value, so that other threads see a lane either at work or counted among those that are gone.
        self._roster: tuple[tuple[ServedLane, ...], Counters] = (tuple(lanes), Counters())
        self._leaving: set[ServedLane] = set()
        self._budget = budget
        self._emit = emit
        self._inbox: Inbox = queue.SimpleQueue() if inbox is None else inbox
        self._stopping = False
        self._awaited = False
        self._monotonic = monotonic
        self._online_share = OnlineShare(monotonic())
        self._turn_began: float | None = None

    @property
    def lanes(self) -> tuple[ServedLane, ...]:
        """Those that are not closed; from any thread."""
        return self._roster[0]

    @property
    def turn_seconds(self) -> float:
        """How long the present turn has lasted; 0 while the loop waits for messages. From any thread."""
        began = self._turn_began
        return 0.0 if began is None else self._monotonic() - began

    def submit(self, lane: ServedLane, work: Any) -> None:
        """Hand over what its lane adds; from any thread. The lane must have joined and not been told to leave.

        Batch work that is being computed alone gives way to one that is online.
        """
        self._inbox.put(_Arrival(lane, work))
        if work.request.priority == "online":
            self._awaited = True
            for each in self.lanes:
                each.give_way()

    def awaited(self) -> bool:
        """Whether somebody online may be waiting to be taken in."""
        return self._awaited

    def cancel(self, ticket: int) -> None:
        """Cancel by ticket; from any thread. An unknown or finished ticket is ignored."""
        self._inbox.put(_Cancellation(ticket))

    def join(self, lane: ServedLane) -> None:
        """Serve one more lane; from any thread. The loop owns its runtime from now on."""
        self._inbox.put(_Join(lane))

    def leave(self, lane: ServedLane) -> None:
        """Close the lane once its sequences have ended; from any thread. Nothing is submitted to it afterwards."""
        self._inbox.put(_Leave(lane))

    def rest(self, lane: Lane) -> None:
        """Let go of a lane's weights unless it has something to do; from any thread."""
        self._inbox.put(_Rest(lane))

    def stop(self) -> None:
        """Return from :meth:`run` once nothing is in flight; from any thread."""
        self._inbox.put(_Stop())

    def load(self) -> EngineLoad:
        """How busy all lanes together are; from any thread. What is counted never falls."""
        lanes, gone = self._roster
        counted = sum((lane.counters for lane in lanes), gone)
        return EngineLoad(
            running_online=sum(lane.count("online", waiting=False) for lane in lanes),
            running_batch=sum(lane.count("batch", waiting=False) for lane in lanes),
            waiting_online=sum(lane.count("online", waiting=True) for lane in lanes),
            waiting_batch=sum(lane.count("batch", waiting=True) for lane in lanes),
            slots=sum(lane.slots for lane in lanes),
            steps=counted.steps,
            generated_tokens_online=counted.generated_online,
            generated_tokens_batch=counted.generated_batch,
            prefilled_tokens=counted.prefilled_tokens,
            reused_prefix_tokens=counted.reused_prefix_tokens,
            interrupted_calls=counted.interrupted_calls,
            interrupted_seconds=counted.interrupted_seconds,
            resting=sum(lane.resting for lane in lanes),
            kept_on_disk=max((lane.kept_on_disk for lane in lanes), default=0),
            call_seconds=counted.call_seconds,
            busy_seconds=counted.busy_seconds,
            embedded_texts=counted.embedded_texts,
            embedded_tokens=counted.embedded_tokens,
        )

    def run(self) -> None:
        """The loop."""
        while True:
            self._turn_began = self._monotonic()
            emissions = self._drain()
            self._release()
            busy = [lane for lane in self.lanes if not lane.idle]
            if self._stopping and not busy and self._inbox.empty():
                self._tell(emissions)
                return
            online = [lane for lane in busy if lane.serves_online]
            begin, serves_online = self._monotonic(), bool(online)
            for lane in online + [lane for lane in busy if lane not in online]:
                slack = min((other.slack(self._budget) for other in online if other is not lane), default=inf)
                emissions += self._step(lane, slack)
                for other in online if lane in online else ():
                    if other is not lane:
                        other.held_up(lane)
            self._online_share.turned(begin, self._monotonic(), online=serves_online)
            self._tell(emissions)

    def _step(self, lane: ServedLane, slack_elsewhere: float) -> list[Emission]:
        try:
            leaves_gaps = self._online_share.leaves_gaps
            return lane.step(self._budget, slack_elsewhere=slack_elsewhere, leaves_gaps=leaves_gaps)
        except AntiphonError as error:
            _log.error("A step failed: %s", error)
            return lane.fail_all(error)
        except Exception:
            _log.exception("A step failed")
            return lane.fail_all(EngineError("The engine failed in the middle of a step."))

    def _drain(self) -> list[Emission]:
        emissions: list[Emission] = []
        self._awaited = False  # Before the messages are taken: who comes later sets it again.
        wait = not self._stopping and not self._leaving and all(lane.idle for lane in self.lanes)
        while True:
            if wait:
                self._turn_began = None
            try:
                message = self._inbox.get(block=wait)
            except queue.Empty:
                return emissions
            if wait:
                self._turn_began = self._monotonic()
            wait = False
            match message:
                case _Arrival(lane, work):
                    lane.add(work)
                case _Cancellation(ticket):
                    for lane in self.lanes:
                        emissions += lane.cancel(ticket)
                case _Join(lane):
                    self._roster = ((*self.lanes, lane), self._roster[1])
                case _Leave(lane):
                    self._leaving.add(lane)
                case _Rest(lane):
                    if lane.idle and lane in self.lanes:
                        lane.runtime.rest()
                        _log.info("Model %s rests.", lane.runtime.description.name)
                case _Stop():
                    self._stopping = True

    def _release(self) -> None:
        for lane in [lane for lane in self._leaving if lane.idle]:
            self._leaving.discard(lane)
            staying = tuple(other for other in self.lanes if other is not lane)
            self._roster = (staying, self._roster[1] + lane.counters)
            name = lane.name
            try:
                lane.close()
            except Exception:
                _log.exception("Model %s could not be freed.", name)
            else:
                _log.info("Model %s is unloaded.", name)

    def _tell(self, emissions: list[Emission]) -> None:
        if emissions:
            self._emit(emissions)
