"""Batches as OpenAI's API shows and asks for them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from antiphon.batch.estimates import Estimate
from antiphon.catalog.batches import Batch


class RequestCounts(msgspec.Struct, frozen=True):
    """Requests of a batch; those that have an answer, and those that have an error."""

    total: int
    completed: int
    failed: int


class BatchLineError(msgspec.Struct, frozen=True):
    """An error in a line of the file (counted from 1), or in the whole."""

    code: str
    message: str
    param: str | None
    line: int | None


class BatchErrors(msgspec.Struct, frozen=True, kw_only=True):
    """The errors of a batch that failed."""

    object: Literal["list"] = "list"
    data: tuple[BatchLineError, ...]


class EstimatedCompletion(msgspec.Struct, frozen=True):
    """The expected end of a batch: at about ``at``, four times of five between ``earliest`` and ``latest Seconds
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

    def at(status: str) -> int | None:
        moment = batch.moments.get(f"{status}_at")
        return None if moment is None else int(moment.timestamp())

    errors = tuple(BatchLineError(one.code, one.message, one.param, one.line) for one in batch.errors)
    job = batch.job
    return BatchObject(
        id=batch.id,
        endpoint=batch.endpoint,
        model=job.application or None,
        errors=BatchErrors(data=errors) if errors else None,
        input_file_id=batch.input_file,
        completion_window=batch.window,
        status=batch.status,
        output_file_id=batch.output_file if batch.ended else None,
        error_file_id=batch.error_file if batch.ended else None,
        created_at=int(job.created_at.timestamp()),
        in_progress_at=at("in_progress"),
        expires_at=int(batch.expires_at.timestamp()),
        finalizing_at=at("finalizing"),
        completed_at=at("completed"),
        failed_at=at("failed"),
        expired_at=at("expired"),
        cancelling_at=at("cancelling"),
        cancelled_at=at("cancelled"),
        request_counts=RequestCounts(job.total or 0, job.rows_done - job.rows_failed, job.rows_failed),
        metadata=batch.metadata,
        estimated_completion=None if estimate is None else _completion(estimate),
    )


def _completion(estimate: Estimate) -> EstimatedCompletion:
    moments = (estimate.ends_at, estimate.earliest, estimate.latest)
    return EstimatedCompletion(*(int(moment.timestamp()) for moment in moments))
