"""Batches of OpenAI's API: a file of requests in, a file of answers and one of errors out, across crashes.

The requests are answered by the one row runner of batch work (``row_runner``, which states the invariants of rows).

Invariant: counts and both files come from the rows alone. The ending of a batch and the ids of its files are settled
before they are made; the files are in place before the one commit that names them and ends the batch.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Protocol, TypeVar

import msgspec

from antiphon.batch import lines
from antiphon.batch.estimates import ACCEPT_LATE, too_late
from antiphon.batch.files import FileStore
from antiphon.batch.gauge import TRANSIENT_ERRORS
from antiphon.batch.lines import BatchRequest, RequestFileLimits
from antiphon.batch.row_plan import RowSketch, distinct_bytes, sharing_order
from antiphon.batch.row_runner import BatchContext, RowAnswer, RowFaults, RowRunner, run_result
from antiphon.catalog.batch.batch_work import Sizes
from antiphon.catalog.batch.batches import KIND, Batch, Batches, Ending, LineError
from antiphon.catalog.batch.jobs import JobRow, Jobs
from antiphon.catalog.database import Database
from antiphon.core.errors import AntiphonError, ConflictError, CorruptionError
from antiphon.core.ids import content_hash
from antiphon.core.logs import unexpected
from antiphon.core.scope import Scope
from antiphon.durable.context import RunContext
from antiphon.features.lake.content import LakeDraft
from antiphon.governance.audit.log import AuditLog
from antiphon.governance.identity.principal import Principal
from antiphon.serving import several
from antiphon.serving.builtin import BUILTIN
from antiphon.serving.embedding import Embedding, EmbeddingRequest
from antiphon.serving.request import Answer, AnswerRequest, Tier

T = TypeVar("T")
_log = logging.getLogger(__name__)

EXPIRED = LineError("batch_expired", "This request could not be executed before the completion window expired.")
SLICE_SECONDS = 60.0
"""After so long a batch goes behind others that wait for a worker."""

_CHUNK, _EXPIRED_AT_ONCE = 32, 500


LineAnswer = Callable[[AnswerRequest | EmbeddingRequest], Awaitable[Answer | Embedding]]
"""serving's ``answer()``, and its vectors."""


class LineRequests(msgspec.Struct, frozen=True):
    """The requests of one line, one for each choice, and the function that writes their answers as its endpoint."""

    requests: Sequence[AnswerRequest | EmbeddingRequest]
    body: Callable[[Sequence[Any]], Any]


class RequestEndpoints(Protocol):
    """Endpoints that a batch may be for; an upward call to ``gateway.openai``, which reads and writes their bodies."""

    def read(self, endpoint: str, body: bytes, scope: Scope, principal: Principal, request: str) -> LineRequests:
        """Reads a body; raises ``InvalidInputError`` and ``ForbiddenError`` as the endpoint does."""
        ...

    def refused(self, error: Exception) -> Any:
        """The body with which the endpoint reports an error."""
        ...


class RequestRow:
    """One request of a batch."""

    def __init__(
        self, batch: Batch, request: BatchRequest, principal: Principal, endpoints: RequestEndpoints, answer: LineAnswer
    ) -> None:
        self._batch = batch
        self._request = request
        self._principal = principal
        self._endpoints = endpoints
        self._answer = answer
        # The same when the line is asked again after a crash, so that no tool acts for it twice; it names the batch
        # that the answer is charged to, as the rows of table jobs do.
        self._id = f"{batch.id}_{request.line}"
        self.label = f"line {request.line + 1}"
        self.sketch: RowSketch | None = request.sketch
        self.prefix = request.sketch.prefixes[0].digest if request.sketch.prefixes else 0
        self.refusal: AntiphonError | None = None

    async def answer(self, tier: Tier) -> RowAnswer:
        """Answers the request in this tier; the tier of the line itself is ignored, and vectors have none."""
        batch = self._batch
        line = self._endpoints.read(batch.endpoint, self._request.body, batch.scope, self._principal, self._id)
        requests = [
            msgspec.structs.replace(one, tier=tier) if isinstance(one, AnswerRequest) else one for one in line.requests
        ]
        answers = await several.answers(self._answer, requests)
        # Implicit releases are as many as there are ways to ask a plain model, and read nothing.
        releases = {one.receipt.release for one in answers}
        return RowAnswer(
            row_of(batch, self._request, self._response(200, line.body(answers)), None),
            [answer.usage for answer in answers],
            frozenset(name for name in releases if not name.startswith(BUILTIN)),
        )

    def failed(self, error: AntiphonError) -> JobRow:
        """The line of the error file."""
        response = self._response(error.http_status, self._endpoints.refused(error))
        return row_of(self._batch, self._request, response, None, failed=True)

    def _response(self, status: int, body: Any) -> dict[str, Any]:
        return {"status_code": status, "request_id": self._id, "body": body}


