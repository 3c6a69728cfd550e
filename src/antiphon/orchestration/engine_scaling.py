"""The number of engines that are to be up on a machine: a pure function of what they had to do, of hours, and of now.

Fewer are kept after a window in which fewer would have been enough at every moment (a stabilization window, as
autoscalers of Kubernetes have one): the window is ``idle``. One more is started when the requests have been more than
the engines have slots for as long as a start takes, since a shorter burst is over before it helps; the first one is
started at once.

Invariants:
- The number is between the floor and the most, always; the floor is the declared least, or what the hours say.
- While a request needs an engine one is up, whatever the hours say.
- Without any request for ``idle`` seconds it is the floor.
- No engine is stopped that was needed within the last ``idle`` seconds.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta

import msgspec

from antiphon.definitions.windows import WindowSpec


class EngineHours(msgspec.Struct, frozen=True):
    """Times by the calendar in which so many engines are up, whether they are needed or not."""

    window: WindowSpec
    engines: int


class ScalingPolicy(msgspec.Struct, frozen=True):
    """The declared bounds.

    Attributes:
        least: engines that are always up. ``most``: that ever are.
        idle: seconds for which an engine must not have been needed before it is stopped.
        slots: requests that one engine runs at once.
        hours: in which more than ``least`` are up beforehand.
    """

    least: int
    most: int
    idle: float
    slots: int
    hours: tuple[EngineHours, ...] = ()


class EngineDemand(msgspec.Struct, frozen=True):
    """The demand at one look.

    Attributes:
        requests: that need an engine now: in the engines, and waiting for a start.
        taken: whether any was taken since the look before.
    """

    requests: int = 0
    taken: bool = False

    def engines(self, slots: int) -> int:
        """The number of engines that have room for these requests."""
        return max(math.ceil(self.requests / slots), int(self.taken))


class EngineCount(msgspec.Struct, frozen=True):
    """The decision, and what the next one is made from.

    Attributes:
        engines: how many are to be up.
        peaks: moments (monotonic seconds, rising) with the engines that were needed then (falling), of the window.
        rising: since when more are needed than are up, and how many at least.
    """

    engines: int
    peaks: tuple[tuple[float, int], ...] = ()
    rising: tuple[float, int] | None = None


def decide(
    before: EngineCount, demand: EngineDemand, policy: ScalingPolicy, now: float, floor: int, start_seconds: float
) -> EngineCount:
    """The number of engines from now on.

    Args:
        now: monotonic seconds.
        floor: see :func:`floor_of`.
        start_seconds: how long a start takes.
    """
    needed = min(demand.engines(policy.slots), policy.most)
    # Of two moments the earlier one decides nothing more once the later needed as much: what is left falls.
    kept = [(at, engines) for at, engines in before.peaks if at > now - policy.idle and engines > needed]
    peaks = (*kept, (now, needed)) if needed else tuple(kept)
    engines, rising = before.engines, None
    if engines == 0 and needed:
        engines = 1
    elif needed > engines:
        since, least = before.rising or (now, needed)
        rising = (since, min(least, needed))
        if now - since >= start_seconds:
            engines, rising = rising[1], None
    engines = min(engines, max((each for _, each in peaks), default=0))
    return EngineCount(min(max(engines, floor), policy.most), peaks, rising)


def floor_of(policy: ScalingPolicy, now: datetime, ahead: float) -> int:
    """The engines that are to be up whether they are needed or not: the least, and more within declared hours, which
    begin ``ahead`` seconds earlier, so that the engines are up when they begin."""
    within = [one.engines for one in policy.hours if _holds(one.window, now, ahead)]
    return min(max([policy.least, *within]), policy.most)


def _holds(window: WindowSpec, now: datetime, ahead: float) -> bool:
    soon = now + timedelta(seconds=ahead)
    return any(
        found is not None and found[0] <= moment
        for moment, found in ((now, window.occurrence(now)), (soon, window.occurrence(soon)))
    )
