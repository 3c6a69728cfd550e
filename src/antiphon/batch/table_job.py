"""One table job: rows in, answers out, exactly one row each, whatever dies on the way.

Invariant: a row is keyed (job, line), the first one written stays, and only the holder of the job's present
epoch writes. So a job that is taken over half-way continues with the lines that have no row, and the output file
is made from rows alone: temp, fsync, rename.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Sequence
from contextlib import aclosing, closing
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from math import inf
from pathlib import Path
from typing import Any

import msgspec

from antiphon.batch import tables
from antiphon.batch.gauge import PASSING, JobMeter
from antiphon.batch.job_order import Claim
from antiphon.batch.outputs import Outputs
from antiphon.batch.ports import AnswerRow, Blobs, Decided, DecideRows, Jobs, LiveReleases, Run
from antiphon.batch.row_order import Row, in_order
from antiphon.batch.shared import Shared
from antiphon.batch.sketches import sketch
from antiphon.catalog.jobs import ENDED, BatchJob, JobRow
from antiphon.catalog.releases import Release
from antiphon.core.errors import AntiphonError, Conflict, Forbidden, InvalidInput
from antiphon.core.logs import described
from antiphon.core.scope import Scope
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.on_demand import input_of_text
from antiphon.governance.principal import Principal
from antiphon.serving.on_demand import input_types
from antiphon.serving.request import Answer, AnswerRequest

_log = logging.getLogger(__name__)

ANSWER_COLUMNS = (
    "answer_prediction",
    "answer_text",
    "answer_origin",
    "answer_origin_prediction",
    "answer_release",
    "answer_publication",
    "answer_classes",
    "answer_guards",
    "answer_completion_tokens",
    "answer_error",
)
"""What a row gains; the prefix keeps them apart from the input's own columns, which all stay."""

_CHUNK = 16
"""Rows answered between two commits of rows: what a crash can cost."""

_DECIDED_AT_ONCE = 512
"""Rows that policy decides about together, and within which rows about one entity are brought together."""

_DENIED_LISTED = 100
"""Denied rows that a job's result names; every one of them stands in its own row."""

_PATIENCE = 120.0
"""Seconds a row waits for an engine that is away before the run fails and is retried by its worker."""


