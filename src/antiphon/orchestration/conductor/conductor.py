"""The conductor's loop: reads the state of schedules, decides, orders what is due, and looks again in time.

Invariant: an order is one transaction with the count of its schedule, or its run is found by the schedule's key: what a
crash left half done is finished by whoever looks next, and nothing is ordered twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence, Set

from antiphon.catalog.doorbell import Wakeup
from antiphon.core.clock import Clock
from antiphon.core.errors import AntiphonError, UnavailableError
from antiphon.core.logs import described
from antiphon.orchestration.conductor.decide import decide
from antiphon.orchestration.conductor.state import ConductorDecision, PlannedRun, ScheduleOutlook, ScheduleState

_log = logging.getLogger("antiphon.worker")


class Conductor:
    """Orders what schedules have due. One process of an environment does at a time; two for a moment harm nothing.

    Args:
        prepare: writes what windows hold ahead of time; called before each look.
        read: the state of every schedule.
        order: orders a run; raises what keeps it from being ordered. ``refuse`` notes that.
        mark_due: notes why a schedule is due that waits for a quiet time.
        poll: seconds between looks, at most: conditions that no moment tells of are looked at so often.
        wakeup: rings when schedules, publications, releases or runs change.
    """

    def __init__(
        self,
        prepare: Callable[[], None],
        read: Callable[[], Sequence[ScheduleState]],
        order: Callable[[ScheduleState, PlannedRun], str],
        mark_due: Callable[[ScheduleState, str], None],
        refuse: Callable[[ScheduleState, str], None],
        clock: Clock,
        *,
        poll: float = 10.0,
        wakeup: Wakeup | None = None,
    ) -> None:
        self._prepare = prepare
        self._read = read
        self._order = order
        self._mark_due = mark_due
        self._refuse = refuse
        self._clock = clock
        self._poll = poll
        self._warned: Set[tuple[str, object]] = frozenset()
        self._wakeup = wakeup or Wakeup()

    async def run_until(self, stop: asyncio.Event) -> None:
        """Look for what is due until ``stop``. A look that fails is made again."""
        with self._wakeup as wakeup:
            while not stop.is_set():
                try:
                    pause = await asyncio.to_thread(self.look)
                except UnavailableError:
                    _log.warning("The catalog is away; schedules are looked at again.")
                    pause = self._poll
                except Exception:  # One broken schedule, or a definition of another version, ends no other part.
                    _log.exception("The schedules cannot be read; they are looked at again.")
                    pause = self._poll
                await wakeup.wait_until(stop, pause, found=False)

    def look(self) -> float:
        """Order what is due; returns the seconds until there may be more."""
        self._prepare()
        states = {one.spec.name: one for one in self._read()}
        decision = decide(tuple(states.values()), self._clock.now())
        self._warn(decision, states)
        for outlook in decision.outlooks:
            if outlook.due is not None and states[outlook.schedule].record.due_at is None:
                self._mark_due(states[outlook.schedule], outlook.due)
        for planned in decision.orders:
            state = states[planned.schedule]
            try:
                run = self._order(state, planned)
            except UnavailableError:
                raise
            except AntiphonError as error:
                _log.warning("The schedule %s ordered nothing: %s", planned.schedule, error)
                self._refuse(state, str(error))
            except Exception as error:  # One broken schedule keeps no other from being ordered.
                _log.exception("The schedule %s ordered nothing.", planned.schedule)
                self._refuse(state, described(error))
            else:
                _log.info("The schedule %s ordered %s: %s", planned.schedule, run, planned.cause)
        poll = self._wakeup.rested(self._poll)
        if decision.next_look is None:
            return poll
        return min(poll, max((decision.next_look - self._clock.now()).total_seconds(), 0.0))

    def _warn(self, decision: ConductorDecision, states: Mapping[str, ScheduleState]) -> None:
        """Say once of each run that is not expected to keep its deadline, and why a schedule cannot be read or decided;
        what was refused to it was said with the order."""
        found: dict[tuple[str, object], ScheduleOutlook] = {}
        for one in decision.outlooks:
            if one.late:
                found[one.schedule, one.deadline] = one
            elif one.stage == "refused" and states[one.schedule].record.problem is None:
                found[one.schedule, one.reason] = one
        for outlook in (one for key, one in found.items() if key not in self._warned):
            what = "is late" if outlook.late else "orders nothing"
            _log.warning("The schedule %s %s: %s", outlook.schedule, what, outlook.reason)
        self._warned = found.keys()
