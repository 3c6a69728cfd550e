"""Table jobs: rows in, answers out, exactly one output row each, across crashes.

The rows are answered by the one row runner of batch work (``row_runner``, which states the invariants); a job that is
resumed continues with the lines that have no row, and the output file is made from rows alone: temp, fsync, rename.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import islice
from math import inf
from pathlib import Path
from typing import Any

import msgspec

from antiphon.batch import tables
from antiphon.batch.gauge import TRANSIENT_ERRORS
from antiphon.batch.row_runner import BatchContext, RowFaults, RowRunner, run_result
from antiphon.batch.table_files import OutputFiles
from antiphon.batch.table_row import AnswerFunction, RowDecisions, TableRow, grouped_by_entity, permitted, request_of
from antiphon.catalog.blobs import Blobs
from antiphon.catalog.jobs import ENDED, BatchJob, Jobs
from antiphon.catalog.releases import Release, Releases
from antiphon.core.errors import AntiphonError, ConflictError, ForbiddenError, InvalidInputError
from antiphon.core.logs import unexpected
from antiphon.durable.context import RunContext
from antiphon.governance.identity.principal import Principal
from antiphon.serving.request import AnswerRequest

_log = logging.getLogger(__name__)

_CHUNK = 512
"""Rows that policy decides about together, and within which rows about one entity are brought together."""

_DENIED_LISTED = 100
"""Denied rows that a job's result names; every one of them stands in its own row."""


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
    """

    jobs: Jobs
    releases: Releases
    blobs: Blobs
    answer: AnswerFunction
    concurrency: int
    context: BatchContext
    decide: RowDecisions | None = None
    sources: Callable[[], Mapping[str, Sequence[str]]] = dict

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
            epoch = await asyncio.to_thread(self.jobs.take_over, scope, job_id)
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
        with closing(self._chunks(job, faults, done)) as chunks:

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
            await asyncio.to_thread(OutputFiles(self.jobs, self.sources).write, job, epoch, rows)
        ended = await asyncio.to_thread(partial(self.jobs.set_status, scope, job.id, "completed", epoch=epoch))
        return _result(run, ended, await asyncio.to_thread(self._denied, ended))

    def _chunks(self, job: BatchJob, faults: RowFaults, done: set[int]) -> Generator[list[TableRow], None, None]:
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
                        TableRow(line, row, request, self.answer)
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
        else:
            yield from tables.read(Path(job.input))

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
