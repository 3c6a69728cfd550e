"""Rows of a table job: what is asked for each, and what it becomes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from antiphon.batch import tables
from antiphon.batch.ports import Decided
from antiphon.batch.row_faults import RowFaults
from antiphon.batch.row_order import Row, in_order
from antiphon.batch.sketches import sketch
from antiphon.catalog.jobs import ANSWER_COLUMNS, BatchJob, JobRow
from antiphon.core.errors import AntiphonError, ForbiddenError, InvalidInputError
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.on_demand import input_of_text
from antiphon.governance.identity.principal import Principal
from antiphon.serving.features.on_demand import input_types
from antiphon.serving.request import Answer, AnswerRequest


def in_order_of_entities(
    chunk: Sequence[tuple[int, tables.Row]], requests: Sequence[AnswerRequest | AntiphonError]
) -> tuple[list[tuple[int, tables.Row]], list[AnswerRequest | AntiphonError]]:
    """Rows about one entity one after another; those that nothing is asked for come first."""
    found = {line: (row, request) for (line, row), request in zip(chunk, requests, strict=True)}
    asked = [sketch_of(line, one) for line, (_, one) in found.items() if isinstance(one, AnswerRequest)]
    refused = [line for line, (_, one) in found.items() if not isinstance(one, AnswerRequest)]
    lines = [*refused, *(each.line for each in in_order(asked))]
    return [(line, found[line][0]) for line in lines], [found[line][1] for line in lines]


def sketch_of(line: int, request: AnswerRequest) -> Row:
    """What a row's prompt begins with, as far as its entity tells."""
    return sketch(line, 0, [*request.entity.values(), request.question or ""], None)


def if_allowed(request: AnswerRequest, said: Decided) -> AnswerRequest | AntiphonError:
    """The request, unless policy denies it."""
    if said.allowed:
        return request
    return ForbiddenError(
        f"Policy does not let {request.principal.id} ask {request.application} about this row: {said.reason}.",
        where="policy",
        next_step="`antiphon policy explain` says what would have to hold.",
    )


def request_of(
    principal: Principal, application: ApplicationSpec, job: BatchJob, faults: RowFaults, line: int, row: tables.Row
) -> AnswerRequest | AntiphonError:
    """What is asked for a row, or why nothing can be."""
    try:
        return _asked(principal, application, job, row)
    except Exception as error:
        return faults.told(error, f"row {line}")


def _asked(
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
    """The columns that are inputs; of a CSV file, which has texts only, what the texts say."""
    return {
        name: input_of_text(declared, row[name]) if texts and isinstance(row[name], str) else row[name]
        for name, declared in input_types(application).items()
        if name in row
    }


def answered_row(line: int, row: tables.Row, answer: Answer) -> JobRow:
    """The row of an answer."""
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
    return JobRow(line=line, payload={**row, **columns})


def failed_row(line: int, row: tables.Row, error: AntiphonError) -> JobRow:
    """The row of a failure, with its code and reason."""
    return JobRow(
        line=line,
        payload={**row, **dict.fromkeys(ANSWER_COLUMNS), "answer_error": f"{error.code}: {error}"},
        failed=True,
    )
