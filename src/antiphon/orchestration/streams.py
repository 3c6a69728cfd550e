"""Keeps streamed features fresh: takes new events from the log when it rings, and more while there are some."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from antiphon.catalog.doorbell import Wakeup
from antiphon.core.errors import AntiphonError
from antiphon.core.pauses import wait

_UNSETTLED_SECONDS = 1.0

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
"""Seconds after a failure, at first (doubled) and at most."""

_log = logging.getLogger("antiphon.worker")


class StreamPoller:
    """Moves events into the online store until told to stop.

    Args:
        consume: takes at most so many events of each stream and says how many there were; called in a thread.
        poll: seconds between looks while there is nothing new and nothing rings; at most a second while ``unsettled``
            says that there is work without new events.
        batch: events taken in one go at most, so that stopping is never far.
        budget: seconds that one go may take: a slow store gets smaller batches, down to a hundredth, so that the first
            event of a burst does not wait for its last.
        wakeup: rings for new events; ``None`` polls alone.
        now: monotonic seconds.
    """

    def __init__(
        self,
        consume: Callable[[int], int],
        *,
        poll: float,
        batch: int,
        budget: float = 0.25,
        wakeup: Wakeup | None = None,
        unsettled: Callable[[], bool] = lambda: False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._consume = consume
        self._poll = poll
        self._batch = batch
        self._budget = budget
        self._next = batch
        self._wakeup = wakeup or Wakeup()
        self._unsettled = unsettled
        self._now = now

    async def run_until(self, stop: asyncio.Event) -> None:
        """Consume until ``stop``. What fails is tried again, less and less often: offsets say where it was."""
        failed, found = 0, True
        with self._wakeup as wakeup:
            while not stop.is_set():
                try:
                    started = self._now()
                    moved = await asyncio.to_thread(self._consume, self._next)
                    self._next = self._sized(self._now() - started)
                    failed = 0
                    pause = min(self._poll, _UNSETTLED_SECONDS) if self._unsettled() else wakeup.rested(self._poll)
                except AntiphonError:
                    _log.exception("The streams cannot be consumed; trying again.")
                    moved, failed = 0, failed + 1
                    pause = min(_FIRST_PAUSE * 2 ** min(failed, 10), _LONGEST_PAUSE)
                found = found or moved > 0
                if failed:
                    await wait(stop, pause)  # New events would be logged as another failure.
                elif moved == 0:
                    await wakeup.wait_until(stop, pause, found=found)
                    found = False

    def _sized(self, took: float) -> int:
        """Half as many when it took too long, twice as many when there was time for it."""
        if took > self._budget:
            return max(self._next // 2, self._batch // 100, 1)
        return min(self._next * 2, self._batch) if took < self._budget / 2 else self._next
