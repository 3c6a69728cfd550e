"""Turns at the engine: so many requests of batches at once, shared out over tenants.

Invariant: whoever has fewest requests under way goes next, and among equals whoever has waited longest since its last
turn. So a tenant with one small batch does not wait for another's fifty thousand requests.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque


class Turns:
    """Hands out turns; for one event loop.

    Args:
        most: turns that are taken at once.
    """

    def __init__(self, most: int) -> None:
        self._free = most
        self._taken: Counter[str] = Counter()
        self._last: dict[str, int] = {}
        self._given = 0
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    async def take(self, tenant: str) -> None:
        """Wait for a turn, and take it. Whoever takes one gives it back; a wait may be cancelled."""
        if self._free and not self._waiting:
            self._take(tenant)
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back(tenant)
            else:
                self._leave(tenant, turn)
            raise

    def give_back(self, tenant: str) -> None:
        """End a turn."""
        self._taken[tenant] -= 1
        if not self._taken[tenant]:
            del self._taken[tenant]
        self._free += 1
        while self._free and self._waiting:
            following = min(self._waiting, key=lambda one: (self._taken[one], self._last.get(one, 0)))
            turn = self._waiting[following][0]
            self._leave(following, turn)
            if not turn.done():
                self._take(following)
                turn.set_result(None)

    @property
    def taken(self) -> dict[str, int]:
        """Turns that are taken, by tenant."""
        return dict(self._taken)

    def _take(self, tenant: str) -> None:
        self._free -= 1
        self._given += 1
        self._taken[tenant] += 1
        self._last[tenant] = self._given

    def _leave(self, tenant: str, turn: asyncio.Future[None]) -> None:
        queue = self._waiting.get(tenant)
        if queue is not None and turn in queue:
            queue.remove(turn)
            if not queue:
                del self._waiting[tenant]
