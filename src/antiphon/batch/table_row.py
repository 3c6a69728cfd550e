"""Rows of a table job: the request of each and the output row it becomes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from antiphon.batch import tables
from antiphon.batch.row_plan import RowSketch, row_sketch, sharing_order
from antiphon.batch.row_runner import RowAnswer, RowFaults
from antiphon.catalog.jobs import ANSWER_COLUMNS, BatchJob, JobRow
from antiphon.catalog.releases import Release
from antiphon.core.errors import AntiphonError, ForbiddenError, InvalidInputError
from antiphon.core.scope import Scope
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.on_demand import input_of_text
from antiphon.governance.identity.principal import Principal
from antiphon.governance.policy.engine import Decision
from antiphon.serving.features.on_demand import input_types
from antiphon.serving.request import Answer, AnswerRequest, Tier

AnswerFunction = Callable[[AnswerRequest], Awaitable[Answer]]
"""serving's ``answer()``."""

RowDecisions = Callable[
    [Scope, Principal, Release, Sequence[tuple[dict[str, str], datetime | None]]], Sequence[Decision]
]
"""Policy about many rows at once, each an entity and the moment it is asked about (``None``: now); one decision a row.

``answer()`` decides again about those that are let through.
"""


class TableRow:
    """One row of a table job: its columns, and its request or the error that keeps it from being asked."""

    def __init__(
        self, line: int, columns: tables.Row, request: AnswerRequest | AntiphonError, answer: AnswerFunction
    ) -> None:
        self.line = line
        self.columns = columns
        self.request = request
        self._answer = answer
        self.label = f"row {line}"
        self.sketch: RowSketch | None = None  # the prompt is not known before it is rendered
        self.refusal = request if isinstance(request, AntiphonError) else None
        self.prefix = 0
        if isinstance(request, AnswerRequest):
            # Of its entity and question, which rows that belong together share; its prompt begins with the entity.
            self.beginning = row_sketch(line, 0, [*request.entity.values(), request.question or ""], None)
            self.prefix = self.beginning.prefixes[0].digest if request.entity else 0

    async def answer(self, tier: Tier) -> RowAnswer:
        """Answers the row."""
        assert isinstance(self.request, AnswerRequest)
        answer = await self._answer(msgspec.structs.replace(self.request, tier=tier))
        receipt = answer.receipt
        columns = {
            "answer_prediction": answer.prediction,
            "answer_text": answer.text,
            "answer_origin": receipt.cache.origin,
            "answer_origin_prediction": receipt.cache.prediction,
            "answer_release": receipt.release,
            "answer_publication": answer.publication,
            "answer_classes": receipt.classes,
            "answer_guards": [action.action for action in receipt.guards],
            "answer_completion_tokens": answer.usage.completion_tokens,
            "answer_error": None,
        }
        return RowAnswer(JobRow(line=self.line, payload={**self.columns, **columns}), (answer.usage,))

    def failed(self, error: AntiphonError) -> JobRow:
        """The output row of an error, with its code and reason."""
        columns = {**dict.fromkeys(ANSWER_COLUMNS), "answer_error": f"{error.code}: {error}"}
        return JobRow(line=self.line, payload={**self.columns, **columns}, failed=True)


def grouped_by_entity(rows: Sequence[TableRow]) -> list[TableRow]:
    """Orders rows about one entity one after another; those that are not asked come first."""
    by_line = {row.line: row for row in rows}
    refused = [row for row in rows if row.refusal is not None]
    order = sharing_order([row.beginning for row in rows if row.refusal is None])
    return [*refused, *(by_line[sketch.line] for sketch in order)]


def permitted(request: AnswerRequest, decision: Decision) -> AnswerRequest | AntiphonError:
    """Returns the request, or the error of a row that policy denies."""
    if decision.allowed:
        return request
    return ForbiddenError(
        f"Policy does not let {request.principal.id} ask {request.application} about this row: {decision.reason}.",
        where="policy",
        next_step="`antiphon policy explain` says what would have to hold.",
    )


def request_of(
    principal: Principal, application: ApplicationSpec, job: BatchJob, faults: RowFaults, line: int, row: tables.Row
) -> AnswerRequest | AntiphonError:
    """Returns the request of a row, or the error that keeps it from being asked."""
    try:
        return _request(principal, application, job, row)
    except Exception as error:
        return faults.report(error, f"row {line}")


def _request(
    principal: Principal, application: ApplicationSpec, job: BatchJob, row: tables.Row
) -> AnswerRequest | AntiphonError:
    question = row.get("question")
    try:
        as_of = job.moment_of(row)
    except ValueError:
        return InvalidInputError(
            f"{row.get('as_of')!r} is no instant.", where="as_of", next_step="Write it in ISO 8601."
        )
    return AnswerRequest(
        scope=job.scope,
        principal=principal,
        application=job.application,
        entity={key: str(row[key]) for key in application.entity_keys if row.get(key) is not None},
        inputs=_inputs(application, row, texts=job.input.endswith(".csv")),
        question=str(question) if question else None,
        as_of=as_of,
        path="batch",
        release=job.release,
        refresh=job.kind == "precompute",
    )


def _inputs(application: ApplicationSpec, row: tables.Row, *, texts: bool) -> dict[str, Any]:
    """Returns the columns that are inputs; those of a CSV file are parsed from its texts."""
    return {
        name: input_of_text(declared, row[name]) if texts and isinstance(row[name], str) else row[name]
        for name, declared in input_types(application.on_demand, application.entity_keys).items()
        if name in row
    }
