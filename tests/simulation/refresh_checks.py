"""Invariants of built-in refreshes: no view is refreshed twice in a period, and each is in every period once all goes
well."""

from __future__ import annotations

from typing import Any

import msgspec
from tests.simulation.conductor_rows import (
    ENDED,
    MICROS,
    CatalogRows,
    ConductedRun,
    ConductorObserver,
    moment_of,
    require,
)
from tests.simulation.hold_checks import HoldChecks
from tests.simulation.process import CLOCK_STEP, Process
from tests.simulation.schedule_checks import LATEST_ORDER

from antiphon.core.codec import unpack
from antiphon.definitions.schedules import RefreshWork, ScheduleSpec


class RefreshChecks:
    """Checks of the runs that built-in schedules order.

    Attributes:
        applied: the views that are applied, by ``view@definition_version``, and the moment of that in microseconds.
    """

    def __init__(self, observer: ConductorObserver, holds: HoldChecks) -> None:
        self._observer = observer
        self._holds = holds
        self.applied: dict[str, int] = {}
        self._spec: ScheduleSpec | None = None
        self._ordered: dict[str, int] = {}
        self._tolerance = int(2 * CLOCK_STEP * MICROS) if observer.world.faults.clocks else 0
        observer.checks.append(self)

    def follow(self, spec: ScheduleSpec | None) -> None:
        """These views are applied from now on; ``None``: none any more."""
        self._spec = spec
        views = spec.work.views if spec is not None and isinstance(spec.work, RefreshWork) else ()
        self.applied = {view: self.applied.get(view, self._observer.now) for view in views}

    def __call__(self, process: Process, past: CatalogRows, rows: CatalogRows) -> None:
        for run in rows.runs.values():
            if run.id not in past.runs and run.order is not None and run.order[0].startswith("refresh:"):
                self._check_order(run)
        if self._spec is not None and self._holds.calm:
            self._check_in_time(self._spec, rows)

    def _check_order(self, run: ConductedRun) -> None:
        views = self._views(run.id)
        require(bool(views), f"{run.id} refreshes nothing")
        if len(views) < len(self.applied):
            self._holds.seen.add("a new view refreshed by itself")
        for view in views:
            before = self._ordered.get(view)
            if self._spec is not None and before is not None:
                again = self._period(run.created_at + self._tolerance) <= self._period(before)
                require(not again, f"{view} is refreshed twice in a period")
            self._ordered[view] = run.created_at

    def _check_in_time(self, spec: ScheduleSpec, rows: CatalogRows) -> None:
        runs = [run for run in rows.runs.values() if run.order is not None and run.order[0] == spec.name]
        row = rows.schedules.get(spec.name)
        if any(run.status not in ENDED for run in runs):
            return
        ended = max((run.ended_at or 0 for run in runs), default=0)
        paused = 0 if row is None else row.paused_until or 0
        free = max(ended, paused, moment_of(self._holds.calm_from or 0.0))
        for view, applied in self.applied.items():
            last = self._ordered.get(view)
            due = applied if last is None else (self._period(last) + 1) * self._interval
            waited = (self._observer.now - max(due, applied, free)) / MICROS
            require(waited <= LATEST_ORDER, f"{view} has been due for {waited:.0f} s and is not refreshed")

    @property
    def _interval(self) -> int:
        assert self._spec is not None
        assert isinstance(self._spec.work, RefreshWork)
        return self._spec.work.interval

    def _period(self, moment: int) -> int:
        return moment // self._interval

    def _views(self, run: str) -> list[str]:
        rows: Any = self._observer.database.execute("SELECT arguments FROM runs WHERE id = ?", (run,)).fetchone()
        return list(msgspec.json.decode(unpack(rows[0]).content)["views"])