class TableJobs:
    """Runs table jobs; :meth:`run` is the durable workflow.

    Args:
        concurrency: rows of a job that are answered at once, as far as they have turns.
        shared: with other batch work of this process.
        decide: policy about many rows at once, so that rows that are denied cost no answer; ``None`` leaves it to
            ``answer()``, which decides about every row that is let through in any case.
        protected: patterns of files that the project reads, which no job writes over.
    """

    def __init__(
        self,
        jobs: Jobs,
        releases: LiveReleases,
        blobs: Blobs,
        answer: AnswerRow,
        concurrency: int,
        shared: Shared,
        decide: DecideRows | None = None,
        protected: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self._jobs = jobs
        self._releases = releases
        self._blobs = blobs
        self._answer = answer
        self._concurrency = concurrency
        self._shared = shared
        self._decide = decide
        self._outputs = Outputs(jobs, protected)

    async def run(self, run: Run, arguments: dict[str, Any]) -> dict[str, Any]:
        """Take the job over, answer the lines that have no row, finish the file.

        A job that cannot be finished, whoever tries, ends as failed with its reason; what may pass (an engine or a
        catalog that is away) is raised, so that the run is tried again.

        Raises:
            Unavailable, EngineFailed, Overloaded: a part the rows need stayed away.
            Conflict: another worker took the job over.
        """
        scope, job_id = run.scope, str(arguments["job"])
        job = await asyncio.to_thread(self._jobs.get, scope, job_id)
        if job.status in ENDED:
            return _ended(job)
        epoch: int | None = None
        try:
            epoch = await asyncio.to_thread(self._jobs.take_over, scope, job_id)
            return await self._finish(run, job, epoch)
        except Conflict:
            # Cancelled meanwhile, or lost to another worker: only the first is an end.
            job = await asyncio.to_thread(self._jobs.get, scope, job_id)
            if job.status not in ENDED:
                raise
            return _ended(job)
        except PASSING:
            raise
        except Exception as error:
            _log.exception("job %s fails", job_id)
            why = str(error) if isinstance(error, AntiphonError) else described(error)
            failed = partial(self._jobs.set_status, scope, job_id, "failed", epoch=epoch, error=why)
            return _ended(await asyncio.to_thread(failed))

    async def _finish(self, run: Run, job: BatchJob, epoch: int) -> dict[str, Any]:
        scope = job.scope
        done = await asyncio.to_thread(self._jobs.done_lines, scope, job.id)
        pending: list[JobRow] = []
        finished = len(done)

        async def write() -> None:
            nonlocal pending, finished
            rows, pending = pending, []
            await asyncio.to_thread(self._jobs.write_rows, scope, job.id, epoch, rows)
            finished += len(rows)
            await asyncio.to_thread(meter.keep)
            run.progress(finished, job.total, "answering")

        meter = self._shared.gauge.meter(scope, job.id, self._shared.estimates)
        run.progress(finished, job.total, "answering")
        try:
            async with aclosing(self._answered(scope, job, done, meter)) as answered:
                async for row in answered:
                    pending.append(row)
                    if len(pending) >= _CHUNK or run.stopping:
                        await write()
                    if run.stopping:
                        raise asyncio.CancelledError  # the run goes back to the queue with what it has
        except (*PASSING, asyncio.CancelledError):
            await write()  # what was answered until then need not be answered again
            raise
        await write()
        if job.total is not None and finished != job.total:
            raise InvalidInput(
                f"The input {job.input} has {finished} rows now and had {job.total} when the job was ordered.",
                where=job.input,
                next_step="Order a new job; do not change a job's input while it runs.",
            )
        await asyncio.to_thread(partial(self._jobs.set_status, scope, job.id, "finalizing", epoch=epoch))
        await asyncio.to_thread(self._write_output, scope, job, epoch)
        ended = await asyncio.to_thread(partial(self._jobs.set_status, scope, job.id, "completed", epoch=epoch))
        return {**_ended(ended), **(await asyncio.to_thread(self._denied, scope, ended))}

    async def _answered(
        self, scope: Scope, job: BatchJob, done: set[int], meter: JobMeter
    ) -> AsyncGenerator[JobRow, None]:
        """Rows as they come, at most ``concurrency`` under way, each of which has a turn."""
        principal = msgspec.convert(job.settings["principal"], Principal)
        release = self._releases.get(scope, job.release or "")
        under_way: set[asyncio.Task[JobRow]] = set()
        failure: BaseException | None = None
        turn: asyncio.Task[None] | None = None

        async def ready() -> list[JobRow]:
            """At least one finished row; a failure is raised once the rows finished beside it are handed on."""
            nonlocal under_way, failure
            ended, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            failures = [error for task in ended if (error := task.exception()) is not None]
            failure = failures[0] if failures else None
            return [task.result() for task in ended if task.exception() is None]

        try:
            with closing(self._decided(scope, principal, release, job, done)) as rows:
                for line, row, request in rows:
                    if isinstance(request, AntiphonError):
                        yield _failed(line, row, request)
                        continue
                    claim = self._claim(job, request, meter)
                    turn = asyncio.create_task(self._shared.turns.take(claim))
                    while not turn.done():
                        await asyncio.wait({turn, *under_way}, return_when=asyncio.FIRST_COMPLETED)
                        if any(task.done() for task in under_way):
                            for finished in await ready():
                                yield finished
                            if failure is not None:
                                raise failure
                    request = msgspec.structs.replace(request, tier=claim.tier(self._shared.clock.now().timestamp()))
                    task = asyncio.create_task(self._row(request, line, row, meter))
                    task.add_done_callback(partial(self._end_turn, claim))
                    under_way.add(task)
                    turn = None
                    while len(under_way) >= self._concurrency:
                        for finished in await ready():
                            yield finished
                        if failure is not None:
                            raise failure
            while under_way:
                for finished in await ready():
                    yield finished
                if failure is not None:
                    raise failure
        finally:
            if turn is not None and not turn.cancel() and not turn.cancelled():
                self._shared.turns.give_back(claim)
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, *([turn] if turn is not None else []), return_exceptions=True)

    def _claim(self, job: BatchJob, request: AnswerRequest, meter: JobMeter) -> Claim:
        deadline = job.settings.get("deadline")
        return Claim(
            job.scope.tenant,
            job.id,
            since=self._shared.clock.now().timestamp(),
            deadline=inf if deadline is None else datetime.fromisoformat(deadline).timestamp(),
            seconds_left=meter.seconds_left,
            prefix=_sketch(0, request).prefixes[0].digest if request.entity else 0,
        )

    def _end_turn(self, claim: Claim, _: asyncio.Task[JobRow]) -> None:
        self._shared.turns.give_back(claim)

    def _decided(
        self, scope: Scope, principal: Principal, release: Release, job: BatchJob, done: set[int]
    ) -> Generator[tuple[int, tables.Row, AnswerRequest | AntiphonError], None, None]:
        """Rows without an output, with what is asked for each, or why nothing is."""
        application = release.bundle.application
        with closing(self._input(scope, job)) as rows:
            waiting = ((line, row) for line, row in enumerate(rows) if line not in done)
            while chunk := list(islice(waiting, _DECIDED_AT_ONCE)):
                chunk, requests = _ordered(chunk, [_request(principal, application, job, row) for _, row in chunk])
                asked = [request for request in requests if isinstance(request, AnswerRequest)]
                if self._decide is not None and asked:
                    said = iter(self._decide(scope, principal, release, [(one.entity, one.as_of) for one in asked]))
                    requests = [
                        _allowed(request, next(said)) if isinstance(request, AnswerRequest) else request
                        for request in requests
                    ]
                for (line, row), request in zip(chunk, requests, strict=True):
                    yield line, row, request

    def _input(self, scope: Scope, job: BatchJob) -> Generator[tables.Row, None, None]:
        if job.input.startswith("blob:"):
            content = self._blobs.get(scope, job.input.removeprefix("blob:"))
            yield from msgspec.json.decode(content, type=list[tables.Row])
        else:
            yield from tables.read(Path(job.input))

    async def _row(self, request: AnswerRequest, line: int, row: tables.Row, meter: JobMeter) -> JobRow:
        """Answer one row. Bad input becomes a failed row; an engine that is away is waited for."""
        waited, pause = 0.0, 0.25
        while True:
            try:
                with meter.row():
                    answer = await self._answer(request)
                meter.took(None, answer.usage)
                return _row_out(line, row, answer)
            except PASSING:
                if waited >= _PATIENCE:
                    raise
                await asyncio.sleep(pause)
                waited, pause = waited + pause, min(pause * 2, 5.0)
            except Conflict:
                raise
            except AntiphonError as error:
                return _failed(line, row, error)

    def _denied(self, scope: Scope, job: BatchJob) -> dict[str, Any]:
        """How many rows policy denied, and the first of them with the reason of each."""
        if not job.rows_failed:
            return {}
        said = f"{Forbidden.code}: "
        denied = [
            {"line": row.line, "reason": str(row.payload["answer_error"]).removeprefix(said)}
            for row in self._jobs.rows(scope, job.id)
            if row.failed and str(row.payload.get("answer_error")).startswith(said)
        ]
        return {"denied": len(denied), "denied_rows": denied[:_DENIED_LISTED]} if denied else {}

    def _write_output(self, scope: Scope, job: BatchJob, epoch: int) -> None:
        if job.output:
            self._outputs.write(job, epoch, (row.payload for row in self._jobs.rows(scope, job.id)))