def row_of(batch: Batch, request: BatchRequest, response: Any, error: Any, *, failed: bool = False) -> JobRow:
    """The line of the output or error file that a request becomes."""
    name = f"batch_req_{content_hash([batch.id, request.line])[:26]}"
    payload = {"id": name, "custom_id": request.custom_id, "response": response, "error": error}
    return JobRow(line=request.line, payload=payload, failed=failed)


@dataclass(frozen=True)
class BatchJobs:
    """Runs batches; :meth:`run` is the durable workflow.

    Attributes:
        models: names of models at an endpoint in a scope.
        limits: of an input file.
        waiting: tells whether another batch waits for a worker; one that has had its time then goes behind it.
    """

    batches: Batches
    jobs: Jobs
    files: FileStore
    database: Database
    endpoints: RequestEndpoints
    answer: LineAnswer
    models: Callable[[Scope, str], Sequence[str]]
    context: BatchContext
    audit: AuditLog
    limits: RequestFileLimits
    waiting: Callable[[], bool] = lambda: False
    # Whole files go through threads that heartbeats need too: two at a time, so that no lease ends meanwhile.
    _whole_files: asyncio.Semaphore = field(init=False, default_factory=lambda: asyncio.Semaphore(2))

    async def run(self, run: RunContext, arguments: dict[str, Any]) -> dict[str, Any]:
        """Takes the batch over, checks its file, answers the lines that have no row, makes its files.

        Raises:
            UnavailableError, EngineError, OverloadedError: a part that the requests need stayed away.
            ConflictError: another worker took the batch over.
        """
        scope, name = run.scope, str(arguments["batch"])
        batch = await asyncio.to_thread(self.batches.get, scope, name)
        if batch.ended:
            return _summary(run, batch)
        epoch = 0
        try:
            epoch = await run.fenced(partial(self.batches.take_over, scope, name))
            return _summary(run, await self._work(run, batch, epoch))
        except ConflictError:
            # Ended meanwhile, or lost to another worker: only the first is an end.
            batch = await asyncio.to_thread(self.batches.get, scope, name)
            if not batch.ended:
                raise
            return _summary(run, batch)
        except TRANSIENT_ERRORS:
            raise
        except Exception as error:
            log = partial(unexpected, error, _log, f"batch {name}", "worker.log")
            shown = error if isinstance(error, AntiphonError) else log()
            errors = [LineError(shown.code, str(shown))]
            return _summary(run, await asyncio.to_thread(self.batches.fail, scope, name, epoch, errors))

    async def _work(self, run: RunContext, batch: Batch, epoch: int) -> Batch:
        scope = batch.scope
        if batch.status == "validating":
            run.progress(0, None, "validating")
            checked = await self._apart(partial(self._check, batch))
            errors = checked.errors or await self._apart(partial(self._declare, batch, checked.model))
            if errors:
                return await asyncio.to_thread(self.batches.fail, scope, batch.id, epoch, errors)
            begin = partial(self.batches.begin, model=checked.model, total=checked.requests)
            batch = await asyncio.to_thread(begin, scope, batch.id, epoch)
        ending: Ending = batch.ending or "cancelled"
        if batch.ending is None and batch.job.total is not None:
            ending = await self._answer(run, batch, epoch)
        batch = await asyncio.to_thread(self.batches.settle, scope, batch.id, epoch, ending)
        run.progress(batch.job.rows_done, batch.job.total, "finalizing")
        return await self._apart(partial(self._finish, batch, epoch))

    async def _apart(self, work: Callable[[], T]) -> T:
        async with self._whole_files:
            return await asyncio.to_thread(work)

    def _check(self, batch: Batch) -> lines.FileCheck:
        file = self.files.records.held(batch.scope, batch.input_file)
        with self.files.open(file) as stream:
            return lines.check(
                stream, batch.endpoint, self.models(batch.scope, batch.endpoint), self.limits, file.sha256
            )

    def _declare(self, batch: Batch, model: str) -> tuple[LineError, ...]:
        """Declares the work of a batch, unless it cannot be done by its deadline and being late was not accepted."""
        with self._open(batch) as stream:
            rows = list(lines.sketches(stream, self.limits.line_bytes, ()))
        sizes = Sizes(
            len(rows),
            sum(row.prompt_bytes for row in rows),
            distinct_bytes(rows),
            sum(row.output_limit for row in rows),
        )
        alike = f"{KIND}/{model}"
        estimate = self.context.estimates.of_new(batch.scope.tenant, alike, sizes, batch.expires_at)
        if estimate is not None and estimate.late == "certain" and not batch.job.settings.get("accept_late"):
            message = f"{too_late(estimate)} {ACCEPT_LATE}"
            return (LineError("completion_window_too_short", message, None, "completion_window"),)
        self.context.estimates.measurements.declare(batch.scope, batch.id, alike, sizes, batch.expires_at)
        return ()

    async def _answer(self, run: RunContext, batch: Batch, epoch: int) -> Ending:
        """Answers the requests without a row and returns how the batch ends."""
        done = await asyncio.to_thread(self.jobs.done_lines, batch.scope, batch.id)
        faults, principal = RowFaults(batch.id), msgspec.convert(batch.job.settings["principal"], Principal)
        runner = RowRunner(
            run,
            self.jobs,
            self.context,
            batch.job,
            epoch,
            len(done),
            faults,
            deadline=batch.expires_at.timestamp(),
            ending=partial(self._ending, batch, asyncio.get_running_loop().time()),
        )
        stream = await self._apart(partial(self._open, batch))
        with closing(stream):
            unordered = lines.sketches(stream, self.limits.line_bytes, done)
            sketches = await self._apart(lambda: sharing_order(list(unordered)))
            requests = lines.requests_of(stream, self.limits.line_bytes, sketches)
            rows = (RequestRow(batch, one, principal, self.endpoints, self.answer) for one in requests)
            ending = await runner.run(partial(asyncio.to_thread, lambda: list(islice(rows, _CHUNK))))
        if ending == "expired":
            await self._apart(partial(self._expire, batch, epoch))
        return ending

    async def _ending(self, batch: Batch, began: float) -> Ending | None:
        """Tells whether a batch ends early; raises ``CancelledError`` when it has had its time and others wait."""
        if await asyncio.to_thread(self.batches.status, batch.scope, batch.id) == "cancelling":
            return "cancelled"
        if self.context.clock.now() >= batch.expires_at:
            return "expired"
        if asyncio.get_running_loop().time() - began > SLICE_SECONDS and await asyncio.to_thread(self.waiting):
            raise asyncio.CancelledError
        return None

    def _open(self, batch: Batch) -> Any:
        return self.files.open(self.files.records.held(batch.scope, batch.input_file))

    def _expire(self, batch: Batch, epoch: int) -> None:
        """Gives every request without a row the error that OpenAI gives it."""
        done = self.jobs.done_lines(batch.scope, batch.id)
        with self._open(batch) as stream:
            unordered = list(lines.sketches(stream, self.limits.line_bytes, done))
            left = lines.requests_of(stream, self.limits.line_bytes, unordered)
            while chunk := list(islice(left, _EXPIRED_AT_ONCE)):
                rows = [
                    row_of(batch, one, None, {"code": EXPIRED.code, "message": EXPIRED.message}, failed=True)
                    for one in chunk
                ]
                self.jobs.write_rows(batch.scope, batch.id, epoch, rows)

    def _finish(self, batch: Batch, epoch: int) -> Batch:
        """Makes the files that were settled and ends the batch with them."""
        scope = batch.scope
        if batch.ending != "cancelled" and batch.job.rows_done != batch.job.total:
            raise CorruptionError(
                f"The batch {batch.id} has {batch.job.rows_done} rows for {batch.job.total} requests.",
                where=batch.id,
                next_step="Create a new batch from the same file.",
            )
        made: list[tuple[str, str, LakeDraft]] = []
        for file, failed, kind in ((batch.output_file, False, "output"), (batch.error_file, True, "error")):
            if file is not None:
                with self.files.writing(scope, file) as draft:
                    for row in self.jobs.rows(scope, batch.id):
                        if row.failed is failed:
                            draft.write(msgspec.json.encode(row.payload) + b"\n")
                made.append((file, f"{batch.id}_{kind}.jsonl", draft))
        with self.database.transaction() as connection:
            for file, name, draft in made:
                self.files.add_made(batch, file, name, draft, within=connection)
            ended = self.batches.finish(scope, batch.id, epoch, within=connection)
            detail = {"status": ended.status, "rows": ended.job.rows_done}
            self.audit.append(scope, batch.job.principal, "batch.end", batch.id, detail, within=connection)
        return ended


def _summary(run: RunContext, batch: Batch) -> dict[str, Any]:
    error = batch.errors[0].message if batch.errors else None
    return run_result(run, batch.job, error, {"batch": batch.id, "status": batch.status})
