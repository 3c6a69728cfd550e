"""Table jobs: rows in, answers out, exactly one output row each, across crashes.

The rows are answered by the one row runner of batch work (``row_runner``, which states the invariants); a job that is
resumed continues with the lines that have no row, and the output file is made from rows alone: temp, fsync, rename.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import islice
from math import inf
from pathlib import Path
from typing import Any, Literal

import msgspec

from antiphon.batch import tables
from antiphon.batch.document_rows import DOCUMENT, TITLE, DocumentTexts, columns
from antiphon.batch.gauge import TRANSIENT_ERRORS
from antiphon.batch.row_plan import RowSketch, row_sketch, sharing_order
from antiphon.batch.row_runner import BatchContext, RowAnswer, RowFaults, RowRunner, run_result
from antiphon.batch.table_files import OutputFiles, rows_of
from antiphon.batch.table_objects import TableObjects, table_of
from antiphon.catalog.batch.jobs import ANSWER_COLUMNS, ENDED, BatchJob, JobRow, Jobs
from antiphon.catalog.releases.releases import Release, Releases
from antiphon.catalog.serving.blobs import Blobs
from antiphon.core.errors import AntiphonError, ConflictError, ForbiddenError, InvalidInputError
from antiphon.core.logs import unexpected
from antiphon.core.scope import Scope
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.on_demand import input_of_text
from antiphon.durable.context import RunContext
from antiphon.governance.identity.principal import Principal
from antiphon.governance.policy.engine import Decision
from antiphon.serving.features.on_demand import input_types
from antiphon.serving.request import Answer, AnswerRequest, Message, Tier

_log = logging.getLogger(__name__)

_CHUNK = 512
"""Rows that policy decides about together, and within which rows about one entity are brought together."""

_DENIED_LISTED = 100
"""Denied rows that a job's result names; every one of them stands in its own row."""


class GivenTurn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A turn in a row's ``messages``."""

    role: Literal["user", "assistant"]
    content: str


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
        self,
        line: int,
        columns: tables.Row,
        request: AnswerRequest | AntiphonError,
        answer: AnswerFunction,
        texts: DocumentTexts | None = None,
    ) -> None:
        self.line = line
        self.columns = columns
        self.request = request
        self._answer = answer
        self._texts = texts
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
        request = msgspec.structs.replace(self.request, tier=tier)
        if self._texts is not None:
            title, text = await self._texts.read(self.columns[DOCUMENT])
            self.columns = {**self.columns, TITLE: title}
            request = msgspec.structs.replace(request, question=text)
        answer = await self._answer(request)
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
        return _request(principal, application, job, line, row)
    except Exception as error:
        return faults.report(error, f"row {line}")


def _request(
    principal: Principal, application: ApplicationSpec, job: BatchJob, line: int, row: tables.Row
) -> AnswerRequest | AntiphonError:
    question = row.get("question")
    try:
        said, as_of = _said(application, row), job.moment_of(row)
    except InvalidInputError as error:
        return error
    except ValueError:
        return InvalidInputError(
            f"{row.get('as_of')!r} is no instant.", where="as_of", next_step="Write it in ISO 8601."
        )
    return AnswerRequest(
        scope=job.scope,
        principal=principal,
        application=job.application,
        entity={key: str(row[key]) for key in application.entity_keys if row.get(key) is not None},
        inputs=_inputs(application, row, texts=job.documents is not None or table_of(job.input).suffix == ".csv"),
        question=str(question) if question else said.get("question"),
        messages=said.get("messages", ()),
        conversation=said.get("conversation"),
        # A row that is asked again is the same request, so that no tool acts for it twice.
        request_id=f"{job.id}_{line}",
        as_of=as_of,
        path="batch",
        release=job.release,
        refresh=job.kind == "precompute",
    )


