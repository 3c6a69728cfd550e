"""Files and batches of OpenAI's API beside a catalog in a temporary folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from antiphon.batch.batch_job import BatchJobs, LineAnswer
from antiphon.batch.estimates import Estimates
from antiphon.batch.fair_queue import FairQueue
from antiphon.batch.files import FileLimits, FileStore
from antiphon.batch.gauge import Gauge
from antiphon.batch.lines import RequestFileLimits
from antiphon.batch.request_batches import RequestBatches
from antiphon.batch.row_runner import BatchContext
from antiphon.catalog.batch.batch_work import BatchWork
from antiphon.catalog.batch.batches import Batches
from antiphon.catalog.batch.files import Files
from antiphon.catalog.batch.jobs import Jobs
from antiphon.catalog.database import Database
from antiphon.catalog.features.definitions import AppliedProjects
from antiphon.catalog.releases.releases import Releases
from antiphon.catalog.serving.blobs import Blobs
from antiphon.catalog.serving.receipts import Receipts
from antiphon.core.clock import ClockAgreement
from antiphon.core.scope import Scope
from antiphon.durable.runs import Runs
from antiphon.features.lake.local import LocalLake
from antiphon.gateway.openai.batch_lines import ENDPOINTS, BatchLines
from antiphon.gateway.openai.responses.stored import StoredResponses
from antiphon.governance.audit.log import AuditLog
from antiphon.governance.policy.engine import Decider
from antiphon.serving.records import Records

SCOPE = Scope("default", "test")
"""The project's own."""


def file_store(database: Database, secret: bytes, **limits: Any) -> FileStore:
    """Files beside this catalog, with small bounds."""
    bounds = {"file_bytes": 1_000_000, "quota_bytes": 4_000_000, "kept": timedelta(days=30), **limits}
    contents = LocalLake(database.path.parent / "files", database.codec)
    audit = AuditLog(database, secret)
    return FileStore(
        Files(database),
        Batches(database),
        contents,
        database,
        audit,
        database.clock,
        FileLimits(**bounds),
        ClockAgreement(database.clock),
    )


def request_batches(database: Database, files: FileStore, secret: bytes) -> RequestBatches:
    """Batches as they are ordered; nobody works on them."""
    audit = AuditLog(database, secret)
    return RequestBatches(Batches(database), files, Runs(database), database, audit, database.clock, ENDPOINTS)


def batch_lines(database: Database) -> BatchLines:
    """Lines of batches beside this catalog, under the default policies."""
    receipts, blobs, decider = Receipts(database), Blobs(database), Decider()
    records = Records(
        lambda tenant: decider, receipts, blobs, Releases(database), Batches(database), AppliedProjects(database)
    )
    return BatchLines(database.clock, StoredResponses(receipts, blobs, records))


def batch_context(database: Database, concurrency: int = 4) -> BatchContext:
    """Makes the shared state of batch work, on the catalog's own clock."""
    measurements, clock = BatchWork(database), database.clock
    return BatchContext(
        queue=FairQueue(concurrency, lambda: clock.now().timestamp()),
        gauge=Gauge(measurements, SCOPE, "worker", clock),
        estimates=Estimates(measurements, SCOPE, clock),
        clock=clock,
    )


def batch_jobs(
    database: Database,
    files: FileStore,
    secret: bytes,
    answer: LineAnswer,
    models: Sequence[str],
    *,
    concurrency: int = 4,
    limits: RequestFileLimits | None = None,
    waiting: Callable[[], bool] = lambda: False,
) -> BatchJobs:
    """Works on batches with this ``answer()``."""

    def askable(scope: Scope, endpoint: str) -> Sequence[str]:
        return models

    return BatchJobs(
        batches=Batches(database),
        jobs=Jobs(database),
        files=files,
        database=database,
        endpoints=batch_lines(database),
        answer=answer,
        models=askable,
        context=batch_context(database, concurrency),
        audit=AuditLog(database, secret),
        limits=limits or RequestFileLimits(1_000, 10_000),
        waiting=waiting,
    )
