"""Whose row goes next: the order of batch work across jobs and tenants.

Invariants, of claims that wait for a turn:

- Nobody waits longer than :data:`MOST_WAIT_SECONDS` while others are served: whoever has is next, the longest wait
  first.
- Jobs whose laxity is short go by deadline (EDF), before all others, but take at most :data:`ESCALATED_SHARE` of the
  turns while others wait too.
- Otherwise whoever has fewest turns under way goes next, and among equals whoever has waited longest since its last
  one: a tenant with one small batch does not wait for another's fifty thousand requests. Of a tenant's own jobs the one
  goes on whose next prompt begins as the last one did; else who waits longest.

Laxity is the time until the deadline less the time that the work left takes (Mok, *Fundamental design problems of
distributed systems for the hard-real-time environment*, 1983). It only says when the deadline begins to matter; the
order is EDF's, which does not let two jobs take turns at being late as the order by least laxity does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

import msgspec

from antiphon.serving.request import Tier

MOST_WAIT_SECONDS = 60.0
ESCALATED_SHARE = 0.75
SHORT_LAXITY_SECONDS, SHORT_LAXITY_SHARE = 120.0, 0.5
"""Laxity is short below so many seconds, or such a share of the time that the work left takes."""


class Claim(msgspec.Struct, frozen=True):
    """A job that wants a turn for its next row. Instants are seconds of one clock.

    Attributes:
        since: when it began to wait.
        deadline: when the job should have ended.
        seconds_left: how long its work takes if it has all that batch work gets.
        prefix: names the beginning of the row's prompt; 0 for none.
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
        """Whether its laxity is short."""
        return self.laxity(now) < max(SHORT_LAXITY_SECONDS, SHORT_LAXITY_SHARE * self.seconds_left)

    def tier(self, now: float) -> Tier:
        """Of a row that is asked now: when its laxity is short it goes ahead of other batch work in the engine too, and
        beside online."""
        return "priority" if self.escalates(now) else "default"


class Turned(msgspec.Struct, frozen=True):
    """What is known of turns.

    Attributes:
        most: turns at once, and how many of them are taken by jobs that escalated.
        taken: turns under way by tenant.
        last: by tenant, the number of its last turn and the prefix of it.
    """

    most: int
    escalated: int
    taken: Mapping[str, int]
    last: Mapping[str, tuple[int, int]]


def following(waiting: Sequence[Claim], turned: Turned, now: float) -> Claim:
    """Who goes next of those who wait; at least one does."""
    longest = min(waiting, key=lambda claim: claim.since)
    if now - longest.since > MOST_WAIT_SECONDS:
        return longest
    pressed = [claim for claim in waiting if claim.escalates(now)]
    others = [claim for claim in waiting if not claim.escalates(now)]
    if pressed and (not others or turned.escalated < ESCALATED_SHARE * turned.most):
        return min(pressed, key=lambda claim: (claim.deadline, claim.since))

    def fairly(claim: Claim) -> tuple[int, int, bool, float]:
        number, prefix = turned.last.get(claim.tenant, (0, 0))
        return turned.taken.get(claim.tenant, 0), number, not claim.prefix or claim.prefix != prefix, claim.since

    return min(others, key=fairly)
