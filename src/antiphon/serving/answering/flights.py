"""One generation at a time for identical prompts: who comes second waits, and finds the answer made.

A flight belongs to one process; when its leader fails or goes away, the next in line makes the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager

import msgspec


class _Flight(msgspec.Struct):
    lock: asyncio.Lock
    waiting: int = 0


class Flights:
    """Which keys are being answered now."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight] = {}

    @asynccontextmanager
    async def alone(self, key: Hashable) -> AsyncIterator[None]:
        """Hold the key while the block runs; others of the same key wait their turn."""
        flight = self._flights.setdefault(key, _Flight(asyncio.Lock()))
        flight.waiting += 1
        try:
            async with flight.lock:
                yield
        finally:
            flight.waiting -= 1
            if flight.waiting == 0:
                del self._flights[key]
