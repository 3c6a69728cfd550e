"""The work to come of one project, in the order in which it can begin: runs and schedules; and whose turn it is at the
idle time of each host."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from antiphon.core.scope import Scope
from antiphon.durable.run import Run
from antiphon.orchestration.conductor.assets import PartState
from antiphon.orchestration.idle_budget import IdleState
from antiphon.services.conducting.assets import stale_parts
from antiphon.services.conducting.idle_budgets import idle_states
from antiphon.services.conducting.run_waits import RunWaits
from antiphon.services.conducting.schedule_lines import schedule_lines
from antiphon.services.conducting.traffic import TrafficForecasts
from antiphon.services.project.store import Store

MOST_RUNS = 1_000
"""Runs that have not ended and are told of, at most; the oldest of them."""

WorkState = Literal["runs", "queued", "scheduled"]


class UpcomingWork(msgspec.Struct, frozen=True):
    """One piece of work that is under way or to come.

    Attributes:
        what: a run's workflow with its subject, a schedule's name, a stale part of an asset, or the idle time of a
            host.
        run: the run, where there is one.
        why: the reason why it is there, or why it has not begun.
        earliest: when it can begin; ``None`` while it waits for events, or runs.
        value: what a schedule says that it is worth, where that is not 1.
    """

    what: str
    state: WorkState
    why: str
    earliest: datetime | None = None
    deadline: datetime | None = None
    run: str | None = None
    value: float | None = None


def upcoming_work(store: Store, scope: Scope, traffic: TrafficForecasts | None = None) -> tuple[UpcomingWork, ...]:
    """All work that is under way, queued or declared, what runs first; then by earliest beginning, and last what waits
    for events."""
    project, now = store.applied.project(scope), store.database.clock.now()
    open_runs = store.runs.unended(scope, MOST_RUNS)
    waits = RunWaits(store).of(scope, open_runs)
    found = [_of_run(run, waits[run.id].reason, waits[run.id].earliest) for run in open_runs if run.id in waits]
    found += [_of_run(run, run.note or run.cause or "", None) for run in open_runs if run.id not in waits]
    for line in schedule_lines(store, scope, project, traffic):
        if (outlook := line.outlook).stage != "runs":
            what = f"{line.name}, {line.work_of}" if line.views else line.name
            value = None if line.value == 1.0 else line.value
            found.append(
                UpcomingWork(what, "scheduled", outlook.reason, outlook.earliest, outlook.deadline, value=value)
            )
    found += [_of_part(one) for one in stale_parts(store, scope, project)]
    found += [_of_turn(host, state) for host, state in idle_states(store).items() if state.turn is not None]
    order: dict[WorkState, int] = {"runs": 0, "queued": 1, "scheduled": 1}
    return tuple(sorted(found, key=lambda one: (order[one.state], one.earliest is None, one.earliest or now, one.what)))


def _of_run(run: Run, why: str, earliest: datetime | None) -> UpcomingWork:
    subject = run.arguments.get("application") or run.arguments.get("job") or run.arguments.get("views") or ""
    named = ", ".join(map(str, subject)) if isinstance(subject, list) else str(subject)
    what = f"{run.workflow} {named}".strip()
    state: WorkState = "runs" if earliest is None else "queued"
    return UpcomingWork(what, state, why, earliest, run.deadline, run.id, run.value)


def _of_turn(host: str, state: IdleState) -> UpcomingWork:
    """The turn at the idle time of a host."""
    shares = ", ".join(f"{work} {100 * share:.0f} %" for work, share in sorted(state.shares.items()))
    had = f"; so far {shares}" if shares else ""
    return UpcomingWork(f"idle time of {host}", "runs", f"{state.turn} has its turn: {state.why}{had}")


def _of_part(state: PartState | str) -> UpcomingWork:
    if isinstance(state, str):
        return UpcomingWork(state, "scheduled", "`antiphon assets list --stale` tells of all")
    return UpcomingWork(str(state.part), "scheduled", state.reason)
