"""A gate in front of one engine: at most as many online requests inside it as it can use, the others in order of tier
and, inside a tier, by fair queueing of tenants.

Turns are start-time fair queueing (Goyal, Vin and Cheng 1996): a request begins where its tenant's last one ended, or
where the queue is now; it ends so many tokens later, divided by the tenant's share; the earliest beginning is next.

Invariants:
- One tenant's requests are let in in order of arrival, and so are all where there is one tenant.
- Of tenants that have requests waiting, each is let in by its share, to within one request of each, however many they
  have. A tenant that has nothing inside and has not had more than the others does not wait for one that has: a few
  places beyond the limit are for it.
- A request that was never let in costs its tenant nothing, and neither does what was let in before the gate was last
  empty.
- Batch work, and what runs as batch work, passes untouched: it takes what online leaves in the engine itself.
- A request that waits here longer than the queue's bound, or would by the engine's measured rate, is refused with the
  moment at which there will be room. Of several refused requests each gets a moment of its own, so that they do not
  come back together. Refusals of a tenant that keeps asking are delayed.
- While the engine is being started nothing is refused for its wait, and nothing of it is taken for the engine's rate.
- A place is given back when its generation ends, however it ends; a caller that goes away while it waits leaves none.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from operator import attrgetter

import msgspec

from antiphon.core.errors import OverloadedError
from antiphon.engine.api.messages import (
    Delta,
    EngineDescription,
    GenerationRequest,
    GenerationResult,
    GenerationUsage,
    TextEmbeddingRequest,
    TextEmbeddings,
)
from antiphon.engine.api.port import GenerationEngine
from antiphon.serving.admission.gradient import Gradient, SampleWindow
from antiphon.serving.admission.refusals import RefusalThrottle, SlotReleaseRate

WINDOW_SECONDS = 0.25
WINDOW_SAMPLES = 10
HOPE = 0.5
"""Of the queue's bound, what the expected wait may come to: times differ, and who has waited in vain waits again."""

BEYOND_SHARE = 8
"""Of the limit, one in so many places (one at least) is beyond it, for tenants that have nothing inside."""
CHARACTERS_PER_TOKEN = 4
MOST_TENANTS = 10_000


@dataclass(slots=True, eq=False)
class _WaitingRequest:
    """A request that waits. ``begin`` moves forward when one of its tenant before it goes away."""

    rank: int
    begin: float
    number: int
    tenant: str
    tokens: float
    future: asyncio.Future[None]

    @property
    def place(self) -> tuple[int, float, int]:
        """The smallest is next."""
        return self.rank, self.begin, self.number


class GateStatus(msgspec.Struct, frozen=True):
    """State of the gate: its limit, requests inside and waiting, and the release rate a second (0: unknown).

    Attributes:
        waited: seconds, since the start, in which answers of an engine that tells its own time were waited for.
        on_the_way: of these, seconds that the engine knows nothing of.
    """

    limit: int
    inside: int
    waiting: int
    pace: float
    waited: float = 0.0
    on_the_way: float = 0.0


