"""Batch jobs over tables, and files and batches of OpenAI's API, over one project's stores."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from antiphon.batch.estimates import Estimate, Estimates
from antiphon.batch.fair_queue import FairQueue
from antiphon.batch.files import FileLimits, FileStore
from antiphon.batch.gauge import Gauge
from antiphon.batch.orders import Outlook, TableOrder, TableOrders
from antiphon.batch.row_runner import BatchContext
from antiphon.batch.table_files import InputFiles
from antiphon.batch.table_job import AnswerFunction, TableJobs
from antiphon.batch.table_objects import TableObject, TableObjects, object_of
from antiphon.catalog.batch.batch_work import BatchWork
from antiphon.catalog.batch.batches import Batches
from antiphon.catalog.batch.files import Files
from antiphon.catalog.batch.jobs import BatchJob, JobRow
from antiphon.core.clock import ClockAgreement, parse_duration
from antiphon.core.errors import AntiphonError, InvalidInputError
from antiphon.core.scope import Scope
from antiphon.features.lake.bucket import S3Place
from antiphon.features.lake.content import Lake
from antiphon.features.lake.local import LocalLake
from antiphon.features.lake.s3 import S3Lake
from antiphon.governance.identity.principal import Principal
from antiphon.services.features.platform import FeaturePlatform
from antiphon.services.governance.policies import row_decisions
from antiphon.services.governance.policy_versions import records
from antiphon.services.project.credentials import secret
from antiphon.services.project.feature_stores import object_store
from antiphon.services.project.store import Store


def file_contents(store: Store) -> Lake:
    """Opens the store of file contents: the project's folder, or the object store in the settings. Close it."""
    limits, codec = store.settings.batch, store.database.codec
    if limits.files is None:
        return LocalLake(store.paths.files, codec)
    return S3Lake(
        S3Place.of(limits.files),
        scratch=store.paths.files / ".scratch",
        access_key=secret(limits.files_access_key_variable, "files_access_key_variable", "batch"),
        secret_key=secret(limits.files_secret_key_variable, "files_secret_key_variable", "batch"),
        codec=codec,
    )


def file_store(store: Store, contents: Lake) -> FileStore:
    """The project's files."""
    limits = store.settings.batch
    return FileStore(
        Files(store.database),
        Batches(store.database),
        contents,
        store.database,
        store.audit,
        store.database.clock,
        FileLimits(
            limits.max_file_bytes, limits.quota_bytes, parse_duration(limits.files_kept), store.tenants.stored_bytes
        ),
        ClockAgreement(store.database.clock),
    )


def table_objects(store: Store) -> TableObjects:
    """Reads and writes tables of jobs in object stores, with the lake's credentials."""
    features, files = store.settings.features, store.settings.batch.files
    private = [S3Place.of(url) for url in (features.lake, files) if url is not None]
    return TableObjects(object_store(features), store.paths.lake / ".scratch", private)


def _shared_tables(store: Store) -> TableObject | None:
    """The prefix of tables that orders over HTTP name; raises ``InvalidInputError`` when it is none."""
    url = store.settings.batch.tables
    if url is None:
        return None
    try:
        prefix = object_of(url.replace("/?", "?").rstrip("/"))
        table_objects(store).require_open(prefix)
    except InvalidInputError as error:
        error.where, error.next_step = "[batch] tables", "Write s3://BUCKET/PREFIX, beside those of lake and files."
        raise
    return prefix


def table_jobs(store: Store, features: FeaturePlatform, answer: AnswerFunction, context: BatchContext) -> TableJobs:
    """The workflow of table jobs, over one project's stores."""
    return TableJobs(
        store.jobs,
        store.releases,
        store.blobs,
        answer,
        store.settings.gateway.batch_concurrency,
        context,
        decide=row_decisions(store),
        sources=features.source_files,
        objects=table_objects(store),
    )


def askable(store: Store, scope: Scope) -> list[str]:
    """Returns the names that a request may use as its model: applications first, models of other tenants last."""
    return [*store.releases.applications(scope), *store.settings.engine.models, *store.granted.models(scope)]


def embedding_models(store: Store) -> tuple[str, ...]:
    """Returns the names that a request for vectors may use as its model."""
    return store.settings.engine.embedding_models


def batch_estimates(store: Store) -> Estimates:
    """Builds the estimates of when the project's jobs end."""
    return Estimates(BatchWork(store.database), store.scope, store.database.clock, store.tenants.share)


def batch_context(store: Store, worker: str) -> BatchContext:
    """Makes the state that all batch work of a worker shares."""
    clock = store.database.clock
    return BatchContext(
        queue=FairQueue(store.settings.batch.concurrency, lambda: clock.now().timestamp(), store.tenants.share),
        gauge=Gauge(BatchWork(store.database), store.scope, worker, clock),
        estimates=batch_estimates(store),
        clock=clock,
    )


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
            objects=table_objects(store), shared=_shared_tables(store),
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

    def list(self, scope: Scope, limit: int = 50, before: tuple[datetime, str] | None = None) -> Sequence[BatchJob]:
        return [self._shown(job) for job in self._store.jobs.list(scope, limit, before)]

    def rows(self, scope: Scope, job: str, after: int, limit: int, failed: bool | None = None) -> Sequence[JobRow]:
        return self._store.jobs.page(scope, job, after, limit, failed)
