"""Turns at the idle time of a machine: which kind of background work has it now.

The idle time is one slot, which the rule of the fair queue (``batch.fair_queue``) hands out anew every few seconds:
by the nearest deadline where laxity is short, else to the kind that has had least of it by its share. A share, times
the value that the schedule of its work declares, is what a kind's work is worth, and what a turn costs is the time that
it took: so the order is that of value over cost.

Invariants:
- Among kinds that always have work, each gets its share of the idle time, up to one turn.
- None that waits is left without a turn for longer than :data:`~antiphon.batch.fair_queue.MAX_WAIT_SECONDS` and a turn,
  however urgent the others are.
- A machine with one kind of work gives it everything, and nobody is charged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Literal

import msgspec

from antiphon.batch.fair_queue import MAX_WAIT_SECONDS, QueueState, SlotRequest, next_request

IdleWork = Literal["features", "backfill", "training", "batch"]
"""Kinds of background work that take whole machines: refreshes of features, backfills of them, fine-tuning, and batch
generation."""


class Contender(msgspec.Struct, frozen=True):
    """A kind of work that could use the machine now.

    Attributes:
        deadline: the nearest of its runs and jobs, in seconds since 1970. ``seconds_left``: what that one needs alone.
        name: that run or job, for people.
        value: what its work is worth: its share is so many times that of its kind.
    """

    work: IdleWork
    deadline: float = inf
    seconds_left: float = 0.0
    name: str = ""
    value: float = 1.0


class IdleTurns(msgspec.Struct, frozen=True):
    """The turns of a machine as they stand. Instants are seconds since 1970.

    Attributes:
        turn: whose it is; ``None`` where at most one kind has work, which then has everything.
        until: its end, unless work with a nearer deadline comes.
        why: a sentence.
        decided: moment of the last decision. ``waits``: since when each kind that has work has been without a turn.
        charged: the time that each kind has had over its share, in virtual seconds, as of start-time fair queueing.
        had: seconds that each kind had of what several wanted, since the turns began.
        overdue: it was given because its kind had waited too long, so that no deadline takes it back.
        share: of the kind whose turn it is, times what its work is worth.
    """

    turn: IdleWork | None = None
    until: float = 0.0
    why: str = ""
    decided: float = 0.0
    waits: Mapping[IdleWork, float] = {}
    charged: Mapping[IdleWork, float] = {}
    had: Mapping[IdleWork, float] = {}
    overdue: bool = False
    share: float = 1.0


def next_turn(
    state: IdleTurns, contenders: Sequence[Contender], now: float, shares: Mapping[str, float], seconds: float
) -> IdleTurns:
    """Decides whose turn it is.

    Args:
        contenders: one for each kind that has work now.
        shares: of the kinds, 1 where none is named.
        seconds: the length of a turn.
    """
    charged, had = dict(state.charged), dict(state.had)
    if state.turn is not None:
        took = max(now - state.decided, 0.0)
        charged[state.turn] = charged.get(state.turn, 0.0) + took / state.share
        had[state.turn] = had.get(state.turn, 0.0) + took
    if len(contenders) < 2:
        return IdleTurns(decided=now, charged=_caught_up(charged), had=had)
    present = {one.work for one in contenders}
    worth = {str(one.work): shares.get(one.work, 1.0) * one.value for one in contenders}
    waits = {
        work: state.waits.get(work, now) for work in present if work != state.turn
    }  # fmt: skip
    # Who was away is owed nothing for it, as of start-time fair queueing.
    behind = min((charged.get(work, 0.0) for work in present if work in state.waits or work == state.turn), default=0.0)
    charged = {work: max(charged.get(work, 0.0), behind) for work in present}
    asking = {
        one.work: SlotRequest(one.work, one.work, waits.get(one.work, now), one.deadline, one.seconds_left)
        for one in contenders
    }
    holder = None if state.turn is None else asking.get(state.turn)
    if holder is not None and now < state.until:
        nearer = not state.overdue and any(
            one.escalates(now) and (not holder.escalates(now) or one.deadline < holder.deadline)
            for one in asking.values()
            if one is not holder
        )
        if not nearer:
            return msgspec.structs.replace(
                state, decided=now, waits=waits, charged=charged, had=had, share=worth[holder.tenant]
            )
    queue = QueueState(1, 0, {}, {}, worth, 0.0, {str(work): at for work, at in charged.items()})
    chosen = next_request(list(asking.values()), queue, now)
    found = next(one for one in contenders if one.work == chosen.tenant)
    overdue = now - chosen.since > MAX_WAIT_SECONDS
    if overdue:
        why = "it has waited for longer than a minute"
    elif chosen.escalates(now):
        why = f"{found.name} is due soon"
    else:
        why = "it has had least of the idle time by its share"
        if found.value != 1.0:
            why += f", and is worth {found.value:g}"
    waits = {work: waits.get(work, now) for work in present if work != found.work}
    return IdleTurns(found.work, now + seconds, why, now, waits, charged, had, overdue, worth[found.work])


def _caught_up(charged: Mapping[IdleWork, float]) -> dict[IdleWork, float]:
    """All alike: whoever had the machine alone took nothing from the others."""
    most = max(charged.values(), default=0.0)
    return dict.fromkeys(charged, most)
