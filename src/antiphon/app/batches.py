"""Files and batches of OpenAI's API over one project's stores."""

from __future__ import annotations

from antiphon.app.credentials import secret
from antiphon.app.store import Store
from antiphon.batch.batch_job import BatchJobs, BatchParts
from antiphon.batch.estimates import Estimates
from antiphon.batch.files import FileLimits, FileStore
from antiphon.batch.gauge import Gauge
from antiphon.batch.lines import FileBounds
from antiphon.batch.ports import AnswerLine
from antiphon.batch.request_batches import WORKFLOW, RequestBatches
from antiphon.batch.shared import Shared
from antiphon.batch.turns import Turns
from antiphon.catalog.batch_work import BatchWork
from antiphon.catalog.batches import Batches
from antiphon.catalog.files import Files
from antiphon.core.clock import parse_duration
from antiphon.core.scope import Scope
from antiphon.durable.executor import Executor
from antiphon.durable.registry import Registry
from antiphon.features.lake.bucket import S3Place
from antiphon.features.lake.local import LocalLake
from antiphon.features.lake.s3 import S3Lake
from antiphon.gateway.openai.batch_lines import EMBEDDINGS, ENDPOINTS, BatchLines


def file_contents(store: Store) -> LocalLake | S3Lake:
    """Where contents of files lie: the project's folder, or the object store that its settings name. Close it."""
    wanted, codec = store.settings.batch, store.database.codec
    if wanted.files is None:
        return LocalLake(store.paths.files, codec)
    return S3Lake(
        S3Place.of(wanted.files),
        scratch=store.paths.files / ".scratch",
        access_key=secret(wanted.files_access_key_variable, "files_access_key_variable", "batch"),
        secret_key=secret(wanted.files_secret_key_variable, "files_secret_key_variable", "batch"),
        codec=codec,
    )


def file_store(store: Store, contents: LocalLake | S3Lake) -> FileStore:
    """The project's files."""
    wanted = store.settings.batch
    return FileStore(
        Files(store.database),
        Batches(store.database),
        contents,
        store.database,
        store.audit.append,
        store.database.clock,
        FileLimits(wanted.max_file_bytes, wanted.quota_bytes, parse_duration(wanted.files_kept)),
    )


def request_batches(store: Store, files: FileStore) -> RequestBatches:
    """The project's batches, as they are ordered."""
    return RequestBatches(
        Batches(store.database), files, store.runs, store.database, store.audit.append, store.database.clock, ENDPOINTS
    )


def askable(store: Store, scope: Scope) -> list[str]:
    """What a request may name as its model: applications first."""
    return [*store.releases.applications(scope), *store.settings.engine.models]


def embedding_models(store: Store) -> tuple[str, ...]:
    """What a request for vectors may name as its model."""
    return store.settings.engine.embedding_models


def batch_estimates(store: Store) -> Estimates:
    """When the project's jobs will have ended."""
    return Estimates(BatchWork(store.database), store.scope, store.database.clock)


def batch_shared(store: Store, worker: str) -> Shared:
    """What all batch work of a worker shares."""
    clock = store.database.clock
    return Shared(
        turns=Turns(store.settings.batch.concurrency, lambda: clock.now().timestamp()),
        gauge=Gauge(BatchWork(store.database), store.scope, worker, clock),
        estimates=batch_estimates(store),
        clock=clock,
    )


def batch_executor(store: Store, files: FileStore, answer: AnswerLine, worker: str, shared: Shared) -> Executor:
    """Works on batches, apart from everything else that is durable: a batch may take a day."""
    wanted, registry = store.settings.batch, Registry()
    jobs = BatchJobs(
        BatchParts(
            batches=Batches(store.database),
            jobs=store.jobs,
            files=files,
            transactions=store.database,
            endpoints=BatchLines(store.database.clock),
            answer=answer,
            models=lambda scope, endpoint: (
                list(embedding_models(store)) if endpoint == EMBEDDINGS else askable(store, scope)
            ),
            shared=shared,
            audit=store.audit.append,
            bounds=FileBounds(wanted.max_requests, store.settings.gateway.max_body_bytes),
            waiting=lambda: store.runs.queued((WORKFLOW,)),
        )
    )
    registry.add(WORKFLOW, jobs.run)
    lease = parse_duration(store.settings.worker.lease)
    return Executor(store.database, registry, f"{worker}/batches", lease=lease, concurrency=wanted.batches, fair=True)
