"""Keeps streamed features fresh: the log is polled for new events, quickly while there are some."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from antiphon.core.errors import AntiphonError
from antiphon.orchestration.worker import wait

_log = logging.getLogger("antiphon.worker")


class StreamPoller:
    """Moves events into the online store until told to stop.

    Args:
        consume: takes at most so many events of each stream and says how many there were; called in a thread.
        poll: seconds between looks while there is nothing new.
        batch: events taken in one go at most, so that stopping is never far.
        budget: seconds that one go may take: a slow store gets smaller batches, down to a hundredth, so that the first
            event of a burst does not wait for its last.
        now: monotonic seconds.
    """

    def __init__(
        self,
        consume: Callable[[int], int],
        *,
        poll: float,
        batch: int,
        budget: float = 0.25,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._consume = consume
        self._poll = poll
        self._batch = batch
        self._budget = budget
        self._next = batch
        self._now = now

    async def run_until(self, stop: asyncio.Event) -> None:
        """Consume until ``stop``. What fails is tried again, less and less often: offsets say where it was."""
        pause = self._poll
        while not stop.is_set():
            try:
                started = self._now()
                moved = await asyncio.to_thread(self._consume, self._next)
                self._next = self._sized(self._now() - started)
                pause = self._poll
            except AntiphonError:
                _log.exception("The streams cannot be consumed; trying again.")
                moved, pause = 0, min(max(pause, 0.1) * 2, 5.0)
            if moved == 0:
                await wait(stop, pause)

    def _sized(self, took: float) -> int:
        """Half as many when it took too long, twice as many when there was time for it."""
        if took > self._budget:
            return max(self._next // 2, self._batch // 100, 1)
        return min(self._next * 2, self._batch) if took < self._budget / 2 else self._next