def _said(application: ApplicationSpec, row: tables.Row) -> dict[str, Any]:
    """Turns and conversation of a row, where the application sees earlier turns and these are no keys of its entity."""
    columns = {name: row.get(name) for name in ("messages", "conversation") if name not in application.entity_keys}
    if not application.conversation:
        return {}
    given, conversation = columns.get("messages"), columns.get("conversation")
    try:
        if isinstance(given, str) and given:
            given = msgspec.json.decode(given)
        turns = msgspec.convert(given or [], list[GivenTurn])
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise InvalidInputError(
            f"`messages` are no turns: {error}.",
            where="messages",
            next_step='Write a list of {"role": "user" or "assistant", "content": "…"}, the question last.',
        ) from None
    if turns and row.get("question"):
        raise InvalidInputError(
            "A row has `messages` and a `question`.", where="messages", next_step="Write the question as the last turn."
        )
    return {
        "messages": tuple(Message(turn.role, turn.content) for turn in turns),
        "question": turns[-1].content if turns else None,
        "conversation": str(conversation) if conversation else None,
    }


def _inputs(application: ApplicationSpec, row: tables.Row, *, texts: bool) -> dict[str, Any]:
    """Returns the columns that are inputs; those of a CSV file or of folders' names are parsed from texts."""
    return {
        name: input_of_text(declared, row[name]) if texts and isinstance(row[name], str) else row[name]
        for name, declared in input_types(application.on_demand, application.entity_keys).items()
        if name in row
    }


