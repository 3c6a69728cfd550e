"""Orders about runs, whoever holds them: cancel, pause, go past holds.

Invariant: a run that has ended stays as it ended; the worker that holds another one sees an order within two seconds.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, update
from sqlalchemy.engine import Connection, Row

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.core.clock import Clock
from antiphon.core.scope import Scope
from antiphon.durable.rollbacks import begin_rollback
from antiphon.durable.run import ENDED, ERROR, RollbackEnd, Run
from antiphon.durable.run_reader import RunReader

_runs = schema.runs


class RunOrders(RunReader):
    """Notes on runs what people and schedules order.

    Args:
        clock: wall time; the database's own unless given.
    """

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        super().__init__(database)
        self._clock = clock or database.clock

    def exempt(self, scope: Scope, run: str, principal: str, *, within: Connection | None = None) -> Run:
        """Let a run go past what holds its workflow, now and later. One that ended stays.

        Raises:
            NotFoundError: there is none of this id here.
        """
        with self._database.writing(within) as connection:
            found = self.get(scope, run, within=connection)
            if found.status not in ENDED:
                values = {"exempted_by": principal, "updated_at": self._clock.now()}
                connection.execute(update(_runs).where(schema.owned(_runs, scope, id=run)).values(values))
                self._database.ring("runs", scope)
            return self.get(scope, run, within=connection)

    def pause(self, scope: Scope, run: str, principal: str, *, within: Connection | None = None) -> Run:
        """Let nobody work on a run until it is resumed; its worker gives it back within a second or two. One that ended
        or is to be canceled stays, and one that is paused already is as it was.

        Raises:
            NotFoundError: there is none of this id here.
        """
        # One that is to be canceled would wait for its worker for ever, if that dies.
        free = _runs.c.paused_by.is_(None) & ~_runs.c.cancel_requested & _runs.c.status.not_in(ENDED)
        return self._paused(scope, run, principal, free, within)

    def resume(self, scope: Scope, run: str, *, within: Connection | None = None) -> Run:
        """End a run's pause; raises as :meth:`pause`."""
        return self._paused(scope, run, None, _runs.c.paused_by.is_not(None), within)

    def _paused(
        self, scope: Scope, run: str, by: str | None, condition: ColumnElement[bool], within: Connection | None
    ) -> Run:
        values = {"paused_by": by, "updated_at": self._clock.now()}
        with self._database.writing(within) as connection:
            connection.execute(update(_runs).where(schema.owned(_runs, scope, id=run), condition).values(values))
            for topic in ("runs", "cancellations"):
                self._database.ring(topic, scope)
            return self.get(scope, run, within=connection)

    def attribute(
        self, scope: Scope, run: str, schedule: str, cause: str, deadline: datetime | None, value: float | None = None,
        *, within: Connection,
    ) -> None:  # fmt: skip
        """Note on a run which schedule ordered it, why it was due, by when it is to have ended, and what it is
        worth."""
        values = {"schedule": schedule, "cause": cause, "deadline": deadline, "value": value}
        attributed = update(_runs).where(schema.owned(_runs, scope, id=run)).values(values).returning(_runs.c.status)
        found = within.execute(attributed).first()
        if found is not None and found.status in ENDED:
            self._database.ring("features", scope)  # It was faster than this note.

    def cancel(self, scope: Scope, run: str, *, within: Connection | None = None) -> Run:
        """Cancel a run: at once when nobody holds it, else as soon as its worker sees it; its steps are undone first
        where they can be. An ended run stays, and one that is rolled back.

        Raises:
            NotFoundError: there is none of this id here.
        """
        now = self._clock.now()
        with self._database.writing(within) as connection:
            found = self.get(scope, run, within=connection)
            # A paused one whose worker died would never be looked at again.
            values: dict[str, Any] = {"cancel_requested": True, "paused_by": None, "updated_at": now}
            if found.status == "queued":
                values |= self._ending(found, "cancelled", None, connection)
            if found.status not in ENDED and not found.is_rolled_back:
                connection.execute(update(_runs).where(schema.owned(_runs, scope, id=run)).values(values))
                for topic in ("runs", "cancellations"):
                    self._database.ring(topic, scope)
            return self.get(scope, run, within=connection)

    def _ending(self, run: Row[Any] | Run, ends: RollbackEnd, error: str | None, within: Connection) -> dict[str, Any]:
        """The columns of a run that ends so, or is rolled back first."""
        now = self._clock.now()
        if (rolled_back := begin_rollback(self._database, run, ends, error, now, within)) is not None:
            return rolled_back
        scope = run.scope if isinstance(run, Run) else Scope(run.tenant, run.environment)
        values: dict[str, Any] = {"status": ends, "ended_at": now}
        if error is not None:
            why = error if run.rollback is None else f"Its rollback failed: {error}"
            values["error"] = self._database.seal_text(scope, ERROR, run.id, why)
        return values
