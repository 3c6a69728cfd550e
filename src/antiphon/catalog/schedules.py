"""Schedules as they stand: how many runs each has had, since when its conditions count, and its pause.

Invariant: the sequence of a schedule only grows, by one with each run that it ordered. The run's key holds the number,
so that two processes, or one after a crash, order the same run once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

import msgspec
from sqlalchemy import insert, select, update
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.rows import missing, value_of
from antiphon.core.scope import Scope

_table = schema.schedules


class ScheduleRecord(msgspec.Struct, frozen=True):
    """A schedule as it stands.

    Attributes:
        sequence: runs that it ordered.
        since: the moment from which its conditions count; ``full_since`` those of a full training.
        run: the run that it ordered last.
        paused_until: end of its pause; ``paused_by`` ordered that, for ``pause_reason``.
        problem: why its last order was refused, at ``tried_at``.
        due_at: since when it is due and waits, for a quiet time or for what arrives to be all there, for the reason
            ``due_cause``.
        observed: hash of what its conditions observed last, the same ``calm_since``.
    """

    name: str
    sequence: int
    since: datetime
    full_since: datetime
    run: str | None = None
    paused_by: str | None = None
    pause_reason: str | None = None
    paused_until: datetime | None = None
    problem: str | None = None
    tried_at: datetime | None = None
    due_at: datetime | None = None
    due_cause: str | None = None
    observed: str | None = None
    calm_since: datetime | None = None

    @property
    def key(self) -> str:
        """The key of the run that it orders next."""
        return f"schedule:{self.name}:{self.sequence + 1}"


class Schedules:
    """Repository of the schedules of each scope."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list(self, scope: Scope, *, within: Connection | None = None) -> dict[str, ScheduleRecord]:
        """Every schedule there ever was, by name."""
        rows = self._database.rows(select(_table).where(schema.owned(_table, scope)).order_by(_table.c.name), within)
        return {row.name: value_of(ScheduleRecord, row) for row in rows}

    def get(self, scope: Scope, name: str, *, within: Connection | None = None) -> ScheduleRecord:
        """One schedule.

        Raises:
            NotFoundError: none of this name was ever applied.
        """
        row = self._database.first(select(_table).where(schema.owned(_table, scope, name=name)), within)
        if row is None:
            raise missing("schedule", name, scope, "`antiphon schedules list` shows those that are applied.")
        return value_of(ScheduleRecord, row)

    def enroll(self, scope: Scope, names: Iterable[str]) -> Mapping[str, ScheduleRecord]:
        """Begin to count for schedules that are new; returns every one."""
        known = self.list(scope)
        if not (new := [name for name in names if name not in known]):
            return known
        with self._database.transaction() as connection:
            now, known = self._database.clock.now(), self.list(scope, within=connection)
            for name in new:
                if name not in known:
                    row = {"tenant": scope.tenant, "environment": scope.environment, "name": name, "sequence": 0}
                    connection.execute(insert(_table).values(**row, since=now, full_since=now))
            return self.list(scope, within=connection)

    def advance(
        self, scope: Scope, record: ScheduleRecord, run: str, at: datetime, *, full: bool, within: Connection
    ) -> bool:
        """Count a run that was ordered at a moment; ``False`` when another process has counted it."""
        values = {"sequence": record.sequence + 1, "since": at, "run": run, "problem": None, "tried_at": None}
        values |= {"due_at": None, "due_cause": None}
        values |= {"full_since": at} if full else {}
        unchanged = schema.owned(_table, scope, name=record.name, sequence=record.sequence)
        return within.execute(update(_table).where(unchanged).values(values)).rowcount == 1

    def reopen(self, scope: Scope, name: str, run: str, *, within: Connection) -> None:
        """Count a run of the schedule that was queued again, or one that goes on for it, as the one that is open."""
        within.execute(update(_table).where(schema.owned(_table, scope, name=name)).values(run=run))
        self._database.ring("features", scope)

    def refuse(self, scope: Scope, record: ScheduleRecord, problem: str, at: datetime) -> None:
        """Note that the next run could not be ordered, and why."""
        unchanged = schema.owned(_table, scope, name=record.name, sequence=record.sequence)
        self._database.write(update(_table).where(unchanged).values(problem=problem, tried_at=at))

    def mark_due(self, scope: Scope, record: ScheduleRecord, cause: str, at: datetime) -> None:
        """Note that a schedule is due from a moment on, and why; what was noted first stays until its run."""
        unchanged = schema.owned(_table, scope, name=record.name, sequence=record.sequence) & _table.c.due_at.is_(None)
        self._database.write(update(_table).where(unchanged).values(due_at=at, due_cause=cause))

    def observe(self, scope: Scope, name: str, observed: str, at: datetime) -> None:
        """Note what the conditions of a schedule observe, where that is another than before."""
        changed = _table.c.observed.is_distinct_from(observed)
        statement = update(_table).where(schema.owned(_table, scope, name=name), changed)
        self._database.write(statement.values(observed=observed, calm_since=at))

    def pause(
        self, scope: Scope, name: str, principal: str, reason: str, until: datetime, *, within: Connection
    ) -> ScheduleRecord:
        """Keep a schedule from ordering anything until a moment.

        Raises:
            NotFoundError: none of this name was ever applied.
        """
        return self._put_pause(scope, name, within, paused_by=principal, pause_reason=reason, paused_until=until)

    def resume(self, scope: Scope, name: str, *, within: Connection) -> ScheduleRecord:
        """End a schedule's pause; raises ``NotFoundError`` as :meth:`pause`."""
        return self._put_pause(scope, name, within, paused_by=None, pause_reason=None, paused_until=None)

    def _put_pause(self, scope: Scope, name: str, within: Connection, **values: object) -> ScheduleRecord:
        within.execute(update(_table).where(schema.owned(_table, scope, name=name)).values(**values))
        self._database.ring("features", scope)
        return self.get(scope, name, within=within)
