"""A training process's part of the processor, and the raising of its priority towards a floor."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from antiphon.training.starvation import StarvationWatch, nice_for

_LOOK_SECONDS = 1.0
"""Between two readings of a process's processor time."""


class ProcessorShare:
    """Follows one process's part of the processor: tells when it is too little, and raises priority towards a floor."""

    def __init__(
        self,
        floor: float,
        window: float,
        processor_seconds: Callable[[int], float | None],
        set_priority: Callable[[int, int], bool],
        pid: int,
        now: float,
    ) -> None:
        self._floor = floor
        self._processor_seconds = partial(processor_seconds, pid)
        self._set_priority = partial(set_priority, pid)
        self._looked_at = now
        self._watch = StarvationWatch(floor, now, processor_seconds(pid) or 0.0, window)
        # First what gives the floor beside one busy neighbor a core, then the priority of everything else.
        self._left = sorted({nice_for(floor), 0}) if floor else []

    def notice(self, now: float, paused: bool) -> str | None:
        """Take a reading when one is due, and act on it; returns a sentence when there is something to tell."""
        if now - self._looked_at < _LOOK_SECONDS:
            return None
        self._looked_at, floor = now, self._floor
        used = self._processor_seconds()
        if used is None or (starved := self._watch.look(now, used, paused)) is None:
            return None
        if not floor:
            return f"{starved}; [worker] training_min_share in antiphon.toml gives it a part of a core"
        if not self._left:
            # Once more: a process that is slow to start lowers itself after it was raised.
            self._set_priority(0)
            return f"{starved}; its priority cannot be raised further towards the floor of {floor:.0%}"
        nice = self._left.pop()
        if not self._set_priority(nice):
            return f"{starved}; raising its priority is not permitted (that takes CAP_SYS_NICE or a limit on `nice`)"
        self._watch.begin_again(used)
        return f"{starved}; its priority is raised to nice {nice}, towards the floor of {floor:.0%}"
