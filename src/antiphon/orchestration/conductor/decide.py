"""The decision of the conductor: a pure function of the schedules' state and the time.

Invariants:
- A schedule has at most one run that has not ended: a slow one never piles up others behind it.
- What is partitioned is made part by part, inputs first; one that was just made waits, and keeps no other waiting.
- What is wrong with one schedule keeps no other from being decided.
- Every schedule that orders nothing has one reason, and an earliest time where a time is what it waits for.
- Work with a deadline begins as long before it as 999 of 1,000 such runs take by what is known, and what holds runs of
  its class in between is not counted as time to work in.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from antiphon.core.clock import to_the_minute
from antiphon.core.logs import described
from antiphon.definitions.schedules import RefreshWork, RetrainWork
from antiphon.definitions.triggers import Trigger
from antiphon.orchestration.conductor.placement import latest_start, quiet_start
from antiphon.orchestration.conductor.state import (
    ConductorDecision,
    Observation,
    PlannedRun,
    ScheduleOutlook,
    ScheduleState,
)
from antiphon.orchestration.conductor.trigger_states import state_of

SHORTEST_RETRY = timedelta(minutes=1)
"""Pause before what was refused is ordered again, at least; else what a schedule settles for."""


MOST_DEBOUNCES = 10
"""A burst that does not end is waited for so many times as long as its pause, at most."""

UNKNOWN_TAKES = timedelta(hours=1)
"""The time that work is taken to need before anything is known of it."""


def decide(schedules: Sequence[ScheduleState], now: datetime) -> ConductorDecision:
    """Decides which schedules order a run now, and says why the others wait."""
    orders: list[PlannedRun] = []
    outlooks: list[ScheduleOutlook] = []
    for state in schedules:
        try:
            found = _decided(state, now)
        except Exception as error:  # Of a date beyond the calendar, say.
            found = ScheduleOutlook(state.spec.name, "refused", f"it cannot be decided: {described(error)}")
        if isinstance(found, PlannedRun):
            orders.append(found)
            found = ScheduleOutlook(found.schedule, "due", found.cause, now, found.deadline)
        outlooks.append(found)
    return ConductorDecision(tuple(orders), tuple(outlooks))


def _decided(state: ScheduleState, now: datetime) -> PlannedRun | ScheduleOutlook:
    if (hindered := _hindered(state, now)) is not None:
        return hindered
    if isinstance(state.spec.work, RefreshWork):
        return _by_period(state, state.spec.work, now)
    return _by_deadline(state, now) if state.spec.ready_by is not None else _by_trigger(state, now)


def _hindered(state: ScheduleState, now: datetime) -> ScheduleOutlook | None:
    """The reason for which a schedule orders nothing whatever its conditions are."""
    record, spec = state.record, state.spec
    if state.problem is not None:
        return ScheduleOutlook(spec.name, "refused", state.problem)
    if record.paused_until is not None and record.paused_until > now:
        why = f"paused by {record.paused_by}: {record.pause_reason}"
        return ScheduleOutlook(spec.name, "paused", why, record.paused_until)
    if state.open_run is not None:
        return _of_open_run(state, now)
    settle = timedelta(seconds=spec.settle)
    if record.problem is not None and record.tried_at is not None:
        again = record.tried_at + max(settle, SHORTEST_RETRY)
        if again > now:
            return ScheduleOutlook(spec.name, "refused", record.problem, again)
    by_part = state.observed.asset is not None and state.observed.asset.partitioned
    if state.ended_at is not None and state.ended_at + settle > now and not by_part:
        return ScheduleOutlook(spec.name, "waits", "its last run has only just ended", state.ended_at + settle)
    return None


def _of_open_run(state: ScheduleState, now: datetime) -> ScheduleOutlook:
    """A run that has not ended; of one with a deadline also whether it is expected to keep it."""
    why, deadline = f"its run {state.open_run} is {state.open_status}", state.served
    if isinstance(state.spec.work, RefreshWork) and deadline is not None:
        if deadline > now:
            return ScheduleOutlook(state.spec.name, "runs", why, deadline, deadline)
        return ScheduleOutlook(state.spec.name, "runs", f"{why}; it was due again at {to_the_minute(deadline)}")
    if deadline is None:
        return ScheduleOutlook(state.spec.name, "runs", why)
    end = state.open_until
    # One that has not begun, or says nothing of itself, takes what others took, around what is held.
    late = latest_start(deadline, _takes(state), state.holds) < now if end is None else end > deadline
    if late:
        until = "" if end is None else f", expected to end at {to_the_minute(end)}"
        why = f"{why}{until}; its deadline is {to_the_minute(deadline)}, which it is not expected to keep"
    return ScheduleOutlook(state.spec.name, "runs", why, deadline=deadline, late=late)


def _by_period(state: ScheduleState, work: RefreshWork, now: datetime) -> PlannedRun | ScheduleOutlook:
    """A refresh of the views that were not computed in the present period; periods that went by are not made up for."""
    begin, end = work.period(now)
    known = state.observed.refreshed
    due = tuple(view for view in work.views if view not in known or known[view] < begin)
    if not due:
        return ScheduleOutlook(state.spec.name, "waits", f"its views were refreshed since {to_the_minute(begin)}", end)
    share = "its" if len(due) == len(work.views) else f"{len(due)} of its {len(work.views)}"
    cause = f"{share} views were not refreshed since {to_the_minute(begin)}"
    return PlannedRun(state.spec.name, cause, end, views=due)


def _by_trigger(state: ScheduleState, now: datetime) -> PlannedRun | ScheduleOutlook:
    spec, record, catch_up = state.spec, state.record, timedelta(seconds=state.spec.catch_up)
    if spec.when is None:
        return ScheduleOutlook(spec.name, "waits", "it is begun by hand")
    found = state_of(spec.when, now, record.since, state.observed, catch_up)
    work = state.observed.asset
    if work is not None and work.partitioned and work.ready is None:
        # Also where it was due before: there is no part to make any more.
        return ScheduleOutlook(spec.name, "waits", work.sentence, work.earliest)
    full = False
    if isinstance(spec.work, RetrainWork):
        full = not spec.work.delta
        if spec.work.full_when is not None:
            whole = state_of(spec.work.full_when, now, record.full_since, state.observed_full, catch_up)
            if whole.met:
                cause = f"{whole.sentence}: a full training"
                waiting = _until_calm(state, now, spec.work.full_when, record.full_since, cause)
                return waiting or PlannedRun(spec.name, cause, full=True)
    if record.due_at is None and not found.met:
        return ScheduleOutlook(spec.name, "waits", found.sentence, found.earliest)
    # Of a burst what it came to is told, and not how it began.
    latest = found.sentence if found.met and spec.debounce else None
    cause = latest or record.due_cause or found.sentence
    return _until_calm(state, now, spec.when, record.since, cause) or _in_quiet_time(state, now, cause, full)


def _until_calm(
    state: ScheduleState, now: datetime, trigger: Trigger, since: datetime, cause: str
) -> ScheduleOutlook | None:
    """The wait of what is due by what arrived until no more of it does; ``None`` where it waits no longer."""
    spec, calm = state.spec, timedelta(seconds=state.spec.debounce)
    catch_up = timedelta(seconds=spec.catch_up)
    if not calm or state_of(trigger, now, since, Observation(), catch_up).met:
        return None  # A time makes it due as well, and more of that does not come.
    latest = (state.record.due_at or now) + MOST_DEBOUNCES * calm
    until = min((state.calm_since or now) + calm, latest)
    if until <= now:
        return None
    why = (
        f"{cause}; it waits until nothing new came for {spec.debounce:g} s, until {to_the_minute(latest)} at the latest"
    )
    return ScheduleOutlook(spec.name, "waits", why, until, due=cause)


def _in_quiet_time(state: ScheduleState, now: datetime, cause: str, full: bool) -> PlannedRun | ScheduleOutlook:
    """A run that is due, now or when it is expected to be in users' way least."""
    name, within = state.spec.name, timedelta(seconds=state.spec.within)
    order = None if state.observed.asset is None else state.observed.asset.ready
    if not within:
        return PlannedRun(name, cause, full=full, order=order)
    deadline = (state.record.due_at or now) + within
    latest = latest_start(deadline, _takes(state), state.holds)
    start = quiet_start(now, latest, _takes(state), state.forecast, state.holds, state.preferred)
    if start <= now:
        return PlannedRun(name, cause, deadline, now + _takes(state) > deadline, full, order)
    why = f"{cause}; it waits for a quieter time, until {to_the_minute(deadline)} at the latest"
    return ScheduleOutlook(name, "waits", why, start, deadline, due=cause)


