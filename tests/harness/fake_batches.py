"""Batch jobs that are recorded and that nobody works on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from antiphon.batch.estimates import Estimate, Estimates
from antiphon.batch.orders import Outlook, TableOrder
from antiphon.catalog.batch.jobs import BatchJob, JobRow, Jobs
from antiphon.core.scope import Scope
from antiphon.governance.identity.principal import Principal


class FakeBatches:
    """Records jobs; nobody works on them."""

    def __init__(self, jobs: Jobs, estimates: Estimates) -> None:
        self._jobs = jobs
        self._estimates = estimates

    def create(self, scope: Scope, principal: Principal, order: TableOrder) -> BatchJob:
        return self._jobs.create(
            scope,
            application=order.application,
            release=order.release,
            input=order.input or "rows",
            output=order.output or "",
            principal=principal.id,
            total=len(order.rows) or None,
        )

    def get(self, scope: Scope, job: str) -> BatchJob:
        return self._jobs.get(scope, job)

    def list(self, scope: Scope, limit: int = 50, before: tuple[datetime, str] | None = None) -> Sequence[BatchJob]:
        return self._jobs.list(scope, limit, before)

    def outlook(self, scope: Scope, principal: Principal, order: TableOrder) -> Outlook:
        return Outlook(len(order.rows), None, None)

    def estimates(self, scope: Scope, jobs: Sequence[str]) -> Mapping[str, Estimate]:
        return self._estimates.of(scope.tenant, jobs)

    def rows(self, scope: Scope, job: str, after: int, limit: int, failed: bool | None = None) -> Sequence[JobRow]:
        return self._jobs.page(scope, job, after, limit, failed)
