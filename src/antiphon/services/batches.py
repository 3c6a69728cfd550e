"""Files and batches of OpenAI's API over one project's stores."""

from __future__ import annotations

from antiphon.batch.estimates import Estimates
from antiphon.batch.fair_queue import FairQueue
from antiphon.batch.files import FileLimits, FileStore
from antiphon.batch.gauge import Gauge
from antiphon.batch.row_runner import BatchContext
from antiphon.catalog.batch.batch_work import BatchWork
from antiphon.catalog.batch.batches import Batches
from antiphon.catalog.batch.files import Files
from antiphon.core.clock import ClockAgreement, parse_duration
from antiphon.core.scope import Scope
from antiphon.features.lake.bucket import S3Place
from antiphon.features.lake.content import Lake
from antiphon.features.lake.local import LocalLake
from antiphon.features.lake.s3 import S3Lake
from antiphon.services.project.credentials import secret
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
        FileLimits(limits.max_file_bytes, limits.quota_bytes, parse_duration(limits.files_kept)),
        ClockAgreement(store.database.clock),
    )


def askable(store: Store, scope: Scope) -> list[str]:
    """Returns the names that a request may use as its model: applications first."""
    return [*store.releases.applications(scope), *store.settings.engine.models]


def embedding_models(store: Store) -> tuple[str, ...]:
    """Returns the names that a request for vectors may use as its model."""
    return store.settings.engine.embedding_models


def batch_estimates(store: Store) -> Estimates:
    """Builds the estimates of when the project's jobs end."""
    return Estimates(BatchWork(store.database), store.scope, store.database.clock)


def batch_context(store: Store, worker: str) -> BatchContext:
    """Makes the state that all batch work of a worker shares."""
    clock = store.database.clock
    return BatchContext(
        queue=FairQueue(store.settings.batch.concurrency, lambda: clock.now().timestamp()),
        gauge=Gauge(BatchWork(store.database), store.scope, worker, clock),
        estimates=batch_estimates(store),
        clock=clock,
    )