def _takes(state: ScheduleState) -> timedelta:
    """The time that a run takes at most, as far as is known; what is declared, or an hour, before the first."""
    if state.runtime is not None:
        return timedelta(seconds=max(state.runtime.bound, 1.0))
    return timedelta(seconds=state.spec.lead) or UNKNOWN_TAKES


def _by_deadline(state: ScheduleState, now: datetime) -> PlannedRun | ScheduleOutlook:
    spec, record = state.spec, state.record
    assert spec.ready_by is not None
    served = record.since if state.served is None else max(state.served, record.since)
    deadline = spec.ready_by.after(max(served, now - timedelta(seconds=spec.catch_up)))
    if deadline is None:
        return ScheduleOutlook(spec.name, "waits", f"{spec.ready_by.line} ({spec.ready_by.zone}) never comes again")
    takes = _takes(state)
    known = "declared" if state.runtime is None else f"at most, by {state.runtime.runs} runs"
    start = latest_start(deadline, takes, state.holds)
    cause = f"to be ready by {to_the_minute(deadline)}; it takes {_minutes(takes)} ({known})"
    if start > now:
        return ScheduleOutlook(spec.name, "waits", f"begins later {cause}", start, deadline)
    late = now + takes > deadline
    return PlannedRun(spec.name, f"{cause}, which it is not expected to be" if late else cause, deadline, late)


def _minutes(span: timedelta) -> str:
    seconds = span.total_seconds()
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3_600:.1f} h"
