"""The demo against its plan: says at each phase how long it should take, and what no longer fits."""

from __future__ import annotations

import time
from collections.abc import Callable

from examples.flight_desk.host import Say
from examples.flight_desk.plan import AGAIN, COLLECT, Plan


class Schedule:
    """A plan and the moment since which it runs.

    Args:
        limit: seconds that the whole may take; ``None`` leaves nothing out.
        began: the moment (``monotonic``) at which the whole began, when that was earlier than now.
    """

    def __init__(
        self,
        plan: Plan | None = None,
        limit: float | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        began: float | None = None,
    ) -> None:
        self._plan = plan
        self._limit = limit
        self._monotonic = monotonic
        self._began = monotonic() if began is None else began

    def begin(self, phase: str, say: Say) -> None:
        """Say that a phase begins, which one it is, and how long it and the rest should take."""
        if self._plan is None or phase not in self._plan.phases:
            say(f"— {phase}")
            return
        names = list(self._plan.phases)
        takes, left = self._plan.phases[phase], self._plan.left(phase)
        say(
            f"— {phase} ({names.index(phase) + 1} of {len(names)}): about {takes:.0f} s;"
            f" to the end about {left / 60:.0f} min"
        )

    def in_time(self, phase: str, say: Say) -> bool:
        """True while there is time for learning again, which begins with this phase; says so when there is not."""
        if self._plan is None or self._limit is None or phase != COLLECT:
            return True
        passed = self._monotonic() - self._began
        planned = self._plan.seconds - self._plan.left(phase)
        # What took longer than planned will go on to.
        slower = max(1.0, passed / planned) if planned > 0 else 1.0
        if passed + slower * self._plan.left(phase) <= self._limit:
            return True
        say(
            f"left out for time: {', '.join(AGAIN)} ({passed / 60:.0f} min have passed where"
            f" {planned / 60:.0f} were planned); `make demo-full` shows them"
        )
        return False


UNPLANNED = Schedule()
"""Phases are named and none is left out."""
