"""After a freeze or a window that held runs, a worker takes them up one by one: all that waited for its end would begin
in the same second.

Invariant: it only delays. A run that waits begins within :data:`RAMP_SECONDS` of the end of what held it, as far as
there is a slot for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from antiphon.catalog.run_holds import RunHold, RunHolds
from antiphon.core.clock import Clock
from antiphon.core.scope import Scope

RAMP_SECONDS, RUN_SECONDS = 30.0, 5.0
"""For so long after its end one more run of what was held may be under way for every so many seconds that passed."""

LOOK_SECONDS = 1.0
"""Between two reads of the holds."""


class Ramp:
    """The ramp of one worker."""

    def __init__(self, holds: RunHolds, scope: Scope, clock: Clock) -> None:
        self._holds = holds
        self._scope = scope
        self._clock = clock
        self._known: tuple[RunHold, ...] = ()
        self._read_at: float | None = None

    @property
    def is_due(self) -> bool:
        """True when the holds are to be read again: now and then, and always while one lasts, for it may be ended."""
        if self._read_at is None or self._clock.monotonic() - self._read_at >= LOOK_SECONDS:
            return True
        now = self._clock.now()
        return any(one.begins <= now < one.until for one in self._known)

    def read(self) -> None:
        """Read the holds that last, or have ended lately.

        Raises:
            UnavailableError: the catalog is away; what was read before is known still.
        """
        self._read_at = self._clock.monotonic()
        since = self._clock.now() - timedelta(seconds=RAMP_SECONDS)
        self._known = self._holds.list(self._scope, since)

    def waiting(self, under_way: Iterable[str]) -> frozenset[str]:
        """The workflows of which no more runs begin now.

        Args:
            under_way: the workflows of the runs that this worker has.
        """
        now, running = self._clock.now(), list(under_way)
        found = set[str]()
        for name in {name for hold in self._known for name in hold.workflows}:
            last = self.after(name, self._known, now)
            if last is not None:
                taken = sum(workflow in last.workflows for workflow in running)
                if taken > (now - last.until).total_seconds() // RUN_SECONDS:
                    found.add(name)
        return frozenset(found)

    @staticmethod
    def after(workflow: str, holds: Iterable[RunHold], now: datetime) -> RunHold | None:
        """The hold of a workflow that ended lately, after which its runs are taken up one by one; ``None`` while one
        lasts."""
        own = [one for one in holds if workflow in one.workflows and one.begins <= now]
        last = max(own, key=lambda one: one.until, default=None)
        return last if last is not None and 0 <= (now - last.until).total_seconds() < RAMP_SECONDS else None
