"""An HTTP server that wakes once a second, and ends at once when it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import uvicorn

from antiphon.core.pauses import ended_together

_DATE_SECONDS = 1.0


class IdleServer(uvicorn.Server):
    """uvicorn's server looks ten times a second whether it is to end; here whoever sets ``should_exit`` wakes it.

    Attributes:
        on_exit: called in the event loop once ``should_exit`` is set, before requests are waited for: ends responses
            that would not end by themselves.
    """

    on_exit: Callable[[], object] | None = None
    _should_exit = False
    _woken: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    @property
    def should_exit(self) -> bool:
        return self._should_exit

    @should_exit.setter
    def should_exit(self, value: bool) -> None:
        self._should_exit = value
        if value and self._woken is not None:
            loop, event = self._woken
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)
                if self.on_exit is not None:
                    loop.call_soon_threadsafe(self.on_exit)

    async def main_loop(self) -> None:
        loop, event = self._woken = asyncio.get_running_loop(), asyncio.Event()
        while not await self.on_tick(0):  # Renews the Date header.
            try:
                async with asyncio.timeout(ended_together(_DATE_SECONDS, loop.time())):
                    await event.wait()
            except TimeoutError:
                continue
