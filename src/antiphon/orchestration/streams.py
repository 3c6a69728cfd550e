"""Keeps streamed features fresh: every stream's consumer is polled, quickly while there is something to consume."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from antiphon.core.errors import AntiphonError
from antiphon.orchestration.ports import Consumer

_log = logging.getLogger("antiphon.worker")


class Streams:
    """Polls consumers until told to stop.

    Args:
        consumers: called now and then, since a newly applied project brings new streams.
        poll: seconds between polls of a stream that had nothing new.
        batch: events consumed in one go, so that stopping is never far.
    """

    def __init__(self, consumers: Callable[[], Sequence[Consumer]], *, poll: float, batch: int) -> None:
        self._consumers = consumers
        self._poll = poll
        self._batch = batch

    async def run_until(self, stop: asyncio.Event) -> None:
        """Consume until ``stop``. A stream that fails is tried again; the others go on."""
        pause = self._poll
        while not stop.is_set():
            moved = 0
            try:
                for consumer in await asyncio.to_thread(self._consumers):
                    moved += await self._advance(consumer)
                pause = self._poll
            except AntiphonError:
                _log.exception("The streams cannot be listed; trying again.")
                pause = min(max(pause, 0.1) * 2, 5.0)
            if moved == 0:
                await wait(stop, pause)

    async def _advance(self, consumer: Consumer) -> int:
        try:
            return await asyncio.to_thread(consumer.poll, self._batch)
        except AntiphonError:
            _log.exception("Stream %s cannot be consumed; trying again.", consumer.stream)
            return 0


async def wait(stop: asyncio.Event, seconds: float) -> None:
    """Return after so many seconds, or as soon as ``stop`` is set."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
