"""Sizes of batch jobs, usage of their rows, and engine time that batch work got: the inputs of forecasts.

Invariant: these are measurements. Nothing that a job does depends on them, and a crash may lose the last seconds of
them.
"""

from __future__ import annotations

import operator
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Table, delete, func, select, update
from sqlalchemy.engine import Connection, Row

from antiphon.catalog import schema
from antiphon.catalog.batch.jobs import ENDED
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import upsert
from antiphon.catalog.rows import value_of
from antiphon.core.clock import microseconds
from antiphon.core.scope import Scope

KEPT = timedelta(days=8)
"""For how long what batch work got is kept: forecasts look back a week."""

MOST_READ = 200
"""Jobs whose costs a forecast is made from, the latest ones."""

_work, _supply, _jobs, _rows = schema.batch_work, schema.batch_supply, schema.jobs, schema.job_rows


class Sizes(msgspec.Struct, frozen=True):
    """Rows, and what they bring: bytes of prompts, those that stand in no other row's beginning, and tokens that may be
    written. ``prompt_bytes`` is 0 where a template makes the prompt."""

    rows: int
    prompt_bytes: int = 0
    distinct_bytes: int = 0
    output_limit: int = 0


class RowUsage(msgspec.Struct, frozen=True):
    """Resources that the answered rows of a job used; ``rows`` of them with ``prompt_bytes`` and ``output_limit`` by
    their sizes."""

    rows: int = 0
    prompt_bytes: int = 0
    output_limit: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    engine_seconds: float = 0.0

    def __add__(self, other: RowUsage) -> RowUsage:
        return RowUsage(*map(operator.add, msgspec.structs.astuple(self), msgspec.structs.astuple(other)))

    def __sub__(self, other: RowUsage) -> RowUsage:
        return RowUsage(*map(operator.sub, msgspec.structs.astuple(self), msgspec.structs.astuple(other)))


class OpenJob(msgspec.Struct, frozen=True):
    """A job that has not ended: what it is altogether, what it took so far, and how many of its rows are there."""

    id: str
    tenant: str
    model: str
    sizes: Sizes
    usage: RowUsage = RowUsage()
    rows_done: int = 0
    deadline: float | None = None


class EngineSupply(msgspec.Struct, frozen=True):
    """Engine seconds that batch work got in ``seconds`` of wall time in which it had work; from ``began`` on (seconds
    since 1970)."""

    began: float
    seconds: float
    engine_seconds: float

    @property
    def rate(self) -> float:
        """Engine seconds a second."""
        return self.engine_seconds / self.seconds


class ForecastInputs(msgspec.Struct, frozen=True):
    """Inputs of a forecast: jobs that have not ended, what rows took by model, and the supply."""

    open: tuple[OpenJob, ...]
    usages: tuple[tuple[str, RowUsage], ...]
    supplied: tuple[EngineSupply, ...]


class BatchWork:
    """Repository of what batch work is, takes and gets."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def declare(
        self,
        scope: Scope,
        job: str,
        model: str,
        sizes: Sizes,
        deadline: datetime | None,
        *,
        within: Connection | None = None,
    ) -> None:
        """Say what a job is altogether; saying it again replaces it and keeps what was measured."""
        said = {"model": model, **msgspec.structs.asdict(sizes), "deadline": deadline}
        statement = upsert(_work).values(
            tenant=scope.tenant,
            environment=scope.environment,
            job=job,
            updated_at=self._database.clock.now(),
            **said,
            **_columns(RowUsage()),
        )
        self._database.write(statement.on_conflict_do_update(set_=said), within)

    def used(self, scope: Scope, job: str, usage: RowUsage) -> None:
        """Add what more rows of a job took; does nothing for a job that was not declared."""
        added = {name: _work.c[name] + value for name, value in _columns(usage).items()}
        of_job = update(_work).where(schema.owned(_work, scope, job=job))
        self._database.write(of_job.values(updated_at=self._database.clock.now(), **added))

    def supply(self, scope: Scope, worker: str, got: EngineSupply) -> None:
        """Add to what batch work got in the bucket that begins at ``got.began``, as this worker saw it."""
        values = {"seconds": got.seconds, "engine_seconds": got.engine_seconds}
        statement = upsert(_supply).values(
            tenant=scope.tenant,
            environment=scope.environment,
            worker=worker,
            began_at=int(got.began * 1_000_000),
            **values,
        )
        added = {name: _supply.c[name] + value for name, value in values.items()}
        with self._database.transaction() as connection:
            connection.execute(statement.on_conflict_do_update(set_=added))
            connection.execute(
                delete(_supply).where(schema.owned(_supply, scope), _supply.c.began_at < self._kept_since())
            )

    def look(self, scope: Scope) -> ForecastInputs:
        """Returns the present inputs, jobs of all tenants among them: they share one engine.

        Args:
            scope: where workers say what batch work got; the project's own.
        """
        with self._database.read() as connection:
            counts = (
                select(_rows.c.tenant, _rows.c.environment, _rows.c.job, func.count().label("done"))
                .join(_jobs, _same_job(_rows))
                .where(_rows.c.environment == scope.environment, _jobs.c.status.not_in(ENDED))
                .group_by(_rows.c.tenant, _rows.c.environment, _rows.c.job)
                .subquery()
            )
            open_ = connection.execute(
                select(_work, counts.c.done)
                .join(_jobs, _same_job(_work))
                .outerjoin(counts, (counts.c.tenant == _work.c.tenant) & (counts.c.job == _work.c.job))
                .where(_work.c.environment == scope.environment, _jobs.c.status.not_in(ENDED))
            ).all()
            usages = connection.execute(
                select(_work)
                .where(_work.c.environment == scope.environment, _work.c.done_rows > 0)
                .order_by(_work.c.updated_at.desc())
                .limit(MOST_READ)
            ).all()
            supplied = connection.execute(
                select(_supply).where(schema.owned(_supply, scope), _supply.c.began_at >= self._kept_since())
            ).all()
        return ForecastInputs(
            tuple(_open(row) for row in open_),
            tuple((row.model, _usage(row)) for row in usages),
            tuple(EngineSupply(row.began_at / 1_000_000, row.seconds, row.engine_seconds) for row in supplied),
        )

    def usage(self, scope: Scope, jobs: Collection[str]) -> dict[str, RowUsage]:
        """Returns what the rows of these jobs used."""
        found = self._database.rows(select(_work).where(schema.owned(_work, scope), _work.c.job.in_(jobs)))
        return {row.job: _usage(row) for row in found}

    def _kept_since(self) -> int:
        return microseconds(self._database.clock.now() - KEPT)


def _same_job(table: Table) -> ColumnElement[bool]:
    own = (table.c.tenant == _jobs.c.tenant) & (table.c.environment == _jobs.c.environment)
    return own & (table.c.job == _jobs.c.id)


def _columns(usage: RowUsage) -> dict[str, int | float]:
    return {f"done_{name}": value for name, value in msgspec.structs.asdict(usage).items()}


def _usage(row: Row[Any]) -> RowUsage:
    return RowUsage(*(getattr(row, f"done_{name}") for name in RowUsage.__struct_fields__))


def _open(row: Row[Any]) -> OpenJob:
    return OpenJob(
        id=row.job,
        tenant=row.tenant,
        model=row.model,
        sizes=value_of(Sizes, row),
        usage=_usage(row),
        rows_done=row.done or 0,
        deadline=None if row.deadline is None else row.deadline.timestamp(),
    )
