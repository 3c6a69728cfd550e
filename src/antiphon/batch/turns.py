"""Turns at the engine: so many requests of batches at once. Whose is next, ``job_order`` says."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable

from antiphon.batch.job_order import Claim, Turned, following


class Turns:
    """Hands out turns; for one event loop.

    Args:
        most: turns that are taken at once.
        now: seconds of the clock that claims' instants are of.
    """

    def __init__(self, most: int, now: Callable[[], float] = time.time) -> None:
        self._most = most
        self._now = now
        self._taken: Counter[str] = Counter()
        self._escalated: Counter[Claim] = Counter()
        self._last: dict[str, tuple[int, int]] = {}
        self._given = 0
        self._waiting: list[tuple[Claim, asyncio.Future[None]]] = []

    async def take(self, claim: Claim) -> None:
        """Wait for a turn, and take it. Whoever takes one gives it back; a wait may be cancelled."""
        if self._free and not self._waiting:
            self._take(claim)
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((claim, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back(claim)
            else:
                self._leave(turn)
            raise

    def give_back(self, claim: Claim) -> None:
        """End the turn that was taken with this claim."""
        self._taken[claim.tenant] -= 1
        if not self._taken[claim.tenant]:
            del self._taken[claim.tenant]
        if self._escalated[claim]:
            self._escalated[claim] -= 1
        self._escalated = +self._escalated
        while self._free and self._waiting:
            now = self._now()
            turned = Turned(self._most, self._escalated.total(), self._taken, self._last)
            chosen = following([claim for claim, _ in self._waiting], turned, now)
            turn = next(turn for claim, turn in self._waiting if claim is chosen)
            self._leave(turn)
            if not turn.done():
                self._take(chosen)
                turn.set_result(None)

    @property
    def taken(self) -> dict[str, int]:
        """Turns that are taken, by tenant."""
        return dict(self._taken)

    @property
    def _free(self) -> int:
        return self._most - self._taken.total()

    def _take(self, claim: Claim) -> None:
        self._given += 1
        self._taken[claim.tenant] += 1
        if claim.escalates(self._now()):
            self._escalated[claim] += 1
        self._last[claim.tenant] = (self._given, claim.prefix)

    def _leave(self, turn: asyncio.Future[None]) -> None:
        self._waiting = [(claim, one) for claim, one in self._waiting if one is not turn]
