"""Attempts that failed: error, moments, worker and the steps that were under way, kept when a run is tried again.

Invariant: an attempt is noted in the transaction that ends it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec
from sqlalchemy import insert, select
from sqlalchemy.engine import Connection, Row

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.rows import value_of
from antiphon.core.scope import Scope
from antiphon.durable.run import StepUnderWay, read_under_way, write_under_way

_attempts = schema.run_attempts

ERROR = "run-attempt-error/1"
"""Schema of the sealed column."""

AttemptOutcome = Literal["failed", "lost"]
"""End of an attempt: with an error, or with the lease of a worker that gave no sign of life."""


class RunAttempt(msgspec.Struct, frozen=True):
    """An attempt that did not succeed.

    Attributes:
        epoch: of the claim that began it.
        attempt: its number, from 1; a run that was ordered to be tried again begins anew.
        under_way: steps that had begun and not ended.
        error: what it failed with; of one that was lost there is none.
    """

    epoch: int
    attempt: int
    outcome: AttemptOutcome
    worker: str | None
    started_at: datetime
    ended_at: datetime
    under_way: tuple[StepUnderWay, ...]
    error: str | None


class RunAttempts:
    """Repository of the attempts of runs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list(self, scope: Scope, run: str) -> list[RunAttempt]:
        """The run's attempts that did not succeed, the first one first."""

        def opened(row: Row[Any]) -> RunAttempt:
            subject = f"{run}:{row.epoch}"
            error = None if row.error is None else self._database.unseal_text(scope, ERROR, subject, row.error)
            return value_of(RunAttempt, row, under_way=read_under_way(row.under_way), error=error)

        found = select(_attempts).where(schema.owned(_attempts, scope, run=run)).order_by(_attempts.c.epoch)
        return [opened(row) for row in self._database.rows(found)]

    def add(self, scope: Scope, run: str, attempt: RunAttempt, *, within: Connection) -> None:
        """Note an attempt that has ended."""
        subject = f"{run}:{attempt.epoch}"
        error = None if attempt.error is None else self._database.seal_text(scope, ERROR, subject, attempt.error)
        values = msgspec.structs.asdict(attempt) | {"under_way": write_under_way(attempt.under_way), "error": error}
        values |= {"tenant": scope.tenant, "environment": scope.environment, "run": run}
        within.execute(insert(_attempts).values(values))
