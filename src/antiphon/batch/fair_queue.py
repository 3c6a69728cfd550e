"""The fair queue of batch work: slots at the engine, shared by jobs and tenants.

Invariants, of requests that wait for a slot:

- None waits longer than :data:`MAX_WAIT_SECONDS` while others are served: one that has is next, the longest wait first.
- Jobs whose laxity is short go by deadline (EDF), before all others, but take at most :data:`ESCALATED_SHARE` of the
  slots while others wait too.
- Otherwise the tenant goes next that has fewest slots by its share, and among equals the one whose turn it is by
  start-time fair queueing (Goyal, Vin and Cheng 1996), a slot of a tenant with a share of two counting half; then the
  one that has waited longest since its last slot. A tenant with one small batch does not wait for another's fifty
  thousand requests. Of a tenant's own jobs that one goes on whose next prompt begins as the last one did; else the one
  that waits longest.

Laxity is the time until the deadline less the time that the work left takes (Mok, *Fundamental design problems of
distributed systems for the hard-real-time environment*, 1983). It only says when the deadline begins to matter; the
order is EDF's, which does not let two jobs take turns at being late as the order by least laxity does.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import floor, inf

import msgspec

from antiphon.serving.request import Tier

MAX_WAIT_SECONDS = 60.0
ESCALATED_SHARE = 0.75
SHORT_LAXITY_SECONDS, SHORT_LAXITY_SHARE = 120.0, 1.0
"""Laxity is short below so many seconds, or such a share of the time that the work left takes."""


class SlotRequest(msgspec.Struct, frozen=True):
    """A job's request of a slot for its next row. Instants are seconds of one clock.

    Attributes:
        since: when it began to wait.
        deadline: of the job.
        seconds_left: time that the job's work takes if it has all that batch work gets.
        prefix: digest of the beginning of the row's prompt; 0 for none.
    """

    tenant: str
    job: str
    since: float = 0.0
    deadline: float = inf
    seconds_left: float = 0.0
    prefix: int = 0

    def laxity(self, now: float) -> float:
        """Seconds that the job can still wait."""
        return self.deadline - now - self.seconds_left

    def escalates(self, now: float) -> bool:
        """``True`` when its laxity is short."""
        return self.laxity(now) < max(SHORT_LAXITY_SECONDS, SHORT_LAXITY_SHARE * self.seconds_left)

    def tier(self, now: float) -> Tier:
        """Tier of a row that is asked now: with short laxity it goes before other batch work in the engine too."""
        return "priority" if self.escalates(now) else "default"


class QueueState(msgspec.Struct, frozen=True):
    """State of the slots.

    Attributes:
        slots: slots in all; ``escalated``: those held by jobs with short laxity.
        held: slots held, by tenant.
        last: by tenant, the number of its last slot and the prefix of its row.
        shares: of tenants, 1 for those that are not named.
        turn: the virtual time now; ``ends``: at which each tenant's last turn ends.
    """

    slots: int
    escalated: int
    held: Mapping[str, int]
    last: Mapping[str, tuple[int, int]]
    shares: Mapping[str, float] = {}
    turn: float = 0.0
    ends: Mapping[str, float] = {}


def next_request(waiting: Sequence[SlotRequest], state: QueueState, now: float) -> SlotRequest:
    """Chooses the request that gets the next slot; at least one waits."""
    longest = min(waiting, key=lambda request: request.since)
    if now - longest.since > MAX_WAIT_SECONDS:
        return longest
    urgent = [request for request in waiting if request.escalates(now)]
    others = [request for request in waiting if not request.escalates(now)]
    if urgent and (not others or state.escalated < ESCALATED_SHARE * state.slots):
        return min(urgent, key=lambda request: (request.deadline, request.since))

    def fairness(request: SlotRequest) -> tuple[int, float, int, bool, float]:
        number, prefix = state.last.get(request.tenant, (0, 0))
        # Whole shares: a part of one is made up for by turns.
        held = floor(state.held.get(request.tenant, 0) / state.shares.get(request.tenant, 1.0))
        begins = max(state.ends.get(request.tenant, 0.0), state.turn)
        return held, begins, number, not request.prefix or request.prefix != prefix, request.since

    return min(others, key=fairness)


class FairQueue:
    """Hands out so many slots in the order of :func:`next_request`, for one event loop; ``now`` reads the clock that
    the requests' instants are of, ``share`` a tenant's share."""

    def __init__(
        self, slots: int, now: Callable[[], float] = time.time, share: Callable[[str], float] = lambda tenant: 1.0
    ) -> None:
        self._slots = slots
        self._now = now
        self._share = share
        self._held: Counter[str] = Counter()
        self._escalated: Counter[SlotRequest] = Counter()
        self._last: dict[str, tuple[int, int]] = {}
        self._ends: dict[str, float] = {}
        self._granted, self._turn = 0, 0.0
        self._waiting: list[tuple[SlotRequest, asyncio.Future[None]]] = []

    async def acquire(self, request: SlotRequest) -> None:
        """Waits for a slot and takes it; :meth:`release` gives it back. The wait may be cancelled."""
        if self._free and not self._waiting:
            self._grant(request)
            return
        granted = asyncio.get_running_loop().create_future()
        self._waiting.append((request, granted))
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self.release(request)
            else:
                self._remove(granted)
            raise

    def release(self, request: SlotRequest) -> None:
        """Gives back the slot that this request got."""
        self._held[request.tenant] -= 1
        if not self._held[request.tenant]:
            del self._held[request.tenant]
        if self._escalated[request]:
            self._escalated[request] -= 1
        self._escalated = +self._escalated
        while self._free and self._waiting:
            waiting = [request for request, _ in self._waiting]
            shares = {tenant: self._share(tenant) for tenant in {request.tenant for request in waiting}}
            state = QueueState(
                self._slots, self._escalated.total(), self._held, self._last, shares, self._turn, self._ends
            )
            chosen = next_request(waiting, state, self._now())
            granted = next(granted for request, granted in self._waiting if request is chosen)
            self._remove(granted)
            if not granted.done():
                self._grant(chosen)
                granted.set_result(None)

    @property
    def _free(self) -> int:
        return self._slots - self._held.total()

    def _grant(self, request: SlotRequest) -> None:
        self._granted += 1
        self._held[request.tenant] += 1
        if request.escalates(self._now()):
            self._escalated[request] += 1
        self._last[request.tenant] = (self._granted, request.prefix)
        self._turn = max(self._ends.get(request.tenant, 0.0), self._turn)
        self._ends[request.tenant] = self._turn + 1.0 / self._share(request.tenant)

    def _remove(self, granted: asyncio.Future[None]) -> None:
        self._waiting = [(request, one) for request, one in self._waiting if one is not granted]
