"""Reads runs and the journal of their steps; ``run_orders.py`` and ``runs.py`` change them."""

from __future__ import annotations

import builtins
from collections.abc import Collection
from typing import Any

import msgspec
from sqlalchemy import func, select
from sqlalchemy.engine import Connection, Row

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.rows import missing, value_of
from antiphon.core.scope import Scope
from antiphon.durable.claims import OLDEST_FIRST
from antiphon.durable.run import RUN_KEY, STEP, Run, RunStatus, StepRecord, StepTime, read_run

MOST_NAMED = 500
"""Runs that one statement names."""

_runs, _steps = schema.runs, schema.steps


class RunReader:
    """Finds runs, and reads what they recorded."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, scope: Scope, run: str, *, within: Connection | None = None) -> Run:
        """One run.

        Raises:
            NotFoundError: there is none of this id here.
        """
        row = self._database.first(select(_runs).where(schema.owned(_runs, scope, id=run)), within)
        if row is None:
            raise missing("run", run, scope, "See `antiphon runs list`.")
        return read_run(row, self._database)

    def by_id(self, scope: Scope, runs: Collection[str]) -> dict[str, Run]:
        """Those of these runs that there are, by id."""
        names, found = sorted(runs), dict[str, Run]()
        for first in range(0, len(names), MOST_NAMED):
            named = _runs.c.id.in_(names[first : first + MOST_NAMED])
            rows = self._database.rows(select(_runs).where(schema.owned(_runs, scope), named))
            found |= {row.id: read_run(row, self._database) for row in rows}
        return found

    def find(self, scope: Scope, key: str) -> Run | None:
        """The run that was submitted with a key."""
        named = schema.owned(_runs, scope) & RUN_KEY.is_(self._database, scope, key)
        row = self._database.first(select(_runs).where(named))
        return None if row is None else read_run(row, self._database)

    def waiting(self, scope: Scope) -> dict[str, int]:
        """Counts the runs that have not begun, by workflow."""
        queued = schema.owned(_runs, scope, status="queued")
        counts = select(_runs.c.workflow, func.count()).where(queued).group_by(_runs.c.workflow)
        return {workflow: int(count) for workflow, count in self._database.rows(counts)}

    def list(
        self,
        scope: Scope,
        limit: int = 50,
        *,
        workflow: str | None = None,
        status: RunStatus | None = None,
        schedule: str | None = None,
    ) -> builtins.list[Run]:
        """Runs, latest first."""
        equal = schema.given(_runs, workflow=workflow, status=status, schedule=schedule)
        conditions = (schema.owned(_runs, scope), *equal)
        statement = select(_runs).where(*conditions)
        statement = statement.order_by(_runs.c.created_at.desc(), _runs.c.id.desc()).limit(limit)
        # Read to their end first: a server ends a transaction that waits for whoever makes something of its rows.
        return [read_run(row, self._database) for row in self._database.rows(statement)]

    def under_way(self, scope: Scope) -> builtins.list[Run]:
        """Runs that are being worked on."""
        statement = select(_runs).where(_runs.c.status == "running", _runs.c.environment == scope.environment)
        with self._database.read() as connection:
            rows = [row for row in connection.execute(statement) if row.tenant == scope.tenant]
            return [read_run(row, self._database) for row in rows]

    def worth(self, scope: Scope, workflows: Collection[str]) -> float:
        """The highest value among the runs of these workflows that are being worked on; 1 where none is."""
        named = _runs.c.workflow.in_(sorted(workflows)), schema.owned(_runs, scope, status="running")
        highest = self._database.scalar(select(func.max(func.coalesce(_runs.c.value, 1.0))).where(*named))
        return 1.0 if highest is None else float(highest)

    def unended(self, scope: Scope, limit: int) -> builtins.list[Run]:
        """Runs that wait or are being worked on, those that are due for longest first."""
        waiting = _runs.c.status.in_(("queued", "running")), _runs.c.environment == scope.environment
        statement = select(_runs).where(*waiting, _runs.c.tenant == scope.tenant).order_by(*OLDEST_FIRST).limit(limit)
        return [read_run(row, self._database) for row in self._database.rows(statement)]

    def open(self, scope: Scope, workflow: str, *, within: Connection | None = None) -> builtins.list[Run]:
        """Runs of a workflow that have not ended, latest first. Those that have are not gone through."""
        # Without the scope: SQLite would take its index, which holds every run there ever was.
        statement = select(_runs).where(_runs.c.status.in_(("queued", "running")), _runs.c.workflow == workflow)
        with self._database.reading(within) as connection:
            rows = [row for row in connection.execute(statement) if Scope(row.tenant, row.environment) == scope]
            found = [read_run(row, self._database) for row in rows]
        return sorted(found, key=lambda run: (run.created_at, run.id), reverse=True)

    def steps(self, scope: Scope, run: str, *, within: Connection | None = None) -> builtins.list[StepRecord]:
        """The run's completed steps, in the order in which they ended."""

        def opened(row: Row[Any]) -> StepRecord:
            result = self._database.unseal(scope, STEP, f"{run}:{row.name}:{row.occurrence}", row.result)
            return value_of(StepRecord, row, result=msgspec.json.decode(result))

        order = (_steps.c.ended_at, _steps.c.started_at, _steps.c.name, _steps.c.occurrence)
        found = select(_steps).where(schema.owned(_steps, scope, run=run)).order_by(*order)
        return [opened(row) for row in self._database.rows(found, within)]

    def step_times(self, scope: Scope, run: str, limit: int) -> tuple[builtins.list[StepTime], int]:
        """The run's last ``limit`` completed steps without their results, in the order in which they ended, and the
        number of all."""
        columns = [_steps.c[name] for name in StepTime.__struct_fields__]
        own = schema.owned(_steps, scope, run=run)
        last = (_steps.c.ended_at.desc(), _steps.c.started_at.desc(), _steps.c.name.desc(), _steps.c.occurrence.desc())
        with self._database.read() as connection:
            total = connection.execute(select(func.count()).select_from(_steps).where(own)).scalar_one()
            rows = connection.execute(select(*columns).where(own).order_by(*last).limit(limit)).all()
        return [value_of(StepTime, row) for row in reversed(rows)], int(total)
