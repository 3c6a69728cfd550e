"""One table job: rows in, answers out, exactly one row each, whatever dies on the way.

Invariant: a row is keyed (job, line), the first one written stays, and only the holder of the job's present
epoch writes. So a job that is taken over half-way continues with the lines that have no row, and the output file
is made from rows alone: temp, fsync, rename.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import aclosing, closing
from datetime import datetime
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
from antiphon.batch.ports import AnswerRow, Blobs, DecideRows, Jobs, LiveReleases, Run
from antiphon.batch.row_faults import RowFaults
from antiphon.batch.run_result import run_result
from antiphon.batch.shared import Shared
from antiphon.batch.table_rows import answered_row, failed_row, if_allowed, in_order_of_entities, request_of, sketch_of
from antiphon.catalog.jobs import ENDED, BatchJob, JobRow
from antiphon.catalog.releases import Release
from antiphon.core.errors import AntiphonError, ConflictError, ForbiddenError, InvalidInputError
from antiphon.core.logs import unexpected
from antiphon.core.scope import Scope
from antiphon.governance.identity.principal import Principal
from antiphon.serving.request import AnswerRequest

_log = logging.getLogger(__name__)

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
        sources: patterns of files that the project reads, by what reads them; no job writes over these.
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
        sources: Callable[[], Mapping[str, Sequence[str]]] = dict,
    ) -> None:
        self._jobs = jobs
        self._releases = releases
        self._blobs = blobs
        self._answer = answer
        self._concurrency = concurrency
        self._shared = shared
        self._decide = decide
        self._outputs = Outputs(jobs, sources)

    async def run(self, run: Run, arguments: dict[str, Any]) -> dict[str, Any]:
        """Take the job over, answer the lines that have no row, finish the file.

        A job that cannot be finished, whoever tries, ends as failed with its reason; what may pass (an engine or a
        catalog that is away) is raised, so that the run is tried again.

        Raises:
            UnavailableError, EngineError, OverloadedError: a part the rows need stayed away.
            ConflictError: another worker took the job over.
        """
        scope, job_id = run.scope, str(arguments["job"])
        job = await asyncio.to_thread(self._jobs.get, scope, job_id)
        if job.status in ENDED:
            return _ended(run, job)
        epoch: int | None = None
        try:
            epoch = await asyncio.to_thread(self._jobs.take_over, scope, job_id)
            return await self._finish(run, job, epoch)
        except ConflictError:
            # Cancelled meanwhile, or lost to another worker: only the first is an end.
            job = await asyncio.to_thread(self._jobs.get, scope, job_id)
            if job.status not in ENDED:
                raise
            return _ended(run, job)
        except PASSING:
            raise
        except Exception as error:
            told = error if isinstance(error, AntiphonError) else unexpected(error, _log, f"job {job_id}", "worker.log")
            why = str(told)
            failed = partial(self._jobs.set_status, scope, job_id, "failed", epoch=epoch, error=why)
            return _ended(run, await asyncio.to_thread(failed))

    async def _finish(self, run: Run, job: BatchJob, epoch: int) -> dict[str, Any]:
        scope = job.scope
        done = await asyncio.to_thread(self._jobs.done_lines, scope, job.id)
        pending: list[JobRow] = []
        finished, failed = len(done), job.rows_failed
        most_failed = job.settings.get("max_failed_rows")

        async def write() -> None:
            nonlocal pending, finished, failed
            rows, pending = pending, []
            await asyncio.to_thread(self._jobs.write_rows, scope, job.id, epoch, rows)
            finished += len(rows)
            failed += sum(row.failed for row in rows)
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
                    if most_failed is not None and failed > most_failed:
                        raise _too_many_failed(job, failed, most_failed, finished)
        except (*PASSING, asyncio.CancelledError):
            await write()  # what was answered until then need not be answered again
            raise
        await write()
        if job.total is not None and finished != job.total:
            raise InvalidInputError(
                f"The input {job.input} has {finished} rows now and had {job.total} when the job was ordered.",
                where=job.input,
                next_step="Order a new job; do not change a job's input while it runs.",
            )
        await asyncio.to_thread(partial(self._jobs.set_status, scope, job.id, "finalizing", epoch=epoch))
        await asyncio.to_thread(self._write_output, scope, job, epoch)
        ended = await asyncio.to_thread(partial(self._jobs.set_status, scope, job.id, "completed", epoch=epoch))
        return _ended(run, ended, await asyncio.to_thread(self._denied, scope, ended))

    async def _answered(
        self, scope: Scope, job: BatchJob, done: set[int], meter: JobMeter
    ) -> AsyncGenerator[JobRow, None]:
        """Rows as they come, at most ``concurrency`` under way, each of which has a turn."""
        principal = msgspec.convert(job.settings["principal"], Principal)
        release, faults = self._releases.get(scope, job.release or ""), RowFaults(job.id)
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
            with closing(self._decided(scope, principal, release, job, faults, done)) as rows:
                for line, row, request in rows:
                    if isinstance(request, AntiphonError):
                        yield failed_row(line, row, request)
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
                    task = asyncio.create_task(self._row(faults, request, line, row, meter))
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
            prefix=sketch_of(0, request).prefixes[0].digest if request.entity else 0,
        )

    def _end_turn(self, claim: Claim, _: asyncio.Task[JobRow]) -> None:
        self._shared.turns.give_back(claim)

    def _decided(
        self, scope: Scope, principal: Principal, release: Release, job: BatchJob, faults: RowFaults, done: set[int]
    ) -> Generator[tuple[int, tables.Row, AnswerRequest | AntiphonError], None, None]:
        """Rows without an output, with what is asked for each, or why nothing is."""
        application = release.bundle.application
        with closing(self._input(scope, job)) as rows:
            waiting = ((line, row) for line, row in enumerate(rows) if line not in done)
            while chunk := list(islice(waiting, _DECIDED_AT_ONCE)):
                chunk, requests = in_order_of_entities(
                    chunk, [request_of(principal, application, job, faults, *one) for one in chunk]
                )
                requests = self._permitted(scope, principal, release, faults, requests)
                for (line, row), request in zip(chunk, requests, strict=True):
                    yield line, row, request

    def _permitted(
        self,
        scope: Scope,
        principal: Principal,
        release: Release,
        faults: RowFaults,
        requests: list[AnswerRequest | AntiphonError],
    ) -> list[AnswerRequest | AntiphonError]:
        asked = [request for request in requests if isinstance(request, AnswerRequest)]
        if self._decide is None or not asked:
            return requests
        try:
            said = iter(self._decide(scope, principal, release, [(one.entity, one.as_of) for one in asked]))
        except PASSING:
            raise
        except Exception as error:
            # Of many rows together nobody can say which one it was: ``answer()`` decides about each by itself.
            faults.told(error, f"policy about {len(asked)} rows")
            return requests
        return [
            if_allowed(request, next(said)) if isinstance(request, AnswerRequest) else request for request in requests
        ]

    def _input(self, scope: Scope, job: BatchJob) -> Generator[tables.Row, None, None]:
        if job.input.startswith("blob:"):
            content = self._blobs.get(scope, job.input.removeprefix("blob:"))
            yield from msgspec.json.decode(content, type=list[tables.Row])
        else:
            yield from tables.read(Path(job.input))

    async def _row(
        self, faults: RowFaults, request: AnswerRequest, line: int, row: tables.Row, meter: JobMeter
    ) -> JobRow:
        """Answer one row. Bad input, and a fault of ours, become a failed row; an engine that is away is waited for."""
        waited, pause = 0.0, 0.25
        while True:
            try:
                with meter.row():
                    answer = await self._answer(request)
                meter.took(None, answer.usage)
                return answered_row(line, row, answer)
            except PASSING:
                if waited >= _PATIENCE:
                    raise
                await asyncio.sleep(pause)
                waited, pause = waited + pause, min(pause * 2, 5.0)
            except AntiphonError as error:
                return failed_row(line, row, error)
            except Exception as error:
                return failed_row(line, row, faults.told(error, f"row {line}"))

    def _denied(self, scope: Scope, job: BatchJob) -> dict[str, Any]:
        """How many rows policy denied, and the first of them with the reason of each."""
        if not job.rows_failed:
            return {}
        said = f"{ForbiddenError.code}: "
        denied = [
            {"line": row.line, "reason": str(row.payload["answer_error"]).removeprefix(said)}
            for row in self._jobs.rows(scope, job.id)
            if row.failed and str(row.payload.get("answer_error")).startswith(said)
        ]
        return {"denied": len(denied), "denied_rows": denied[:_DENIED_LISTED]} if denied else {}

    def _write_output(self, scope: Scope, job: BatchJob, epoch: int) -> None:
        if job.output:
            self._outputs.write(job, epoch, (row.payload for row in self._jobs.rows(scope, job.id)))


def _ended(run: Run, job: BatchJob, denied: Mapping[str, Any] | None = None) -> dict[str, Any]:
    result = {"job": job.id, "status": job.status, "rows": job.rows_done, "failed": job.rows_failed, **(denied or {})}
    return run_result(run, job, job.error, result)


def _too_many_failed(job: BatchJob, failed: int, most: int, finished: int) -> InvalidInputError:
    return InvalidInputError(
        f"{failed} of the first {finished} rows failed, and at most {most} may.",
        where="max_failed_rows",
        next_step=f"GET /admin/batch/{job.id}/rows says why; mend the cause and order it again.",
    )
