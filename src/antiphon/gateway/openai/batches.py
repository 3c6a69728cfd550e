"""``/v1/batches``: orders batches of requests, shows and cancels them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal

import msgspec

from antiphon.batch.estimates import Estimate
from antiphon.batch.request_batches import BatchOrder
from antiphon.catalog.batch.batches import Batch, LineError
from antiphon.core.errors import NotFoundError
from antiphon.gateway.openai.files import page_of
from antiphon.gateway.operation import OperationCall, operation
from antiphon.governance.policy.request import Resource


class RequestCounts(msgspec.Struct, frozen=True):
    """Requests of a batch; those that have an answer, and those that have an error."""

    total: int
    completed: int
    failed: int


class BatchErrors(msgspec.Struct, frozen=True, kw_only=True):
    """The errors of a batch that failed."""

    object: Literal["list"] = "list"
    data: tuple[LineError, ...]


class EstimatedCompletion(msgspec.Struct, frozen=True):
    """The expected end of a batch: at about ``at``, four times of five between ``earliest`` and ``latest``. Seconds
    since 1970."""

    at: int
    earliest: int
    latest: int


class BatchObject(msgspec.Struct, frozen=True, kw_only=True):
    """A batch. Times are seconds since 1970. ``estimated_completion`` is ours: OpenAI's clients leave it where it
    is."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: Literal[
        "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
    ]
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    metadata: dict[str, str] | None
    estimated_completion: EstimatedCompletion | None


_MOMENTS = (
    "in_progress_at", "finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at",
)  # fmt: skip


class BatchPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page of batches; ``last_id`` is the ``after`` of the next."""

    object: Literal["list"] = "list"
    data: tuple[BatchObject, ...]
    first_id: str | None
    last_id: str | None
    has_more: bool


class BatchQuery(msgspec.Struct, frozen=True):
    """Selects batches: those after a batch, the latest first, so many at most."""

    after: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 20


class OutputExpiresAfter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The lifetime of the files that a batch makes, from when they are made."""

    anchor: Literal["created_at"]
    seconds: int


class BatchCreate(msgspec.Struct, frozen=True):
    """Body of ``POST /v1/batches``. ``accept_late`` is ours: take what cannot have ended within the window, too."""

    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None
    output_expires_after: OutputExpiresAfter | None = None
    accept_late: bool = False


def batch_object(batch: Batch, estimate: Estimate | None = None) -> BatchObject:
    """The batch as it is shown; the files that it will have are named once they are there."""
    job, completion = batch.job, None
    moments: dict[str, Any] = {
        name: None if (at := batch.moments.get(name)) is None else int(at.timestamp()) for name in _MOMENTS
    }
    if estimate is not None:
        ends = (estimate.ends_at, estimate.earliest, estimate.latest)
        completion = EstimatedCompletion(*(int(moment.timestamp()) for moment in ends))
    return BatchObject(
        id=batch.id,
        endpoint=batch.endpoint,
        model=job.application or None,
        errors=BatchErrors(data=batch.errors) if batch.errors else None,
        input_file_id=batch.input_file,
        completion_window=batch.window,
        status=batch.status,
        output_file_id=batch.output_file if batch.ended else None,
        error_file_id=batch.error_file if batch.ended else None,
        created_at=int(job.created_at.timestamp()),
        expires_at=int(batch.expires_at.timestamp()),
        request_counts=RequestCounts(job.total or 0, job.rows_done - job.rows_failed, job.rows_failed),
        metadata=batch.metadata,
        estimated_completion=completion,
        **moments,
    )


@operation("POST", "/v1/batches", "Answer every request of a file.", "batch")
def _v1_batch_create(call: OperationCall, body: BatchCreate) -> BatchObject:
    seconds = None if body.output_expires_after is None else body.output_expires_after.seconds
    order = BatchOrder(
        body.input_file_id, body.endpoint, body.completion_window, body.metadata, seconds, body.accept_late
    )
    work, records = call.services.work, call.services.access.records
    # A batch shows its input in what comes of it: whoever orders one may read the file.
    with suppress(NotFoundError):  # which is said of the field that names it
        records.require_file(call.scope, call.principal, work.files.records.get(call.scope, order.input_file_id))
    return batch_object(work.batches.create(call.scope, call.principal, order, call.originator))


@operation("GET", "/v1/batches", "Batches, newest first.", "read")
def _v1_batch_list(call: OperationCall, query: BatchQuery) -> BatchPage:
    found = call.services.work.batches.records.list(call.scope, after=query.after, limit=query.limit + 1)
    return page_of(BatchPage, _shown(call, found), query.limit)


@operation("GET", "/v1/batches/{batch}", "One batch with its counts.", "read")
def _v1_batch_retrieve(call: OperationCall) -> BatchObject:
    return _shown(call, [call.services.work.batches.records.get(call.scope, call.path["batch"])])[0]


@operation("POST", "/v1/batches/{batch}/cancel", "Ask a batch to stop.", "batch")
def _v1_batch_cancel(call: OperationCall) -> BatchObject:
    batches, batch, who = call.services.work.batches, call.path["batch"], call.principal
    author = batches.records.get(call.scope, batch).job.principal
    call.services.access.authorize(who, "batch", Resource("job", batch, who.tenant, author=author))
    return batch_object(batches.cancel(call.scope, batch, who.id, call.originator))


def _shown(call: OperationCall, found: Sequence[Batch]) -> tuple[BatchObject, ...]:
    """Batches with their estimates."""
    running = [batch.id for batch in found if not batch.ended]
    estimates = call.services.work.tables.estimates(call.scope, running)
    return tuple(batch_object(batch, estimates.get(batch.id)) for batch in found)
