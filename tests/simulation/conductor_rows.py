"""What the conductor's scenario sees after every commit: the rows of runs, holds and schedules, as they are and as they
were before."""

from __future__ import annotations

import sqlite3
from typing import Any, Protocol

import msgspec
from tests.simulation.process import START, Process, Violation
from tests.simulation.world import World

from antiphon.core.clock import microseconds

MICROS = 1_000_000
ENDED = ("succeeded", "succeeded_with_failures", "failed", "cancelled")


class ConductedRun(msgspec.Struct, frozen=True):
    """A row of the table ``runs``; moments in microseconds."""

    id: str
    workflow: str
    key: str | None
    status: str
    epoch: int
    attempts: int
    worker: str | None
    lease_until: int | None
    not_before: int
    created_at: int
    updated_at: int
    ended_at: int | None
    schedule: str | None
    deadline: int | None
    exempted_by: str | None

    @property
    def order(self) -> tuple[str, int] | None:
        """The schedule that its key names, and the number of the order."""
        _, found, order = (self.key or "").rpartition("schedule:")
        name, _, number = order.rpartition(":")
        return (name, int(number)) if found else None


class HeldWorkflow(msgspec.Struct, frozen=True):
    """A row of the table ``run_holds``; moments in microseconds."""

    id: str
    workflow: str
    kind: str
    name: str
    begins: int
    until: int
    created_at: int


class ScheduleRow(msgspec.Struct, frozen=True):
    """A row of the table ``schedules``; moments in microseconds."""

    name: str
    sequence: int
    since: int
    run: str | None
    paused_until: int | None
    problem: str | None


class CatalogRows(msgspec.Struct, frozen=True):
    """The rows at one moment: runs by id, holds by id and workflow, schedules by name."""

    runs: dict[str, ConductedRun] = {}
    holds: dict[tuple[str, str], HeldWorkflow] = {}
    schedules: dict[str, ScheduleRow] = {}

    def holding(self, run: ConductedRun, moment: int) -> list[HeldWorkflow]:
        """The holds of a run that are in force at a moment; none of one that was exempted."""
        if run.exempted_by is not None:
            return []
        return [one for one in self.holds.values() if one.workflow == run.workflow and one.begins <= moment < one.until]


class ConductorCheck(Protocol):
    """Holds a commit against what must be true: ``ScheduleChecks`` and ``HoldChecks``."""

    def __call__(self, process: Process, past: CatalogRows, rows: CatalogRows) -> None: ...


class ConductorObserver:
    """Reads the rows after every commit and hands them to the checks.

    Attributes:
        rows: those of the last commit.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.database = world.connection()
        self.rows = CatalogRows()
        self.checks: list[ConductorCheck] = []
        world.observers.append(self)

    def __call__(self, process: Process) -> None:
        rows = CatalogRows(
            {run.id: run for run in _read(self.database, "runs", ConductedRun)},
            {(hold.id, hold.workflow): hold for hold in _read(self.database, "run_holds", HeldWorkflow)},
            {schedule.name: schedule for schedule in _read(self.database, "schedules", ScheduleRow)},
        )
        past, self.rows = self.rows, rows
        for check in self.checks:
            try:
                check(process, past, rows)
            except Violation as violation:
                self.world.violate(f"after commit {self.world.commits} by {process.label}: {violation}")

    @property
    def now(self) -> int:
        """The world's moment, in microseconds."""
        return moment_of(self.world.loop.time())


def moment_of(seconds: float) -> int:
    """A moment of the world's time, in microseconds."""
    return microseconds(START) + int(seconds * MICROS)


def require(holds: bool, what: str) -> None:
    """Raise a violation unless something holds."""
    if not holds:
        raise Violation(what)


def _read(database: sqlite3.Connection, table: str, kind: Any) -> list[Any]:
    names = kind.__struct_fields__
    return [kind(*row) for row in database.execute(f"SELECT {', '.join(names)} FROM {table} ORDER BY 1, 2").fetchall()]
