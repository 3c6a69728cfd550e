"""One table job: rows in, answers out, exactly one row each, whatever dies on the way.

Invariant: a row is keyed (job, line), the first one written stays, and only the holder of the job's present
epoch writes. So a job that is taken over half-way continues with the lines that have no row, and the output file
is made from rows alone: temp, fsync, rename.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from antiphon.batch import tables
from antiphon.batch.ports import AnswerRow, Blobs, Jobs, LiveReleases, PrincipalOf, Run
from antiphon.catalog.jobs import ENDED, BatchJob, JobRow
from antiphon.core.errors import AntiphonError, Conflict, EngineFailed, InvalidInput, Overloaded, Unavailable
from antiphon.core.scope import Scope
from antiphon.governance.identity import Principal
from antiphon.serving.request import Answer, AnswerRequest

_CHUNK = 16
"""Rows answered between two commits of rows: what a crash can cost."""

_PATIENCE = 120.0
"""Seconds a row waits for an engine that is away before the run fails and is retried by its worker."""


class TableJobs:
    """Runs table jobs; :meth:`run` is the durable workflow.

    Args:
        concurrency: rows that are answered at once.
    """

    def __init__(
        self,
        jobs: Jobs,
        releases: LiveReleases,
        blobs: Blobs,
        answer: AnswerRow,
        principal_of: PrincipalOf,
        concurrency: int,
    ) -> None:
        self._jobs = jobs
        self._releases = releases
        self._blobs = blobs
        self._answer = answer
        self._principal_of = principal_of
        self._concurrency = concurrency

    async def run(self, run: Run, arguments: dict[str, Any]) -> dict[str, Any]:
        """Take the job over, answer the lines that have no row, finish the file."""
        scope, job_id = run.scope, str(arguments["job"])
        job = self._jobs.get(scope, job_id)
        if job.status in ENDED:
            return {"job": job_id, "status": job.status}
        epoch = self._jobs.take_over(scope, job_id)
        done = self._jobs.done_lines(scope, job_id)
        finished = len(done)
        run.progress(finished, job.total, "answering")
        pending: list[JobRow] = []
        async with aclosing(self._answered(scope, job, done)) as answered:
            async for row in answered:
                pending.append(row)
                if len(pending) >= _CHUNK:
                    self._jobs.write_rows(scope, job_id, epoch, pending)
                    finished += len(pending)
                    pending = []
                    run.progress(finished, job.total, "answering")
        self._jobs.write_rows(scope, job_id, epoch, pending)
        self._jobs.set_status(scope, job_id, "finalizing", epoch=epoch)
        written = self._write_output(scope, job)
        ended = self._jobs.set_status(scope, job_id, "completed", epoch=epoch)
        return {"job": job_id, "status": ended.status, "rows": written, "failed": ended.rows_failed}

    async def _answered(self, scope: Scope, job: BatchJob, done: set[int]) -> AsyncGenerator[JobRow, None]:
        """Rows as they come, at most ``concurrency`` under way."""
        principal = self._principal_of(scope, job.principal)
        keys = self._releases.get(scope, job.release or "").bundle.application.entity_keys
        lines = ((line, row) for line, row in enumerate(self._input(scope, job)) if line not in done)
        under_way: set[asyncio.Task[JobRow]] = set()
        try:
            for line, row in lines:
                under_way.add(asyncio.create_task(self._row(_request(principal, keys, job, row), line, row)))
                if len(under_way) >= self._concurrency:
                    ready, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                    for task in ready:
                        yield task.result()
            while under_way:
                ready, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for task in ready:
                    yield task.result()
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    def _input(self, scope: Scope, job: BatchJob) -> Iterator[tables.Row]:
        if job.input.startswith("blob:"):
            rows = msgspec.json.decode(self._blobs.get(scope, job.input.removeprefix("blob:")), type=list[tables.Row])
            return iter(rows)
        return tables.read(Path(job.input))

    async def _row(self, request: AnswerRequest | AntiphonError, line: int, row: tables.Row) -> JobRow:
        """Answer one row. Bad input becomes a failed row; an engine that is away is waited for."""
        if isinstance(request, AntiphonError):
            return _failed(line, row, request)
        waited, pause = 0.0, 0.25
        while True:
            try:
                return _row_out(line, row, await self._answer(request))
            except (Unavailable, EngineFailed, Overloaded):
                if waited >= _PATIENCE:
                    raise
                await asyncio.sleep(pause)
                waited, pause = waited + pause, min(pause * 2, 5.0)
            except Conflict:
                raise
            except AntiphonError as error:
                return _failed(line, row, error)

    def _write_output(self, scope: Scope, job: BatchJob) -> int:
        if not job.output:
            return sum(1 for _ in self._jobs.rows(scope, job.id))
        return tables.write(Path(job.output), (row.payload for row in self._jobs.rows(scope, job.id)))


def _request(
    principal: Principal, keys: tuple[str, ...], job: BatchJob, row: tables.Row
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
        entity={key: str(row[key]) for key in keys if row.get(key) is not None},
        question=str(question) if question else None,
        as_of=as_of,
        path="batch",
        release=job.release,
        refresh=job.kind == "precompute",
    )


def _row_out(line: int, row: tables.Row, answer: Answer) -> JobRow:
    return JobRow(
        line=line,
        payload={
            **row,
            "prediction": answer.prediction,
            "text": answer.text,
            "origin": answer.receipt.cache.origin,
            "release": answer.receipt.release,
            "publication": answer.publication,
            "classes": answer.receipt.classes,
            "completion_tokens": answer.usage.completion_tokens,
            "error": None,
        },
    )


def _failed(line: int, row: tables.Row, error: AntiphonError) -> JobRow:
    return JobRow(line=line, payload={**row, "text": None, "error": f"{error.code}: {error}"}, failed=True)
