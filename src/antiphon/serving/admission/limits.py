"""Admission: a bound on answers under way, per class of work, so that a flood is refused instead of queued for ever.

What an engine is given at once is less than this, and follows from what it can do (``engine_gate.py``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Literal

from antiphon.core.errors import OverloadedError, ResourceUnavailableError
from antiphon.serving.admission.drain import Drain

Class = Literal["online", "flex", "batch"]


class Admission:
    """Counts answers under way; online, flex and batch have bounds of their own."""

    def __init__(self, *, online: int, batch: int, flex: int = 64) -> None:
        self._bounds: dict[Class, int] = {"online": online, "flex": flex, "batch": batch}
        self._under_way: dict[Class, int] = {"online": 0, "flex": 0, "batch": 0}
        self._drains: dict[Class, Drain] = {work: Drain(monotonic) for work in self._bounds}

    def under_way(self, work: Class) -> int:
        """How many answers of this class are being made now."""
        return self._under_way[work]

    @asynccontextmanager
    async def enter(self, work: Class) -> AsyncIterator[None]:
        """Hold one place while the answer is made.

        Raises:
            ResourceUnavailableError: every place of flex work is taken.
            OverloadedError: every place is taken.
        """
        if self._under_way[work] >= self._bounds[work]:
            raise self._refusal(work)
        self._under_way[work] += 1
        try:
            yield
        finally:
            self._drains[work].ended(full=self._under_way[work] >= self._bounds[work])
            self._under_way[work] -= 1

    def _refusal(self, work: Class) -> OverloadedError:
        retry_after = self._drains[work].retry_after(0.0)
        if work == "flex":
            return ResourceUnavailableError(
                f"There is no room for more flex work: {self._bounds[work]} answers wait for what others leave.",
                retry_after=retry_after,
                where="service_tier",
                next_step="Try again later, ask with `service_tier: default`, or order a batch.",
            )
        return OverloadedError(
            f"{self._bounds[work]} {work} answers are already under way.",
            retry_after=retry_after,
            where="admission",
            next_step="Try again shortly, or raise [gateway] max_in_flight.",
        )
