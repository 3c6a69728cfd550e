"""Invariants of schedules: one run at a time, numbers without a gap, orders that are due, and pauses that hold."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from itertools import pairwise

import msgspec
from tests.simulation.conductor_rows import (
    ENDED,
    MICROS,
    CatalogRows,
    ConductedRun,
    ConductorObserver,
    ScheduleRow,
    moment_of,
    require,
)
from tests.simulation.hold_checks import HoldChecks
from tests.simulation.process import CLOCK_STEP, START, Process

from antiphon.core.clock import microseconds, parse_duration
from antiphon.definitions.cron import CronTime
from antiphon.definitions.schedules import EvaluateWork, ScheduleSpec
from antiphon.definitions.triggers import AllOf, AnyOf, Interval, NewOutcomes, NewPublication, NewStaleness, Trigger

LATEST_ORDER = 12.0
"""Seconds within which what is due is ordered once nothing goes wrong: a conductor looks again after ten at most."""

LONG_AGO = 300.0
"""Seconds after which a time is not made up for, where it is to be made up for whenever it was."""


class Look(msgspec.Struct, frozen=True):
    """The beginning of a conductor's look: its moment, and the pauses that it surely sees."""

    moment: int
    paused: Mapping[str, int | None]


class ScheduleChecks:
    """Checks of what schedules order.

    Attributes:
        specs: those that are applied; none any more once the scenario ends.
        told: pauses that a person was told of and nobody changed since, by schedule.
    """

    def __init__(self, observer: ConductorObserver, holds: HoldChecks, specs: Mapping[str, ScheduleSpec]) -> None:
        self._observer = observer
        self._world = observer.world
        self._holds = holds
        self.specs = specs
        self.told: dict[str, int | None] = {}
        self._looks: dict[str, Look] = {}
        self._tolerance = int(2 * CLOCK_STEP * MICROS) if self._world.faults.clocks else 0
        observer.checks.append(self)

    def look(self, process: Process) -> None:
        """A process begins to look at the schedules."""
        self._holds.look(process, "schedules")
        paused = {name: row.paused_until for name, row in self._observer.rows.schedules.items()}
        self._looks[process.label] = Look(self._observer.now, paused)

    def __call__(self, process: Process, past: CatalogRows, rows: CatalogRows) -> None:
        for run in rows.runs.values():
            if run.order is not None and run.id not in past.runs:
                self._ordered(process, run, rows)
        for name, row in rows.schedules.items():
            before = past.schedules.get(name)
            if before is not None and row != before:
                self._moved(before, row, rows)
            if name in self.told:
                told = self.told[name]
                require(
                    row.paused_until == told, f"{name} was told to be paused until {told} and is {row.paused_until}"
                )
            spec = self.specs.get(name)
            if spec is not None and self._holds.calm:
                self._in_time(spec, row, rows)
        require(past.schedules.keys() <= rows.schedules.keys(), "a schedule is forgotten")

    def _ordered(self, process: Process, run: ConductedRun, rows: CatalogRows) -> None:
        """Hold an order against the ones before it."""
        assert run.order is not None
        (name, number), row = run.order, rows.schedules[run.order[0]]
        spec, earlier = self.specs.get(name), self.runs_of(name, rows, but=run.id)
        require(number == row.sequence + 1, f"{name} ordered its run {number} when it had counted {row.sequence}")
        require(number not in earlier, f"{name} has two runs of number {number}")
        if left := [one.id for one in earlier.values() if one.status not in ENDED]:
            require(False, f"{name} ordered a run while {left[0]} had not ended")
        look = self._looks[process.label]
        until = row.paused_until
        if until is not None and look.paused.get(name) == until and run.created_at < until - self._tolerance:
            require(False, f"{name} ordered a run while it was paused")
        last = earlier.get(number - 1)
        if spec is None or isinstance(spec.when, NewStaleness):
            return
        if last is not None and last.ended_at is not None:
            rested = run.created_at - last.ended_at + self._tolerance
            require(rested >= spec.settle * MICROS, f"{name} ordered a run before it had settled")
        if last is not None and isinstance(spec.when, Interval):
            apart = run.created_at - last.created_at + self._tolerance
            every = _micros(parse_duration(spec.when.every))
            require(apart >= every, f"{name} ordered two runs {apart / MICROS:.1f} s apart")
        if spec.when is not None:
            due = self._due_at(spec.when, row.since)
            early = due is None or due > run.created_at + self._tolerance
            require(not early, f"{name} ordered a run that was not due")
        if isinstance(spec.when, CronTime):
            # A look may take its time between the decision and the order, and the clock may be set meanwhile.
            latest = spec.when.before(_time_of(run.created_at + self._tolerance))
            assert latest is not None
            late = look.moment - microseconds(latest) - self._tolerance
            require(late <= spec.catch_up * MICROS, f"{name} made up for a time that came {late / MICROS:.1f} s ago")

    def _moved(self, before: ScheduleRow, row: ScheduleRow, rows: CatalogRows) -> None:
        name = row.name
        require(row.sequence in (before.sequence, before.sequence + 1), f"{name} went from {before} to {row}")
        if row.problem is not None:
            self._holds.seen.add("refused")
        require(row.problem is None or name == "refused", f"{name} could not order its run: {row.problem}")
        if row.sequence == before.sequence:
            if row.paused_until not in (None, before.paused_until):
                self._holds.seen.add("paused")
            require((row.since, row.run) == (before.since, before.run), f"{name} counts anew without a run")
            return
        run = rows.runs.get(row.run or "")
        require(run is not None and run.order == (name, row.sequence), f"{name} counts {row.run} as {row.sequence}")
        assert run is not None
        require(row.since + self._tolerance >= run.created_at, f"{name} counts from before its last order")
        require(run.schedule == name, f"{run.id} does not say that {name} ordered it")
        if run.created_at + MICROS < row.since:
            self._holds.seen.add("counted later")
        runs = self.runs_of(name, rows)
        if name.startswith("refresh:"):
            return  # ``RefreshChecks`` looks at their slots.
        deadlines = [runs[number].deadline or 0 for number in range(1, row.sequence + 1) if number in runs]
        increases = all(one < other for one, other in pairwise(deadlines) if other)
        require(increases, f"{name} worked for one deadline twice")

    def _in_time(self, spec: ScheduleSpec, row: ScheduleRow, rows: CatalogRows) -> None:
        """A schedule that is due orders within :data:`LATEST_ORDER` once nothing goes wrong."""
        if isinstance(spec.when, NewStaleness):
            return  # ``AssetChecks`` looks at that.
        if isinstance(spec.work, EvaluateWork):
            require(row.sequence == 0, f"{spec.name} has a run, and there is no release to evaluate")
            return
        require(row.problem is None, f"{spec.name} could not order its run: {row.problem}")
        runs = self.runs_of(spec.name, rows)
        last = runs.get(row.sequence)
        if spec.when is None or any(run.status not in ENDED for run in runs.values()):
            return
        due = self._due_at(spec.when, row.since)
        if due is None or (isinstance(spec.when, CronTime) and spec.catch_up < LONG_AGO):
            return
        settled = 0 if last is None or last.ended_at is None else last.ended_at + int(spec.settle * MICROS)
        calm = moment_of(self._holds.calm_from or 0.0)
        waited = (self._observer.now - max(due, settled, row.paused_until or 0, calm)) / MICROS
        require(waited <= LATEST_ORDER, f"{spec.name} has been due for {waited:.0f} s and ordered nothing")

    def _due_at(self, trigger: Trigger, since: int) -> int | None:
        """The moment from which a trigger holds; ``None`` where it does not yet."""
        match trigger:
            case Interval():
                return since + _micros(parse_duration(trigger.every))
            case CronTime():
                following = trigger.after(_time_of(since))
                return None if following is None else microseconds(following)
            case NewOutcomes():
                query = "SELECT created_at FROM outcomes WHERE created_at > ? ORDER BY 1 LIMIT 1 OFFSET ?"
                found = self._observer.database.execute(query, (since, trigger.count - 1)).fetchone()
                return None if found is None else int(found[0])
            case NewPublication():
                # The served one counts beside the one that was served at ``since``.
                query = "SELECT min(served_at) FROM publications WHERE served_at > ?"
                found = self._observer.database.execute(query, (since,)).fetchone()[0]
                return None if found is None else int(found)
            case AnyOf():
                times = [self._due_at(one, since) for one in trigger.triggers]
                return min((one for one in times if one is not None), default=None)
            case AllOf():
                times = [self._due_at(one, since) for one in trigger.triggers]
                return None if None in times else max(one for one in times if one is not None)
        raise TypeError(trigger)

    def runs_of(self, name: str, rows: CatalogRows, but: str = "") -> dict[int, ConductedRun]:
        """The runs of a schedule by their number."""
        found: dict[int, ConductedRun] = {}
        for run in rows.runs.values():
            if run.id != but and run.order is not None and run.order[0] == name:
                require(run.order[1] not in found, f"{name} has two runs of number {run.order[1]}")
                found[run.order[1]] = run
        return found

    def check_end(self, orders_on_record: Mapping[str, int]) -> None:
        """Numbers have no gap, and each counted order is on record once."""
        rows = self._observer.rows
        for name, row in rows.schedules.items():
            numbers = sorted(self.runs_of(name, rows))
            require(numbers == list(range(1, len(numbers) + 1)), f"the runs of {name} are numbered {numbers}")
            require(
                len(numbers) - 1 <= row.sequence <= len(numbers),
                f"{name} counted {row.sequence} runs and has {len(numbers)}",
            )
            recorded = orders_on_record.get(name, 0)
            if name.startswith("refresh:"):
                require(recorded == 0, f"{name} has orders on record: {recorded}")
                continue
            require(recorded == row.sequence, f"{name} ordered {row.sequence} runs, {recorded} are on record")


def _micros(span: timedelta) -> int:
    return span // timedelta(microseconds=1)


def _time_of(moment: int) -> datetime:
    return START + timedelta(microseconds=moment - microseconds(START))
