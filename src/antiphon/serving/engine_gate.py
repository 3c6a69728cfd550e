"""In front of one engine: at most as many online requests inside it as it can use, the others in order of tier.

Invariants:
- Batch work, and what runs as batch work, passes untouched: it takes what online leaves in the engine itself.
- Whoever waits here longer than the queue's bound, or would by the engine's measured pace, is refused with the moment
  at which there will be room. Of several that are refused each gets a moment of its own, so that they do not come back
  together.
- A place is given back when its generation ends, however it ends; a caller that goes away while it waits leaves none.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import msgspec

from antiphon.core.errors import Overloaded
from antiphon.engine.messages import Delta, Described, Embed, Embedded, Finished, Generate
from antiphon.serving.drain import Drain
from antiphon.serving.gradient import Gradient, Window
from antiphon.serving.ports import EmbeddingEngine

WINDOW_SECONDS = 0.25
WINDOW_SAMPLES = 10
HOPE = 0.5
"""Of the queue's bound, what the expected wait may come to: times differ, and who has waited in vain waits again."""


class GateStatus(msgspec.Struct, frozen=True):
    """How the gate stands: the limit, who is inside, who waits, and how many a second come out (0: not known yet)."""

    limit: int
    inside: int
    waiting: int
    pace: float


class Gate:
    """Counts places. It belongs to one event loop.

    Args:
        start: the limit before anything is measured; ``most``: what it never goes beyond.
        queue_seconds: how long somebody may wait for a place.
        monotonic: the clock, in seconds.
        adaptive: measure and follow; otherwise the limit stays at ``start``.
    """

    def __init__(
        self,
        start: int,
        most: int,
        queue_seconds: float,
        monotonic: Callable[[], float],
        *,
        least: int = 1,
        adaptive: bool = True,
    ) -> None:
        self.gradient = Gradient(float(start), float(least), float(max(most, start)))
        self._queue_seconds = queue_seconds
        self._monotonic = monotonic
        self._adaptive = adaptive
        self._inside = 0
        self._number = 0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._drain = Drain(monotonic)
        self._opened = monotonic()
        self._seconds: list[float] = []
        self._queued: list[float] = []
        self._most = 0

    @property
    def status(self) -> GateStatus:
        """How the gate stands now."""
        waiting = sum(not future.done() for _, _, future in self._waiting)
        return GateStatus(int(self.gradient.limit), self._inside, waiting, self._drain.per_second)

    async def enter(self, rank: int) -> None:
        """Take a place, in order of rank (smaller first) and arrival; :meth:`leave` gives it back.

        Raises:
            Overloaded: there will be none within the queue's bound; ``retry_after`` says when there will.
        """
        if self._inside < int(self.gradient.limit) and not self._waiting:
            self._take()
            return
        ahead = sum(not future.done() and before <= rank for before, _, future in self._waiting)
        if self._drain.seconds(ahead + 1) > HOPE * self._queue_seconds:
            raise self._refusal()
        future = asyncio.get_running_loop().create_future()
        self._number += 1
        heapq.heappush(self._waiting, (rank, self._number, future))
        self._admit()
        try:
            async with asyncio.timeout(self._queue_seconds):
                await asyncio.shield(future)
        except BaseException as error:
            if future.done() and not future.cancelled():
                self.leave()  # the place came in the same moment
            future.cancel()
            self._admit()
            if isinstance(error, TimeoutError):
                raise self._refusal() from None
            raise

    def leave(self) -> None:
        """Give a place back."""
        self._inside -= 1
        self._admit()

    def measure(self, seconds: float, queued: float | None) -> None:
        """One request has ended ``seconds`` after it was given to the engine, ``queued`` of which it waited in it."""
        now = self._monotonic()
        self._drain.ended(full=self._inside >= int(self.gradient.limit))
        self._seconds.append(seconds)
        if queued is not None:
            self._queued.append(queued)
        if now - self._opened < WINDOW_SECONDS or len(self._seconds) < WINDOW_SAMPLES:
            return
        count = len(self._seconds)
        told = sum(self._queued) / count if len(self._queued) == count else None
        if self._adaptive:
            self.gradient = self.gradient.after(Window(sum(self._seconds) / count, told, self._most))
        self._opened, self._seconds, self._queued, self._most = now, [], [], self._inside
        self._admit()

    def _take(self) -> None:
        self._inside += 1
        self._most = max(self._most, self._inside)

    def _admit(self) -> None:
        while self._waiting and (self._waiting[0][2].done() or self._inside < int(self.gradient.limit)):
            future = heapq.heappop(self._waiting)[2]
            if not future.done():
                self._take()
                future.set_result(None)

    def _refusal(self) -> Overloaded:
        waiting = sum(not future.done() for _, _, future in self._waiting)
        # Not at the first moment at which there may be room, but when the queue has half of what it may have.
        return Overloaded(
            f"The engine has all the requests that it can use ({self._inside}), and {waiting} wait.",
            retry_after=self._drain.retry_after(self._drain.seconds(waiting + 1) - HOPE * self._queue_seconds / 2),
            where="admission",
            next_step="Try again after the time that Retry-After says.",
        )


class GatedEngine:
    """An engine behind a gate; implements ``serving.ports.EmbeddingEngine``.

    Args:
        tells_queue: whether the engine's usage says how long a request waited in it.
    """

    def __init__(
        self, engine: EmbeddingEngine, gate: Gate, monotonic: Callable[[], float], *, tells_queue: bool
    ) -> None:
        self._engine = engine
        self.gate = gate
        self._monotonic = monotonic
        self._tells_queue = tells_queue

    async def describe(self) -> Described:
        """What the engine says of itself."""
        return await self._engine.describe()

    async def embed(self, request: Embed) -> Embedded:
        """As the engine does: texts to embed take no slot, and wait in the engine in their own order."""
        return await self._engine.embed(request)

    async def generate(self, request: Generate) -> AsyncGenerator[Delta | Finished, None]:
        """As the engine does, once there is a place.

        Raises:
            Overloaded: see :meth:`Gate.enter`.
        """
        if request.priority == "batch":
            async with aclosing(self._engine.generate(request)) as events:
                async for event in events:
                    yield event
            return
        await self.gate.enter(0 if request.ahead else 1)
        began = self._monotonic()
        try:
            async with aclosing(self._engine.generate(request)) as events:
                async for event in events:
                    if isinstance(event, Finished) and event.reason != "cancelled":
                        queued = event.usage.queue_seconds if self._tells_queue else None
                        self.gate.measure(self._monotonic() - began, queued)
                    yield event
        finally:
            self.gate.leave()