def _ordered(
    chunk: Sequence[tuple[int, tables.Row]], requests: Sequence[AnswerRequest | AntiphonError]
) -> tuple[list[tuple[int, tables.Row]], list[AnswerRequest | AntiphonError]]:
    """Rows about one entity one after another; those that nothing is asked for come first."""
    found = {line: (row, request) for (line, row), request in zip(chunk, requests, strict=True)}
    asked = [_sketch(line, one) for line, (_, one) in found.items() if isinstance(one, AnswerRequest)]
    refused = [line for line, (_, one) in found.items() if not isinstance(one, AnswerRequest)]
    lines = [*refused, *(each.line for each in in_order(asked))]
    return [(line, found[line][0]) for line in lines], [found[line][1] for line in lines]


def _sketch(line: int, request: AnswerRequest) -> Row:
    return sketch(line, 0, [*request.entity.values(), request.question or ""], None)


def _allowed(request: AnswerRequest, said: Decided) -> AnswerRequest | AntiphonError:
    if said.allowed:
        return request
    return Forbidden(
        f"Policy does not let {request.principal.id} ask {request.application} about this row: {said.reason}.",
        where="policy",
        next_step="`antiphon policy explain` says what would have to hold.",
    )


def _ended(job: BatchJob) -> dict[str, Any]:
    return {"job": job.id, "status": job.status, "rows": job.rows_done, "failed": job.rows_failed}


def _request(
    principal: Principal, application: ApplicationSpec, job: BatchJob, row: tables.Row
) -> AnswerRequest | AntiphonError:
    moment = row.get("as_of") or job.settings.get("as_of")
    question = row.get("question")
    try:
        as_of = moment if isinstance(moment, datetime) or moment is None else datetime.fromisoformat(str(moment))
    except ValueError:
        return InvalidInput(f"{moment!r} is no instant.", where="as_of", next_step="Write it in ISO 8601.")
    if as_of is not None and as_of.tzinfo is None:
        as_of = as_of.replace(tzinfo=UTC)
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


def _row_out(line: int, row: tables.Row, answer: Answer) -> JobRow:
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


def _failed(line: int, row: tables.Row, error: AntiphonError) -> JobRow:
    return JobRow(
        line=line,
        payload={**row, **dict.fromkeys(ANSWER_COLUMNS), "answer_error": f"{error.code}: {error}"},
        failed=True,
    )
