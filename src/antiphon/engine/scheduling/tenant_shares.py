"""Shares of one engine's time for the tenants whose online requests are in it together.

Start-time fair queueing (Goyal, Vin and Cheng 1996) with what calls really took as service: of a prompt's call its
tenant has all, of a decode call each tenant the part that its sequences are. The tenant that has had least goes first.
One that leads it by more than :data:`MAX_LEAD_SECONDS` computes no prompt, and takes part in a decode call only with no
more sequences than one that does not. Service is counted in virtual seconds: a second of a tenant that has more
requests here than another counts :data:`HEAVY_TENANT_WEIGHT` of them, and one of a tenant with a share of two half of
one: with as many requests it gets twice the time, and twice the slots.

Invariants:
- Of two tenants of equal shares that both have work, the one with more requests has had no more than the other, and
  half as much at least, but for :data:`MAX_LAG_SECONDS` and a step, however many requests either has.
- Time in which a tenant has no work is not saved up: it comes back :data:`MAX_LEAD_SECONDS` and
  :data:`RETURN_CREDIT_SECONDS` at most behind the one that has had most, so that a tenant that waits already has had no
  more than one that comes.
- With one tenant nothing is decided here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from antiphon.engine.scheduling.state import SequenceView

MAX_LEAD_SECONDS = 0.25
"""Virtual seconds by which a tenant may lead the one that has had least and still compute prompts."""

RETURN_CREDIT_SECONDS = 0.5
"""Virtual seconds taken off a tenant that comes with work again: it waits for the steps in flight, which are others',
and for calls that are shared."""

MAX_LAG_SECONDS = 2 * MAX_LEAD_SECONDS + RETURN_CREDIT_SECONDS
"""Virtual seconds by which a waiting tenant lags at most: more than one that has just come, so that it is served first.
"""

HEAVY_TENANT_WEIGHT = 2.0
"""Virtual seconds per second of a tenant that has more requests here than another. With equal parts a tenant that asks
one question at a time waits for twice as long as alone, and for the steps in flight as well; of many requests each
waits for the others anyway, and they share calls."""


class TenantShares:
    """Accounts each tenant's engine time, in virtual seconds; owned by the step loop's thread."""

    def __init__(self) -> None:
        self._service: dict[str, float] = {}
        self._began: dict[str, float] = {}
        self._present: Counter[str] = Counter()
        self._share: dict[str, float] = {}
        self._furthest = 0.0

    @property
    def service(self) -> Mapping[str, float]:
        """Virtual seconds of each tenant that has work here; empty where there is one."""
        if len(self._present) < 2:
            return {}
        return {tenant: self._service[tenant] for tenant in self._present}

    def arrived(self, tenant: str, share: float = 1.0) -> None:
        """One more request of a tenant, whose share is as its newest request says."""
        self._share[tenant] = share
        if not self._present[tenant]:
            behind = MAX_LEAD_SECONDS + RETURN_CREDIT_SECONDS if self._present else 0.0
            start = floor = self._furthest - behind
            if (had := self._service.get(tenant)) is not None:
                # At most half of it: who comes again and again still moves on, and nobody waits for that for ever.
                taken_off = min(RETURN_CREDIT_SECONDS, (had - self._began[tenant]) / 2)
                start = max(had - taken_off, floor)
            self._service[tenant] = self._began[tenant] = start
        self._present[tenant] += 1

    def left(self, tenant: str) -> None:
        """One of its requests has ended."""
        self._present[tenant] -= 1
        if not self._present[tenant]:
            del self._present[tenant]
            if not self._present:
                self._service.clear()
                self._began.clear()
                self._share.clear()
                self._furthest = 0.0

    def charge(self, tenant: str, seconds: float) -> None:
        """Count seconds of computing for a tenant; the others lag by :data:`MAX_LAG_SECONDS` at most."""
        heavy = self._present[tenant] > min(self._present.values(), default=0)
        weight = (HEAVY_TENANT_WEIGHT if heavy else 1.0) / self._share[tenant]
        had = self._service[tenant] = self._service[tenant] + seconds * weight
        self._furthest = max(self._furthest, had)
        for other in self._present:
            self._service[other] = max(self._service[other], had - MAX_LAG_SECONDS)


def entitled(online: Sequence[SequenceView], service: Mapping[str, float]) -> Sequence[SequenceView]:
    """The sequences whose tenants may have some of the next step."""
    if not service:
        return online
    least = min((service.get(sequence.tenant, 0.0) for sequence in online), default=0.0)
    return [sequence for sequence in online if service.get(sequence.tenant, 0.0) <= least + MAX_LEAD_SECONDS]


def sharing_a_call(online: Sequence[SequenceView], turn: Sequence[SequenceView]) -> Sequence[SequenceView]:
    """The generating sequences of the next decode call: of a tenant that is ahead, only if it has no more of them, by
    its share, than one whose turn it is, for then the call is shared as it should be.

    Args:
        turn: those whose tenants are entitled to the next step.
    """
    generating = [sequence for sequence in online if sequence.generating]
    counts = Counter(sequence.tenant for sequence in generating)
    entitled_tenants = {sequence.tenant for sequence in turn}
    most = max((counts[each.tenant] / each.share for each in turn), default=0.0)
    return [
        each
        for each in generating
        if each.tenant in entitled_tenants or counts[each.tenant] <= (most * each.share if most else 1)
    ]


def by_tenant(sequences: Iterable[SequenceView], key: Callable[[SequenceView], Any]) -> dict[str, list[SequenceView]]:
    """Each tenant's sequences, those with the least key last, so that they are taken from the end.

    Choosing among tenants' first ones instead of among all keeps a step's decisions linear in a crowd.
    """
    queues: dict[str, list[SequenceView]] = {}
    for sequence in sorted(sequences, key=key, reverse=True):
        queues.setdefault(sequence.tenant, []).append(sequence)
    return queues


def take_first(queues: dict[str, list[SequenceView]], tenant: str) -> None:
    """Take a tenant's first sequence out of :func:`by_tenant`'s queues."""
    queues[tenant].pop()
    if not queues[tenant]:
        del queues[tenant]


def least_served(prompts: Iterable[SequenceView], service: Mapping[str, float]) -> SequenceView:
    """Of each tenant's oldest prompt, that of the tenant that has had least; those that go ahead of others come
    before."""
    return min(prompts, key=lambda each: (each.order >= 0, service.get(each.tenant, 0.0), each.order))


def next_for_a_slot(
    waiting: Iterable[SequenceView], held: Mapping[str, int], service: Mapping[str, float]
) -> SequenceView:
    """The sequence that gets the next free slot: of the tenant with fewest by its share, one that had to give its slot
    up before one that never had any, the oldest first.

    Args:
        waiting: each tenant's first one in this order.
        held: slots of each tenant now.
    """
    return min(
        waiting,
        key=lambda each: (
            each.order >= 0,
            held.get(each.tenant, 0) / each.share,
            each.residency == "waiting",
            service.get(each.tenant, 0.0),
            each.order,
        ),
    )


def slot_to_give_up(resident: Iterable[SequenceView], held: Mapping[str, int]) -> SequenceView | None:
    """The sequence whose slot a tenant without one gets: of the tenant that holds most by its share, the youngest that
    has written nothing yet, or else the youngest; ``None``: no tenant has several.

    Args:
        resident: online sequences that have a slot now.
        held: slots of each tenant, with those given in this step.
    """
    candidates = [sequence for sequence in resident if held.get(sequence.tenant, 0) > 1]
    return max(
        candidates, key=lambda each: (held[each.tenant] / each.share, not each.generating, each.order), default=None
    )
