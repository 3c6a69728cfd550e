"""The reason for which a queued run waits, and when it can begin at the earliest: one of each, for every run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import msgspec

from antiphon.catalog.run_holds import RunHold
from antiphon.core.clock import to_the_minute
from antiphon.durable.ramp import Ramp
from antiphon.durable.run import Run

WaitKind = Literal["paused", "held", "retry", "later", "worker", "turn"]


class RunWait(msgspec.Struct, frozen=True):
    """The wait of a queued run.

    Attributes:
        kind: ``paused`` by a person, ``held`` by a freeze or window, until a ``retry`` after a failure, for a moment
            ``later``, for a ``worker`` that serves it, or for its ``turn``.
        earliest: when it can begin, as far as is known.
    """

    run: str
    kind: WaitKind
    reason: str
    earliest: datetime


class SlotUse(msgspec.Struct, frozen=True):
    """The slots that runs of a workflow take: runs under way of all that share them, of so many at once.

    Attributes:
        frees_at: when the first of them is expected to end.
        work: the class of work, or the workflow, whose slots they are.
    """

    running: int = 0
    most: int = 0
    frees_at: datetime | None = None
    work: str = ""


def wait_of(run: Run, now: datetime, holds: Sequence[RunHold], slots: SlotUse) -> RunWait:
    """The reason why a queued run has not begun.

    Args:
        holds: freezes and windows that are not over, or have ended lately; and limits.
        slots: of living workers together; ``most`` is 0 where none lives.
    """
    limit = next((one for one in holds if one.slots and _limits(one, run, now)), None)
    own = [hold for hold in holds if run.workflow in hold.workflows and not hold.slots]
    at = max(now, run.not_before)
    holding = None
    if run.exempted_by is None:
        holding = next((hold for hold in own if hold.begins <= now < hold.until), None)
        at = _free_from(at, own)
    if run.paused_by is not None:
        how = f"`antiphon runs resume {run.id}` lets it go on"
        return RunWait(run.id, "paused", f"paused by {run.paused_by}; {how}", at)
    if holding is not None:
        why = f"a freeze by {holding.principal}: {holding.reason}" if holding.kind == "freeze" else holding.reason
        return RunWait(run.id, "held", f"held until {to_the_minute(holding.until)} by {why}", at)
    if run.not_before > now:
        if run.attempts and run.error:
            return RunWait(run.id, "retry", f"tried again at {to_the_minute(run.not_before)} after: {run.error}", at)
        return RunWait(run.id, "later", f"begins at {to_the_minute(run.not_before)} or later", at)
    if slots.most == 0:
        return RunWait(run.id, "worker", "no worker runs that would do it: start `antiphon up`", at)
    if slots.running >= slots.most:
        later = at if slots.frees_at is None else max(at, slots.frees_at)
        taken = f"{slots.running} of {slots.most} slots for {slots.work} are taken"
        return RunWait(run.id, "turn", f"waits for its turn: {taken}", later)
    if (ended := Ramp.after(run.workflow, own, now)) is not None and slots.running:
        why = f"waits for its turn: work is taken up one by one since the {ended.kind} that ended at"
        return RunWait(run.id, "turn", f"{why} {to_the_minute(ended.until)}", at)
    if limit is not None:
        why = f"a limit by {limit.principal} until {to_the_minute(limit.until)}: {limit.reason}"
        return RunWait(run.id, "turn", f"waits for its turn: {limit.slots} at once by {why}", at)
    return RunWait(run.id, "turn", "is about to begin", at)


def _limits(limit: RunHold, run: Run, now: datetime) -> bool:
    return run.exempted_by is None and run.workflow in limit.workflows and limit.begins <= now < limit.until


def _free_from(moment: datetime, holds: Sequence[RunHold]) -> datetime:
    """The first moment from one on that no hold covers."""
    for hold in sorted(holds, key=lambda one: one.begins):
        if hold.begins <= moment < hold.until:
            moment = hold.until
    return moment
