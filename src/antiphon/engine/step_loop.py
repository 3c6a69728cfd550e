"""The engine's main loop: drain arrivals, plan, run, tell. It runs in a thread of its own and never waits for callers.

Invariant: arrivals and cancellations are drained before every step, so an arrival waits for at most the step in
flight and a cancelled request's slot is free before the next one.
"""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable, Mapping

from antiphon.core.errors import AntiphonError, EngineFailed
from antiphon.engine.lane import Emission, Lane
from antiphon.engine.messages import Load
from antiphon.engine.scheduler import Budget
from antiphon.engine.sequence import Sequence

_log = logging.getLogger("antiphon.engine")


class StepLoop:
    """Serves the lanes (one per model) one after another, those with online work first.

    ``emit`` is called from the loop's thread, once a turn, with everything callers are to be told.
    """

    def __init__(self, lanes: Mapping[str, Lane], budget: Budget, emit: Callable[[list[Emission]], None]) -> None:
        self._lanes = dict(lanes)
        self._budget = budget
        self._emit = emit
        self._inbox: queue.SimpleQueue[tuple[str, Sequence] | int | None] = queue.SimpleQueue()
        self._stopping = False

    def submit(self, model: str, sequence: Sequence) -> None:
        """Hand over a sequence; from any thread."""
        self._inbox.put((model, sequence))

    def cancel(self, ticket: int) -> None:
        """Cancel by ticket; from any thread. An unknown or finished ticket is ignored."""
        self._inbox.put(ticket)

    def stop(self) -> None:
        """Return from :meth:`run` once nothing is in flight; from any thread."""
        self._inbox.put(None)

    def load(self) -> Load:
        """How busy all lanes together are; from any thread."""
        lanes = list(self._lanes.values())
        return Load(
            running_online=sum(lane.count("online", waiting=False) for lane in lanes),
            running_batch=sum(lane.count("batch", waiting=False) for lane in lanes),
            waiting_online=sum(lane.count("online", waiting=True) for lane in lanes),
            waiting_batch=sum(lane.count("batch", waiting=True) for lane in lanes),
            slots=sum(lane.runtime.layout.slots for lane in lanes),
            steps=sum(lane.counters.steps for lane in lanes),
            generated_tokens_online=sum(lane.counters.generated_online for lane in lanes),
            generated_tokens_batch=sum(lane.counters.generated_batch for lane in lanes),
            prefilled_tokens=sum(lane.counters.prefilled_tokens for lane in lanes),
            reused_prefix_tokens=sum(lane.counters.reused_prefix_tokens for lane in lanes),
            busy_seconds=sum(lane.counters.busy_seconds for lane in lanes),
        )

    def run(self) -> None:
        """The loop."""
        while True:
            emissions = self._drain()
            busy = [lane for lane in self._lanes.values() if not lane.idle]
            if self._stopping and not busy and self._inbox.empty():
                self._tell(emissions)
                return
            online = [lane for lane in busy if lane.serves_online]
            for lane in online + [lane for lane in busy if lane not in online]:
                elsewhere = any(other is not lane for other in online)
                emissions += self._step(lane, online_elsewhere=elsewhere)
            self._tell(emissions)

    def _step(self, lane: Lane, *, online_elsewhere: bool) -> list[Emission]:
        try:
            return lane.step(self._budget, online_elsewhere=online_elsewhere)
        except AntiphonError as error:
            _log.error("A step failed: %s", error)
            return lane.fail_all(error)
        except Exception:
            _log.exception("A step failed")
            return lane.fail_all(EngineFailed("The engine failed in the middle of a step."))

    def _drain(self) -> list[Emission]:
        emissions: list[Emission] = []
        wait = not self._stopping and all(lane.idle for lane in self._lanes.values())
        while True:
            try:
                item = self._inbox.get(block=wait)
            except queue.Empty:
                return emissions
            wait = False
            if item is None:
                self._stopping = True
            elif isinstance(item, int):
                for lane in self._lanes.values():
                    emissions += lane.cancel(item)
            else:
                model, sequence = item
                self._lanes[model].add(sequence)

    def _tell(self, emissions: list[Emission]) -> None:
        if emissions:
            self._emit(emissions)
