"""Batch jobs and workflow runs."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from antiphon.batch.orders import TableOrder
from antiphon.durable.run import RunStatus
from antiphon.gateway.admin.shapes import (
    BatchLine,
    BatchList,
    BatchOutlook,
    BatchRows,
    ListQuery,
    Reason,
    ReasonRequest,
    RunLine,
    RunList,
    batch_lines,
    batch_outlook,
    read,
    run_lines,
)
from antiphon.gateway.http.bounds import MOST, Few
from antiphon.gateway.operation import OperationCall, operation


class BatchRowQuery(msgspec.Struct, frozen=True):
    """Rows after this line (-1 begins at the first)."""

    after: Annotated[int, msgspec.Meta(ge=-1, le=MOST)] = -1
    limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1_000


@operation("GET", "/admin/batch", "List batch jobs, newest first.", "read")
def _jobs(call: OperationCall, query: ListQuery) -> BatchList:
    return BatchList(batch_lines(call.services, call.scope, call.services.work.tables.list(call.scope, query.limit)))


@operation("POST", "/admin/batch", "Answer every row of a table.", "batch", changes=True, status=201)
def _create(call: OperationCall, body: TableOrder) -> BatchLine:
    return read(call.services.work.tables.create(call.scope, call.principal, body), BatchLine)


@operation(
    "POST",
    "/admin/batch-outlook",
    "What an order would be: rows, tokens, when it ends, what it costs. Nothing is recorded.",
    "batch",
)
def _outlook(call: OperationCall, body: TableOrder) -> BatchOutlook:
    found = call.services.work.tables.outlook(call.scope, call.principal, body)
    return batch_outlook(found, call.services.settings.prices)


@operation("GET", "/admin/batch/{job}", "One batch job with its counts.", "read")
def _job(call: OperationCall) -> BatchLine:
    return batch_lines(call.services, call.scope, [call.services.work.tables.get(call.scope, call.path["job"])])[0]


@operation("GET", "/admin/batch/{job}/rows", "Finished rows, in line order.", "read")
def _rows(call: OperationCall, query: BatchRowQuery) -> BatchRows:
    tables, job = call.services.work.tables, call.path["job"]
    readable = listed = tables.rows(call.scope, job, query.after, query.limit)
    if listed:
        records = call.services.access.records
        readable = records.readable_rows(call.scope, call.principal, tables.get(call.scope, job), listed)
    return BatchRows(tuple(readable), listed[-1].line if len(listed) == query.limit else None)


class RunQuery(msgspec.Struct, frozen=True):
    """Only runs of this status; bounds their number."""

    limit: Few = 50
    status: RunStatus | None = None


class RetryRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A retry with its reason, for the record.

    Attributes:
        from_step: begin another run with the records of this one up to, and without, a step of this name.
    """

    reason: Annotated[str, msgspec.Meta(max_length=2_000)] = ""
    from_step: str = ""


class SkipRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The result of the step at which a run failed, with the reason, for the record."""

    step: str
    result: Any
    reason: Reason


@operation("GET", "/admin/runs", "List workflow runs, newest first.", "read")
def _runs(call: OperationCall, query: RunQuery) -> RunList:
    runs = call.services.work.runs
    found = runs.list(call.scope, query.limit, query.status)
    return RunList(run_lines(found, runs.waits(call.scope, found)))


@operation("GET", "/admin/runs/{run}", "One run, with its attempts that failed.", "read")
def _run(call: OperationCall) -> RunLine:
    runs, run = call.services.work.runs, call.path["run"]
    found = runs.get(call.scope, run)
    line = run_lines([found], runs.waits(call.scope, [found]))[0]
    rolled_back = None if found.rollback is None else runs.rollback(call.scope, run)
    return msgspec.structs.replace(line, failures=runs.attempts(call.scope, run), rolled_back=rolled_back)


@operation("POST", "/admin/runs/{run}/cancel", "Ask a run to stop; for those who may order it.", None)
def _cancel(call: OperationCall) -> RunLine:
    runs, run = call.services.work.runs, call.path["run"]
    runs.cancel(call.scope, run, call.principal, originator=call.originator)
    return read(runs.get(call.scope, run), RunLine)


@operation(
    "POST", "/admin/runs/{run}/pause", "Let nobody work on a run until it is resumed; for those who may order it.", None
)
def _pause(call: OperationCall, body: ReasonRequest) -> RunLine:
    runs = call.services.work.runs
    return read(runs.pause(call.scope, call.path["run"], call.principal, body.reason), RunLine)


@operation("POST", "/admin/runs/{run}/resume", "End the pause of a run; for those who may order it.", None)
def _resume(call: OperationCall) -> RunLine:
    runs = call.services.work.runs
    return read(runs.resume(call.scope, call.path["run"], call.principal), RunLine)


@operation(
    "POST",
    "/admin/runs/{run}/retry",
    "Queue a failed run again from where it was, or another one from a step on; for those who may order it.",
    None,
)
def _retry(call: OperationCall, body: RetryRequest) -> RunLine:
    runs = call.services.work.runs
    return read(runs.retry(call.scope, call.path["run"], call.principal, body.reason, body.from_step), RunLine)


@operation(
    "POST",
    "/admin/runs/{run}/skip",
    "Record the result of the step at which a run failed, and queue it again; for those who may order it.",
    None,
)
def _skip(call: OperationCall, body: SkipRequest) -> RunLine:
    runs, run = call.services.work.runs, call.path["run"]
    return read(runs.skip(call.scope, run, body.step, body.result, call.principal, body.reason), RunLine)
