"""The engine's main loop: drain messages, step every executor, emit events. It runs in a thread of its own.

Invariants:
- Arrivals and cancellations are drained before every step, so an arrival waits for at most the step in flight and a
  cancelled request's slot is free before the next one.
- An online request that arrives is added between two calls of batch work, or in the middle of one, which is aborted.
- An executor that leaves is closed here, after its last sequence has ended, so no runtime is freed while it computes.
- While batch work is held, a batch sequence computes nothing and keeps what it has; a loop that stops holds nothing.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from math import inf
from typing import Any

from antiphon.core.errors import AntiphonError, EngineError
from antiphon.engine.api.messages import EngineLoad
from antiphon.engine.execution.model_executor import ModelExecutor
from antiphon.engine.execution.step_executor import Counters, Emission, StepExecutor
from antiphon.engine.scheduling.recent_work import OnlineShare
from antiphon.engine.scheduling.state import StepBudget

_log = logging.getLogger("antiphon.engine")


Message = Callable[[], "list[Emission] | None"]
"""A call that another thread leaves to the loop; it may return events for callers."""


class StepLoop:
    """Steps the executors (one per model) in turns, those with online work first.

    Args:
        emit: called from the loop's thread, once a turn, with all events for callers.
        inbox: messages to the loop; a simulation passes its own.
    """

    def __init__(
        self,
        executors: Iterable[StepExecutor],
        budget: StepBudget,
        emit: Callable[[list[Emission]], None],
        inbox: queue.SimpleQueue[Message] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        # In one value, so that other threads see an executor either at work or in the counts of closed ones.
        self._roster: tuple[tuple[StepExecutor, ...], Counters] = (tuple(executors), Counters())
        self._leaving: set[StepExecutor] = set()
        self._budget = budget
        self._emit = emit
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue() if inbox is None else inbox
        self._stopping = False
        self._online_waiting = False
        self._monotonic = monotonic
        self._online_share = OnlineShare(monotonic())
        self._turn_began: float | None = None
        self._held_until = -inf

    @property
    def executors(self) -> tuple[StepExecutor, ...]:
        """The executors that are not closed; from any thread."""
        return self._roster[0]

    @property
    def turn_seconds(self) -> float:
        """Seconds since the present turn began; 0 while the loop waits for messages. From any thread."""
        began = self._turn_began
        return 0.0 if began is None else self._monotonic() - began

    def submit(self, executor: StepExecutor, work: Any) -> None:
        """Submit work to an executor; from any thread. The executor must have joined and not been asked to leave.

        Online work aborts a call that computes batch work alone.
        """
        self._inbox.put(partial(executor.add, work))
        if work.request.priority == "online":
            self._online_waiting = True
            for each in self.executors:
                each.interrupt_batch()

    def online_waiting(self) -> bool:
        """True if an online request may be waiting to be added."""
        return self._online_waiting

    def hold_batch(self, seconds: float) -> None:
        """Give batch generations no step for so many seconds from now; 0 ends that. From any thread."""
        self._held_until = self._monotonic() + seconds
        self._inbox.put(lambda: None)  # a loop that waits for messages looks again

    def cancel(self, ticket: int) -> None:
        """Cancel by ticket; from any thread. An unknown or finished ticket is ignored."""
        self._inbox.put(partial(self._cancel, ticket))

    def join(self, executor: StepExecutor) -> None:
        """Add an executor; from any thread. The loop owns its runtime from now on."""
        self._inbox.put(partial(self._add, executor))

    def leave(self, executor: StepExecutor) -> None:
        """Close the executor once its sequences have ended; from any thread. Nothing is submitted to it afterwards."""
        self._inbox.put(partial(self._leaving.add, executor))

    def rest(self, executor: ModelExecutor) -> None:
        """Free an executor's weights unless it has work; from any thread."""
        self._inbox.put(partial(self._rest, executor))

    def stop(self) -> None:
        """Return from :meth:`run` once nothing is in flight; from any thread."""
        self._inbox.put(self._begin_to_stop)

    def load(self) -> EngineLoad:
        """Load of all executors together; from any thread. Counts never fall."""
        executors, closed = self._roster
        counted = sum((executor.counters for executor in executors), closed)
        return EngineLoad(
            running_online=sum(executor.count("online", waiting=False) for executor in executors),
            running_batch=sum(executor.count("batch", waiting=False) for executor in executors),
            waiting_online=sum(executor.count("online", waiting=True) for executor in executors),
            waiting_batch=sum(executor.count("batch", waiting=True) for executor in executors),
            slots=sum(executor.slots for executor in executors),
            resting=sum(executor.resting for executor in executors),
            kept_on_disk=max((executor.swapped_to_disk for executor in executors), default=0),
            batch_held_seconds=self._held_seconds,
            **asdict(counted),
        )

    def run(self) -> None:
        """Run until :meth:`stop`."""
        while True:
            self._turn_began = self._monotonic()
            emissions = self._drain()
            self._close_leaving()
            busy = [executor for executor in self.executors if not executor.idle]
            if self._stopping and not busy and self._inbox.empty():
                self._send(emissions)
                return
            online = [executor for executor in busy if executor.serves_online]
            begin, serves_online, held = self._monotonic(), bool(online), self._held_seconds > 0
            for executor in online + [executor for executor in busy if executor not in online]:
                slack = min((other.slack(self._budget) for other in online if other is not executor), default=inf)
                if held and executor.generates:
                    slack = 0.0  # no time for batch work beside what online requests get
                emissions += self._step(executor, slack)
                for other in online if executor in online else ():
                    if other is not executor:
                        other.observe_online_step(*executor.latest_step)
            self._online_share.observe_turn(begin, self._monotonic(), online=serves_online)
            self._send(emissions)

    def _step(self, executor: StepExecutor, slack_elsewhere: float) -> list[Emission]:
        try:
            leaves_gaps = self._online_share.leaves_gaps
            return executor.step(self._budget, slack_elsewhere=slack_elsewhere, leaves_gaps=leaves_gaps)
        except AntiphonError as error:
            _log.error("A step failed: %s", error)
            return executor.fail_all(error)
        except Exception:
            _log.exception("A step failed")
            return executor.fail_all(EngineError("The engine failed in the middle of a step."))

    def _drain(self) -> list[Emission]:
        emissions: list[Emission] = []
        self._online_waiting = False  # Before the messages are taken: a later request sets it again.
        held = self._held_seconds
        wait = (
            not self._stopping
            and not any(executor.idle for executor in self._leaving)
            and all(
                executor.idle or (held > 0 and executor.generates and not executor.serves_online)
                for executor in self.executors
            )
        )
        idle = all(executor.idle for executor in self.executors)
        while True:
            if wait:
                self._turn_began = None
            try:
                message = self._inbox.get(block=wait, timeout=None if idle else max(held, 0.001))
            except queue.Empty:
                return emissions
            if wait:
                self._turn_began = self._monotonic()
            wait = False
            emissions += message() or ()

    @property
    def _held_seconds(self) -> float:
        """Seconds for which batch generations are still held."""
        return 0.0 if self._stopping else max(self._held_until - self._monotonic(), 0.0)

    def _cancel(self, ticket: int) -> list[Emission]:
        return [emission for executor in self.executors for emission in executor.cancel(ticket)]

    def _add(self, executor: StepExecutor) -> None:
        self._roster = ((*self.executors, executor), self._roster[1])

    def _rest(self, executor: ModelExecutor) -> None:
        if executor.idle and executor in self.executors:
            executor.runtime.rest()
            _log.info("Model %s rests.", executor.runtime.description.name)

    def _begin_to_stop(self) -> None:
        self._stopping = True

    def _close_leaving(self) -> None:
        for executor in [executor for executor in self._leaving if executor.idle]:
            self._leaving.discard(executor)
            staying = tuple(other for other in self.executors if other is not executor)
            self._roster = (staying, self._roster[1] + executor.counters)
            name = executor.name
            try:
                executor.close()
            except Exception:
                _log.exception("Model %s could not be freed.", name)
            else:
                _log.info("Model %s is unloaded.", name)

    def _send(self, emissions: list[Emission]) -> None:
        if emissions:
            self._emit(emissions)
