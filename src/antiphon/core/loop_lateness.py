"""Lateness of the event loop: by how much it comes late to what is due."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter

from antiphon.core.pauses import ended_together

LOOK_SECONDS = 1.0

USUAL_SECONDS = 0.05
"""A loop that also computes comes so late now and then, and nobody notices."""


def lateness_counter(registry: CollectorRegistry) -> Counter:
    """The metric of a process that has such a loop."""
    return Counter("antiphon_loop_late_seconds", "By which the event loop came late to its work.", registry=registry)


async def count_lateness(counted: Callable[[float], object]) -> None:
    """Hand over by how many seconds the running loop came late to each look, until cancelled.

    A loop that stands still for a while comes late to one look by nearly as long; one that has no turn for a share of
    the time comes late by about this share.
    """
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + ended_together(LOOK_SECONDS, loop.time())
        await asyncio.sleep(due - loop.time())
        late = loop.time() - due
        if late > USUAL_SECONDS:
            counted(late)