@dataclass(frozen=True)
class TableJobs:
    """Runs table jobs; :meth:`run` is the durable workflow.

    Attributes:
        concurrency: rows of a job that are answered at once, as far as they get slots.
        context: shared with other batch work of this process.
        decide: policy about many rows at once, so that rows that are denied cost no answer; ``None`` leaves it to
            ``answer()``, which decides about every row that is let through in any case.
        sources: patterns of files that the project reads, by the view or outcome that reads them; no job writes over
            these.
        objects: reads and writes tables in object stores.
    """

    jobs: Jobs
    releases: Releases
    blobs: Blobs
    answer: AnswerFunction
    concurrency: int
    context: BatchContext
    decide: RowDecisions | None = None
    sources: Callable[[], Mapping[str, Sequence[str]]] = dict
    objects: TableObjects | None = None

    async def run(self, run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        """Takes the job over, answers the lines that have no row, finishes the file.

        A job that no retry would finish ends as failed with its reason; a transient error (an engine or a catalog that
        is away) is raised, so that the run is retried.

        Raises:
            UnavailableError, EngineError, OverloadedError: a part the rows need stayed away.
            ConflictError: another worker took the job over.
        """
        scope, job_id = run.scope, str(arguments["job"])
        job = await asyncio.to_thread(self.jobs.get, scope, job_id)
        if job.status in ENDED:
            return _result(run, job)
        epoch: int | None = None
        try:
            epoch = await run.fenced(partial(self.jobs.take_over, scope, job_id))
            return await self._work(run, job, epoch)
        except ConflictError:
            # Cancelled meanwhile, or lost to another worker: only the first is an end.
            job = await asyncio.to_thread(self.jobs.get, scope, job_id)
            if job.status not in ENDED:
                raise
            return _result(run, job)
        except TRANSIENT_ERRORS:
            raise
        except Exception as error:
            known = isinstance(error, AntiphonError)
            why = str(error if known else unexpected(error, _log, f"job {job_id}", "worker.log"))
            failed = partial(self.jobs.set_status, scope, job_id, "failed", epoch=epoch, error=why)
            return _result(run, await asyncio.to_thread(failed))

    async def _work(self, run: RunContext, job: BatchJob, epoch: int) -> dict[str, Any]:
        scope, deadline = job.scope, job.settings.get("deadline")
        done = await asyncio.to_thread(self.jobs.done_lines, scope, job.id)
        faults = RowFaults(job.id)
        runner = RowRunner(
            run,
            self.jobs,
            self.context,
            job,
            epoch,
            len(done),
            faults,
            deadline=inf if deadline is None else datetime.fromisoformat(deadline).timestamp(),
            concurrency=self.concurrency,
            max_failed=job.settings.get("max_failed_rows"),
        )
        with (
            closing(DocumentTexts(Path(job.input))) as texts,
            closing(self._chunks(job, faults, done, texts)) as chunks,
        ):

            async def chunk() -> list[TableRow]:
                return next(chunks, [])

            await runner.run(chunk)
        if job.total is not None and runner.finished != job.total:
            raise InvalidInputError(
                f"The input {job.input} has {runner.finished} rows now and had {job.total} when the job was ordered.",
                where=job.input,
                next_step="Order a new job; do not change a job's input while it runs.",
            )
        await asyncio.to_thread(partial(self.jobs.set_status, scope, job.id, "finalizing", epoch=epoch))
        if job.output:
            rows = (row.payload for row in self.jobs.rows(scope, job.id))
            await asyncio.to_thread(OutputFiles(self.jobs, self.sources, self.objects).write, job, epoch, rows)
        ended = await asyncio.to_thread(partial(self.jobs.set_status, scope, job.id, "completed", epoch=epoch))
        return _result(run, ended, await asyncio.to_thread(self._denied, ended))

    def _chunks(
        self, job: BatchJob, faults: RowFaults, done: set[int], texts: DocumentTexts
    ) -> Generator[list[TableRow], None, None]:
        """Yields the rows without an output, each with its request or the error that keeps it from being asked."""
        principal = msgspec.convert(job.settings["principal"], Principal)
        release = self.releases.get(job.scope, job.release or "")
        application = release.bundle.application
        with closing(self._input(job)) as rows:
            waiting = ((line, row) for line, row in enumerate(rows) if line not in done)
            while chunk := list(islice(waiting, _CHUNK)):
                requests = [request_of(principal, application, job, faults, *one) for one in chunk]
                requests = self._permitted(principal, release, faults, requests)
                yield grouped_by_entity(
                    [
                        TableRow(line, row, request, self.answer, None if job.documents is None else texts)
                        for (line, row), request in zip(chunk, requests, strict=True)
                    ]
                )

    def _permitted(
        self, principal: Principal, release: Release, faults: RowFaults, requests: list[AnswerRequest | AntiphonError]
    ) -> list[AnswerRequest | AntiphonError]:
        sound = [request for request in requests if isinstance(request, AnswerRequest)]
        if self.decide is None or not sound:
            return requests
        try:
            rows = [(one.entity, one.as_of) for one in sound]
            decisions = iter(self.decide(release.scope, principal, release, rows))
        except TRANSIENT_ERRORS:
            raise
        except Exception as error:
            # Of many rows together the faulty one is unknown: ``answer()`` decides about each by itself.
            faults.report(error, f"policy about {len(sound)} rows")
            return requests
        return [permitted(one, next(decisions)) if isinstance(one, AnswerRequest) else one for one in requests]

    def _input(self, job: BatchJob) -> Generator[tables.Row, None, None]:
        if job.input.startswith("blob:"):
            content = self.blobs.get(job.scope, job.input.removeprefix("blob:"))
            yield from msgspec.json.decode(content, type=list[tables.Row])
        elif job.documents is not None:
            names = msgspec.json.decode(self.blobs.get(job.scope, job.documents), type=list[str])
            yield from (columns(Path(job.input), name) for name in names)
        else:
            yield from rows_of(table_of(job.input), self.objects)

    def _denied(self, job: BatchJob) -> dict[str, Any]:
        """Counts the rows that policy denied and lists the first of them with their reasons."""
        if not job.rows_failed:
            return {}
        code = f"{ForbiddenError.code}: "
        denied = [
            {"line": row.line, "reason": str(row.payload["answer_error"]).removeprefix(code)}
            for row in self.jobs.rows(job.scope, job.id)
            if row.failed and str(row.payload.get("answer_error")).startswith(code)
        ]
        return {"denied": len(denied), "denied_rows": denied[:_DENIED_LISTED]} if denied else {}


def _result(run: RunContext, job: BatchJob, denied: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return run_result(run, job, job.error, {"job": job.id, "status": job.status}, denied or {})
