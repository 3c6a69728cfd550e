"""Batch jobs and workflow runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from antiphon.batch.orders import Outlook, TableOrder
from antiphon.core.settings_sections import PriceSettings
from antiphon.gateway.admin import shapes
from antiphon.gateway.bounds import MOST
from antiphon.gateway.operation import Operation, OperationCall


class RunQuery(msgspec.Struct, frozen=True):
    """Bounds the number of runs."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 50


class BatchRowQuery(msgspec.Struct, frozen=True):
    """Rows after this line (-1 begins at the first)."""

    after: Annotated[int, msgspec.Meta(ge=-1, le=MOST)] = -1
    limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1_000


def _jobs(call: OperationCall) -> shapes.BatchList:
    jobs = call.services.work.tables.list(call.scope, call.query.limit)
    return shapes.BatchList(_lines(call, jobs))


def _lines(call: OperationCall, jobs: Sequence[Any]) -> tuple[shapes.BatchLine, ...]:
    estimates = call.services.work.tables.estimates(call.scope, [job.id for job in jobs])
    return shapes.batch_lines(jobs, estimates, call.services.settings.prices)


def _outlook(call: OperationCall) -> shapes.BatchOutlook:
    return batch_outlook(
        call.services.work.tables.outlook(call.scope, call.principal, call.body), call.services.settings.prices
    )


def batch_outlook(found: Outlook, prices: PriceSettings) -> shapes.BatchOutlook:
    """The outlook with its estimate priced."""
    estimate = shapes.batch_estimate(found.estimate, prices)
    return shapes.BatchOutlook(found.rows, found.deadline, estimate, found.prompt_tokens, found.output_limit)


def _create(call: OperationCall) -> shapes.BatchLine:
    return shapes.read(call.services.work.tables.create(call.scope, call.principal, call.body), shapes.BatchLine)


def _job(call: OperationCall) -> shapes.BatchLine:
    return _lines(call, [call.services.work.tables.get(call.scope, call.path["job"])])[0]


def _rows(call: OperationCall) -> shapes.BatchRows:
    page: BatchRowQuery = call.query
    listed = call.services.work.tables.rows(call.scope, call.path["job"], page.after, page.limit)
    readable = listed
    if listed:
        job = call.services.work.tables.get(call.scope, call.path["job"])
        readable = call.services.access.records.readable_rows(call.scope, call.principal, job, listed)
    return shapes.BatchRows(
        shapes.read_all(readable, shapes.BatchRow), listed[-1].line if len(listed) == page.limit else None
    )


def _runs(call: OperationCall) -> shapes.RunList:
    return shapes.RunList(shapes.read_all(call.services.work.runs.list(call.scope, call.query.limit), shapes.RunLine))


def _run(call: OperationCall) -> shapes.RunLine:
    return shapes.read(call.services.work.runs.get(call.scope, call.path["run"]), shapes.RunLine)


def _cancel(call: OperationCall) -> shapes.RunLine:
    call.services.work.runs.cancel(call.scope, call.path["run"], call.principal)
    return _run(call)


OPERATIONS = (
    Operation("GET", "/admin/batch", "List batch jobs, newest first.", "read", shapes.BatchList, _jobs, RunQuery),
    Operation(
        "POST",
        "/admin/batch",
        "Answer every row of a table.",
        "batch",
        shapes.BatchLine,
        _create,
        body=TableOrder,
        changes=True,
        status=201,
    ),
    Operation(
        "POST",
        "/admin/batch-outlook",
        "What an order would be: rows, tokens, when it ends, what it costs. Nothing is recorded.",
        "batch",
        shapes.BatchOutlook,
        _outlook,
        body=TableOrder,
    ),
    Operation("GET", "/admin/batch/{job}", "One batch job with its counts.", "read", shapes.BatchLine, _job),
    Operation(
        "GET",
        "/admin/batch/{job}/rows",
        "Finished rows, in line order.",
        "read",
        shapes.BatchRows,
        _rows,
        BatchRowQuery,
    ),
    Operation("GET", "/admin/runs", "List workflow runs, newest first.", "read", shapes.RunList, _runs, RunQuery),
    Operation("GET", "/admin/runs/{run}", "One run.", "read", shapes.RunLine, _run),
    Operation(
        "POST",
        "/admin/runs/{run}/cancel",
        "Ask a run to stop; for those who may order it.",
        None,
        shapes.RunLine,
        _cancel,
        changes=True,
    ),
)
