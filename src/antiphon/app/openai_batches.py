"""Batches of OpenAI's API over one project's stores: ordering them and working on them."""

from __future__ import annotations

from antiphon.batch.batch_job import BatchJobs, LineAnswer
from antiphon.batch.files import FileStore
from antiphon.batch.lines import RequestFileLimits
from antiphon.batch.request_batches import WORKFLOW, RequestBatches
from antiphon.batch.row_runner import BatchContext
from antiphon.catalog.batch.batches import Batches
from antiphon.core.clock import parse_duration
from antiphon.durable.executor import Executor
from antiphon.durable.registry import WorkflowRegistry
from antiphon.gateway.openai.batch_lines import EMBEDDINGS, ENDPOINTS, BatchLines
from antiphon.services.batches import askable, embedding_models
from antiphon.services.project.store import Store


def request_batches(store: Store, files: FileStore) -> RequestBatches:
    """The project's batches, as they are ordered."""
    return RequestBatches(
        Batches(store.database), files, store.runs, store.database, store.audit, store.database.clock, ENDPOINTS
    )


def batch_executor(store: Store, files: FileStore, answer: LineAnswer, worker: str, context: BatchContext) -> Executor:
    """Works on batches, apart from everything else that is durable: a batch may take a day."""
    limits, registry = store.settings.batch, WorkflowRegistry()
    jobs = BatchJobs(
        batches=Batches(store.database),
        jobs=store.jobs,
        files=files,
        database=store.database,
        endpoints=BatchLines(store.database.clock),
        answer=answer,
        models=lambda scope, endpoint: (
            list(embedding_models(store)) if endpoint == EMBEDDINGS else askable(store, scope)
        ),
        context=context,
        audit=store.audit,
        limits=RequestFileLimits(limits.max_requests, store.settings.gateway.max_body_bytes),
        waiting=lambda: store.runs.queued((WORKFLOW,)),
    )
    registry.add(WORKFLOW, jobs.run)
    lease = parse_duration(store.settings.worker.lease)
    return Executor(store.database, registry, f"{worker}/batches", lease=lease, concurrency=limits.batches, fair=True)