class EngineGate:
    """Counts the slots of one engine. It belongs to one event loop.

    Args:
        start: the limit before anything is measured; ``most``: what it never goes beyond, but for tenants that have
            nothing inside.
        queue_seconds: longest wait for a slot.
        monotonic: the clock, in seconds.
        adaptive: measure and follow; otherwise the limit stays at ``start``.
        share: a tenant's share; with twice another's, twice as many tokens of its requests are let in.
    """

    def __init__(
        self,
        start: int,
        most: int,
        queue_seconds: float,
        monotonic: Callable[[], float],
        *,
        adaptive: bool = True,
        share: Callable[[str], float] = lambda tenant: 1.0,
    ) -> None:
        self._start, self._declared = float(start), float(max(most, start))
        self.gradient = Gradient(self._start, most=self._declared)
        self._queue_seconds = queue_seconds
        self._monotonic = monotonic
        self._adaptive = adaptive
        self.share = share
        self._inside = 0
        self._inside_of: Counter[str] = Counter()
        self._number = 0
        self._turn = 0.0
        self._ends: dict[tuple[int, str], float] = {}
        self._waiting: list[_WaitingRequest] = []
        self._release_rate = SlotReleaseRate(monotonic)
        self._refusal_throttle = RefusalThrottle(monotonic)
        self._opened = monotonic()
        self._seconds: list[float] = []
        self._queued: list[float] = []
        self._most = 0
        self._started_at = float("-inf")
        self._waited = self._on_the_way = 0.0

    @property
    def status(self) -> GateStatus:
        """The present state of the gate."""
        return GateStatus(
            int(self.gradient.limit),
            self._inside,
            self._count_waiting(),
            self._release_rate.per_second,
            self._waited,
            self._on_the_way,
        )

    def divide(self, processes: int) -> None:
        """Take an equal share of the most that the limit may become, one of so many processes; before anything is
        measured, of the limit as well."""
        most = max(self._declared / processes, 1.0)
        limit = self.gradient.limit if self.gradient.windows else max(self._start / processes, 1.0)
        self.gradient = msgspec.structs.replace(self.gradient, limit=min(limit, most), most=most)
        self._admit()

    async def enter(self, rank: int, tenant: str = "", tokens: float = 1.0) -> None:
        """Take a place, in order of rank (smaller first), then by turns; :meth:`leave` gives it back.

        Args:
            tokens: how much it is expected to take.

        Raises:
            OverloadedError: there will be none within the queue's bound; ``retry_after`` says when there will.
        """
        begin = max(self._turn, self._ends.get((rank, tenant), 0.0))
        if self._has_room(tenant, begin):  # Nobody who waits has: whoever gets room is let in at once.
            self._book(rank, tenant, begin, tokens)
            self._take(tenant, begin)
            return
        self._number += 1
        place = (rank, begin, self._number)
        ahead = sum(not other.future.done() and other.place < place for other in self._waiting)
        if self._release_rate.seconds(ahead + 1) > HOPE * self._queue_seconds:
            await asyncio.sleep(self._refusal_throttle.delay(tenant))
            raise self._refusal()
        self._book(rank, tenant, begin, tokens)
        future = asyncio.get_running_loop().create_future()
        waiting = _WaitingRequest(*place, tenant, tokens, future)
        insort(self._waiting, waiting, key=attrgetter("place"))
        self._admit()
        try:
            await self._turn_of(future)
        except BaseException as error:
            self._withdraw(waiting)
            if future.done() and not future.cancelled():
                self.leave(tenant)  # the place came in the same moment
            future.cancel()
            self._admit()
            if isinstance(error, TimeoutError):
                raise self._refusal() from None
            raise

    async def _turn_of(self, future: asyncio.Future[None]) -> None:
        while True:
            try:
                async with asyncio.timeout(self._queue_seconds):
                    return await asyncio.shield(future)
            except TimeoutError:
                if self._monotonic() - self._started_at > self._queue_seconds:
                    raise

    def starts(self) -> None:
        """The engine is being started, for as long as this is called again and again."""
        self._started_at = self._monotonic()

    def leave(self, tenant: str = "") -> None:
        """Give a place back."""
        self._inside -= 1
        self._inside_of[tenant] -= 1
        if not self._inside_of[tenant]:
            del self._inside_of[tenant]
        self._admit()

    def measure(self, seconds: float, queued: float | None) -> None:
        """One request has ended ``seconds`` after it was given to the engine, ``queued`` of which it waited in it."""
        now = self._monotonic()
        self._release_rate.ended(full=self._inside >= int(self.gradient.limit))
        self._seconds.append(seconds)
        if queued is not None:
            self._queued.append(queued)
        if now - self._opened < WINDOW_SECONDS or len(self._seconds) < WINDOW_SAMPLES:
            return
        count = len(self._seconds)
        reported = sum(self._queued) / count if len(self._queued) == count else None
        if self._adaptive:
            self.gradient = self.gradient.after(SampleWindow(sum(self._seconds) / count, reported, self._most))
        self._opened, self._seconds, self._queued, self._most = now, [], [], self._inside
        self._admit()

    def count_way(self, waited: float, usage: GenerationUsage) -> None:
        """An answer was waited for so many seconds, without those in which its reader was; the engine tells its own."""
        self._waited += waited
        known = usage.start_seconds + usage.queue_seconds + usage.prefill_seconds + usage.decode_seconds
        self._on_the_way += max(0.0, waited - known)

    def _has_room(self, tenant: str, begin: float) -> bool:
        limit = int(self.gradient.limit)
        # One that is ahead of the queue's time waits for its turn: with one place, tenants would take turns by
        # requests, however long those are.
        beyond = 0 if self._inside_of[tenant] or begin > self._turn else max(limit // BEYOND_SHARE, 1)
        return self._inside < limit + beyond

    def _book(self, rank: int, tenant: str, begin: float, tokens: float) -> None:
        if len(self._ends) > MOST_TENANTS:
            self._ends = {key: end for key, end in self._ends.items() if end > self._turn}
        self._ends[rank, tenant] = begin + self._service(tenant, tokens)

    def _withdraw(self, gone: _WaitingRequest) -> None:
        """The requests of its tenant behind one that was never let in move forward, to where they would be without
        it."""
        end = gone.begin
        for each in self._waiting:
            if (each.rank, each.tenant) == (gone.rank, gone.tenant) and each.place > gone.place:
                each.begin = min(each.begin, end)
                end = each.begin + self._service(each.tenant, each.tokens)
        self._ends[gone.rank, gone.tenant] = end
        self._waiting.sort(key=attrgetter("place"))

    def _service(self, tenant: str, tokens: float) -> float:
        return tokens / self.share(tenant)

    def _take(self, tenant: str, begin: float) -> None:
        self._inside += 1
        self._inside_of[tenant] += 1
        self._turn = max(self._turn, begin)
        self._most = max(self._most, self._inside)

    def _admit(self) -> None:
        while True:
            self._waiting = [each for each in self._waiting if not each.future.done()]
            following = next((each for each in self._waiting if self._has_room(each.tenant, each.begin)), None)
            if following is None:
                break
            self._take(following.tenant, following.begin)
            following.future.set_result(None)
        if not self._inside and not self._waiting:
            # What was had before a time with no work at all is not made up for, and nothing waits by its rate.
            self._ends.clear()
            self._turn = 0.0
            self._release_rate.forget()

    def _count_waiting(self) -> int:
        return sum(not each.future.done() for each in self._waiting)

    def _refusal(self) -> OverloadedError:
        waiting = self._count_waiting()
        # Not at the first moment at which there may be room, but when the queue has half of what it may have.
        return OverloadedError(
            f"The engine has all the requests that it can use ({self._inside}), and {waiting} wait.",
            retry_after=self._release_rate.retry_after(
                self._release_rate.seconds(waiting + 1) - HOPE * self._queue_seconds / 2
            ),
            where="admission",
            next_step="Try again after the time that Retry-After says.",
        )


class GatedEngine:
    """An engine behind a gate; implements ``GenerationEngine``. ``tells_queue``: its usage says how long a request
    waited in it."""

    def __init__(
        self, engine: GenerationEngine, gate: EngineGate, monotonic: Callable[[], float], *, tells_queue: bool
    ) -> None:
        self._engine = engine
        self.gate = gate
        self._monotonic = monotonic
        self._tells_queue = tells_queue

    async def describe(self) -> EngineDescription:
        """See the engine behind."""
        return await self._engine.describe()

    async def embed(self, request: TextEmbeddingRequest) -> TextEmbeddings:
        """As the engine does: texts to embed take no slot, and wait in the engine in their own order."""
        return await self._engine.embed(request)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta | GenerationResult, None]:
        """As the engine does, once there is a place; raises ``OverloadedError`` as :meth:`EngineGate.enter`."""
        if request.priority == "batch":
            async with aclosing(self._engine.generate(request)) as events:
                async for event in events:
                    yield event
            return
        if (share := self.gate.share(request.tenant)) != request.share:
            request = msgspec.structs.replace(request, share=share)  # The engine does not know tenants.
        await self.gate.enter(0 if request.ahead else 1, request.tenant, expected_tokens(request))
        began = resumed = self._monotonic()
        waited = 0.0
        try:
            async with aclosing(self._engine.generate(request)) as events:
                async for event in events:
                    waited += self._monotonic() - resumed
                    if isinstance(event, Delta) and event.starting is not None:
                        began = self._monotonic()
                        self.gate.starts()
                    elif isinstance(event, GenerationResult) and event.reason != "cancelled":
                        queued = event.usage.queue_seconds if self._tells_queue else None
                        self.gate.measure(self._monotonic() - began, queued)
                        if self._tells_queue:
                            self.gate.count_way(waited, event.usage)
                    yield event
                    resumed = self._monotonic()
        finally:
            self.gate.leave(request.tenant)


def expected_tokens(request: GenerationRequest) -> float:
    """Number of tokens that a request may take, prompt and answer."""
    sent = len(request.prompt) + sum(len(turn.content) for turn in request.messages)
    return len(request.prompt_ids) + sent / CHARACTERS_PER_TOKEN + request.max_tokens
