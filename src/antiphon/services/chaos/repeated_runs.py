"""Runs of schedules that were ordered twice for the same time, as a clock that is set apart would have it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta

from antiphon.definitions.cron import CronTime
from antiphon.definitions.schedules import RefreshWork, ScheduleSpec
from antiphon.durable.run import Run
from antiphon.services.conducting.built_in_schedules import all_schedules
from antiphon.services.conducting.scheduled_orders import BEGUN_BY
from antiphon.services.project.store import Store

_MOST_RUNS = 500
"""Runs of a schedule, at most, that are looked at."""

Turn = tuple[str, str, datetime]
"""Schedule, view (empty without one), and the time that a run was for."""


def repeated_runs(store: Store, window: timedelta) -> int:
    """Number of runs, ordered within ``window``, whose turn another one had before.

    A run's time is by the clock of the process that ordered it: a schedule that is decided by one clock after another
    has no turn twice by either. Runs that failed are ordered again, and those by hand whenever somebody likes.
    """
    since, seen = store.database.clock.now() - window, Counter[Turn]()
    for name, spec in all_schedules(store, store.scope, store.applied.project(store.scope)).items():
        for run in store.runs.list(store.scope, _MOST_RUNS, schedule=name):
            by_hand = (run.cause or "").startswith(BEGUN_BY)
            if run.created_at >= since and run.status not in ("failed", "cancelled") and not by_hand:
                seen.update(turns_of(spec, run))
    return sum(count - 1 for count in seen.values())


def turns_of(spec: ScheduleSpec, run: Run) -> Iterator[Turn]:
    """The turns of its schedule that a run had."""
    if isinstance(spec.work, RefreshWork):
        begin, _ = spec.work.period(run.created_at)
        for view in run.arguments["views"]:
            yield spec.name, view, begin
    elif isinstance(spec.when, CronTime) and (occurrence := spec.when.before(run.created_at)) is not None:
        yield spec.name, "", occurrence
