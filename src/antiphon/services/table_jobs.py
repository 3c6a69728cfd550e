"""Batch jobs over tables of one project: ordering and reading them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from antiphon.batch.estimates import Estimate
from antiphon.batch.orders import Outlook, TableOrder, TableOrders
from antiphon.batch.table_files import InputFiles
from antiphon.catalog.batch.jobs import BatchJob, JobRow
from antiphon.core.errors import AntiphonError
from antiphon.core.scope import Scope
from antiphon.governance.identity.principal import Principal
from antiphon.services.batches import (
    batch_estimates,
)
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.governance.policy_versions import records
from antiphon.services.project.store import Store


class ProjectTableJobs:
    """Batch jobs as the admin interface orders and reads them."""

    def __init__(self, store: Store, features: FeaturePlatform, *, confined: bool) -> None:
        self._store = store
        self._estimates = batch_estimates(store)
        self._orders = TableOrders(
            store.jobs, store.releases, store.blobs, store.runs, store.database, store.paths.root,
            self._estimates, store.database.clock, confined=confined,
            owner=store.scope, private=(store.paths.directory,), sources=features.source_files,
            inputs=InputFiles(store.jobs, records(store), features.source_files),
        )  # fmt: skip

    def create(self, scope: Scope, principal: Principal, order: TableOrder) -> BatchJob:
        """Place the order for this principal, on whose behalf its rows will be answered."""
        with self._relative_errors():
            return self._shown(self._orders.place(scope, principal, order))

    def outlook(self, scope: Scope, principal: Principal, order: TableOrder) -> Outlook:
        """Returns the size and expected end of an order without placing it."""
        with self._relative_errors():
            return self._orders.outlook(scope, principal, order)

    @contextlib.contextmanager
    def _relative_errors(self) -> Iterator[None]:
        """Gives the place of a file in errors relative to the project, so that no caller learns where that lies."""
        try:
            yield
        except AntiphonError as error:
            error.where = None if error.where is None else self._within(error.where)
            raise

    def _shown(self, job: BatchJob) -> BatchJob:
        return msgspec.structs.replace(job, input=self._within(job.input), output=self._within(job.output))

    def _within(self, path: str) -> str:
        root = self._store.paths.root
        return str(Path(path).relative_to(root)) if Path(path).is_relative_to(root) else path

    def estimates(self, scope: Scope, jobs: Sequence[str]) -> Mapping[str, Estimate]:
        """Estimates when jobs that have not ended end, as far as anything is known of them."""
        return self._estimates.of(scope.tenant, jobs)

    def get(self, scope: Scope, job: str) -> BatchJob:
        return self._shown(self._store.jobs.get(scope, job))

    def list(self, scope: Scope, limit: int = 50) -> Sequence[BatchJob]:
        return [self._shown(job) for job in self._store.jobs.list(scope, limit=limit)]

    def rows(self, scope: Scope, job: str, after: int, limit: int) -> Sequence[JobRow]:
        return self._store.jobs.page(scope, job, after, limit)
