"""Admission: a bound on answers under way, per class of work, so that a flood is refused instead of queued for ever.

What an engine is given at once is less than this, and follows from what it can do (``engine_gate.py``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Literal

from antiphon.core.errors import ForbiddenError, OverloadedError, ResourceUnavailableError
from antiphon.governance.identity.principal import Principal
from antiphon.serving.admission.refusals import SlotReleaseRate
from antiphon.serving.request import Tier

WorkClass = Literal["online", "flex", "batch"]


class AdmissionController:
    """Counts answers under way, with a limit for each of online, flex and batch."""

    def __init__(self, *, online: int, batch: int, flex: int = 64) -> None:
        self._declared: dict[WorkClass, int] = {"online": online, "flex": flex, "batch": batch}
        self._bounds = dict(self._declared)
        self._under_way: dict[WorkClass, int] = {"online": 0, "flex": 0, "batch": 0}
        self._rates: dict[WorkClass, SlotReleaseRate] = {work: SlotReleaseRate(monotonic) for work in self._bounds}

    def under_way(self, work: WorkClass) -> int:
        """Number of answers of this class under way."""
        return self._under_way[work]

    def divide(self, processes: int) -> None:
        """Take an equal share of each limit, one of so many processes: one slot at least."""
        self._bounds = {work: max(bound // processes, 1) for work, bound in self._declared.items()}

    @asynccontextmanager
    async def enter(self, work: WorkClass) -> AsyncIterator[None]:
        """Hold a slot while the answer is made.

        Raises:
            ResourceUnavailableError: every slot of flex work is taken.
            OverloadedError: every slot is taken.
        """
        if self._under_way[work] >= self._bounds[work]:
            raise self._refusal(work)
        self._under_way[work] += 1
        try:
            yield
        finally:
            self._rates[work].ended(full=self._under_way[work] >= self._bounds[work])
            self._under_way[work] -= 1

    def _refusal(self, work: WorkClass) -> OverloadedError:
        retry_after = self._rates[work].retry_after(0.0)
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


def grant_tier(requested: str | None, principal: Principal) -> Tier:
    """The tier of a request for ``auto``, ``default``, ``flex``, ``priority`` or for none; raises ``ForbiddenError``
    where the key does not allow ``priority``."""
    if requested == "flex":
        return "flex"
    if requested != "priority":
        return "default"
    if not principal.allowance.priority:
        raise ForbiddenError(
            f"{principal.id} may not go ahead of others.",
            where="service_tier",
            next_step="Leave it out, or ask an administrator for a key with `--priority`.",
        )
    return "priority"
