"""Pauses of what only looks now and then, ended together, so that an idle process wakes once a second at most.

A processor that slept and memory that was not touched for a while cost more than most looks. The same is why systems
have timer slack (``PR_SET_TIMERSLACK`` of prctl(2), ``AccuracySec=`` of systemd.timer(5)).
"""

from __future__ import annotations

import asyncio
import math
import os

phase = os.getpid() % 16 / 16
"""The place in a second at which this process wakes: another one than its neighbours on the same cores and catalog."""

_SHORTEST = 1.0


def almost(seconds: float) -> float:
    """Seconds that must have passed for a pause of so many to be over, which may have been shortened."""
    return seconds - min(1.0, seconds / 3)


def ended_together(seconds: float, now: float, at: float | None = None) -> float:
    """A pause of a second or more, shortened by less than one to end when others of this process do.

    Args:
        now: the event loop's time. at: the place in a second; that of this process by default.
    """
    if seconds < _SHORTEST or math.isinf(seconds):
        return seconds
    at = phase if at is None else at
    return math.floor(now + seconds - at) + at - now


async def wait(stop: asyncio.Event, seconds: float) -> None:
    """Return after so many seconds, as :func:`ended_together` shortens them, or as soon as ``stop`` is set."""
    pause = ended_together(seconds, asyncio.get_running_loop().time())
    try:
        async with asyncio.timeout(pause):
            await stop.wait()
    except TimeoutError:
        return
