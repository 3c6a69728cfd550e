"""The requests of one batch under way: each takes its turn, is answered, and becomes a row.

Invariant: a row is written within :data:`FLUSH_SECONDS` of its answer while others come, and before the work is left,
however it is left; what is under way then is answered again by whoever goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from antiphon.batch.gauge import PASSING
from antiphon.batch.job_order import Claim
from antiphon.batch.lines import Request
from antiphon.batch.row_faults import RowFaults
from antiphon.catalog.batches import Batch, Ending
from antiphon.catalog.jobs import JobRow
from antiphon.core.errors import AntiphonError
from antiphon.core.ids import content_hash, new_id
from antiphon.governance.identity.principal import Principal
from antiphon.serving import several
from antiphon.serving.builtin import BUILTIN
from antiphon.serving.embedding import EmbeddingRequest
from antiphon.serving.request import AnswerRequest

if TYPE_CHECKING:
    from antiphon.batch.batch_job import BatchParts
    from antiphon.batch.ports import Run

Asked = AnswerRequest | EmbeddingRequest

FLUSH_ROWS, FLUSH_SECONDS = 16, 0.5
"""A commit of rows comes after so many, or so long: what a crash can cost."""

LOOK_SECONDS = 0.5
"""How often it is looked whether the batch is being cancelled or has expired."""

GRACE_SECONDS = 60.0
"""How long requests under way may still take once the batch has expired."""

CANCEL_GRACE_SECONDS = 0.5
"""The same once it is being cancelled: an answer that is nearly there is kept, and no other is waited for."""

SLICE_SECONDS = 60.0
"""After so long a batch goes behind others that wait for a worker."""

PATIENCE_SECONDS = 120.0
"""How long a request waits for an engine that is away before the run fails and is tried again."""

MEASURE_SECONDS = 5.0
"""How often it is kept what requests took, and asked how much work is left."""

_PULSE = 0.1


class RequestWork:
    """Works through the requests of one batch.

    Args:
        finished: rows that are there already.
    """

    def __init__(self, run: Run, batch: Batch, epoch: int, finished: int, parts: BatchParts) -> None:
        self._run = run
        self._batch = batch
        self._epoch = epoch
        self._finished = finished
        self._parts = parts
        self._principal = msgspec.convert(batch.job.settings["principal"], Principal)
        self._faults = RowFaults(batch.id)
        self._under_way: set[asyncio.Task[JobRow]] = set()
        self._pending: list[JobRow] = []
        self._releases: set[str] = set(batch.job.releases)
        self._new_releases: set[str] = set()
        self._ending: Ending | None = "cancelled" if batch.status == "cancelling" else None
        self._began = self._now()
        self._flushed = self._looked = self._measured = self._began
        self._stopped = self._began
        self._meter = parts.shared.gauge.meter(batch.scope, batch.id, parts.shared.estimates)

    async def through(self, chunk: Callable[[], Awaitable[list[Request]]]) -> Ending:
        """Answer every request that ``chunk`` gives, until it gives none or the batch ends otherwise.

        Raises:
            As :meth:`~antiphon.batch.batch_job.BatchJobs.run`; what was answered until then is written.
        """
        self._run.progress(self._finished, self._batch.job.total, "answering")
        try:
            await self._look()
            await self._measure()
            while self._ending is None and (requests := await chunk()):
                for request in requests:
                    if self._ending is None:
                        await self._submit(request)
            while self._under_way and not self._out_of_time():
                await asyncio.wait(self._under_way, timeout=_PULSE, return_when=asyncio.FIRST_COMPLETED)
                await self._pulse()
        except (*PASSING, asyncio.CancelledError):
            await self._write()  # what was answered until then need not be answered again
            raise
        finally:
            for task in self._under_way:
                task.cancel()
            await asyncio.gather(*self._under_way, return_exceptions=True)
        await self._write()
        await self._measure()
        return self._ending or "completed"

    async def _submit(self, request: Request) -> None:
        turns, claim = self._parts.shared.turns, self._claim(request)
        turn = asyncio.ensure_future(turns.take(claim))
        handed = False
        try:
            # Turns may all be taken by requests that end late: a batch that ends waits for none.
            while not turn.done() and self._ending is None:
                await asyncio.wait({turn, *self._under_way}, timeout=_PULSE, return_when=asyncio.FIRST_COMPLETED)
                await self._pulse()
            if self._ending is None:
                task = asyncio.create_task(self._one(request, claim))
                task.add_done_callback(lambda _: turns.give_back(claim))
                self._under_way.add(task)
                handed = True
        finally:
            if not turn.done():
                turn.cancel()
                await asyncio.gather(turn, return_exceptions=True)
            elif not handed and not turn.cancelled():
                turns.give_back(claim)

    def _claim(self, request: Request) -> Claim:
        batch, row = self._batch, request.row
        return Claim(
            batch.scope.tenant,
            batch.id,
            since=self._parts.shared.clock.now().timestamp(),
            deadline=batch.expires_at.timestamp(),
            seconds_left=self._meter.seconds_left,
            prefix=row.prefixes[0].digest if row is not None and row.prefixes else 0,
        )

    def _of_tier(self, requests: Sequence[Asked], claim: Claim) -> list[Asked]:
        """The requests in the tier that the deadline gives them; a line's own says nothing. Vectors have none."""
        tier = claim.tier(self._parts.shared.clock.now().timestamp())
        return [
            msgspec.structs.replace(request, tier=tier) if isinstance(request, AnswerRequest) else request
            for request in requests
        ]

    async def _pulse(self) -> None:
        """Take in what has ended, write what is due, and look whether to go on."""
        ended = {task for task in self._under_way if task.done()}
        self._under_way -= ended
        failures = [error for task in ended if (error := task.exception()) is not None]
        self._pending += [task.result() for task in ended if task.exception() is None]
        due = len(self._pending) >= FLUSH_ROWS or self._now() - self._flushed > FLUSH_SECONDS
        if self._pending and (due or failures):
            await self._write()
        if failures:
            raise failures[0]
        if self._run.stopping:
            raise asyncio.CancelledError  # the run goes back to the queue with what it has
        if self._ending is None and self._now() - self._looked > LOOK_SECONDS:
            await self._look()
        if self._now() - self._measured > MEASURE_SECONDS:
            await self._measure()

    async def _look(self) -> None:
        self._looked = self._now()
        parts, batch = self._parts, self._batch
        if await asyncio.to_thread(parts.batches.status, batch.scope, batch.id) == "cancelling":
            self._ending = "cancelled"
        elif parts.shared.clock.now() >= batch.expires_at:
            self._ending = "expired"
        elif self._now() - self._began > SLICE_SECONDS and await asyncio.to_thread(parts.waiting):
            raise asyncio.CancelledError  # others wait: the run goes behind them
        self._stopped = self._now()

    def _out_of_time(self) -> bool:
        grace = CANCEL_GRACE_SECONDS if self._ending == "cancelled" else GRACE_SECONDS
        return self._ending is not None and self._now() - self._stopped > grace

    async def _write(self) -> None:
        rows, self._pending = self._pending, []
        self._flushed = self._now()
        if rows:
            batch = self._batch
            if new := self._new_releases - self._releases:
                # Before the rows are there: whoever may not read what a release answers reads none of them.
                await asyncio.to_thread(self._parts.jobs.note_releases, batch.scope, batch.id, self._epoch, new)
                self._releases |= new
            await asyncio.to_thread(self._parts.jobs.write_rows, batch.scope, batch.id, self._epoch, rows)
            self._finished += len(rows)
            self._run.progress(self._finished, batch.job.total, "answering")

    async def _measure(self) -> None:
        """Keep what requests took since the last time; learn how long the rest takes."""
        self._measured = self._now()
        await asyncio.to_thread(self._meter.keep)

    async def _one(self, request: Request, claim: Claim) -> JobRow:
        """Answer one request. What is wrong with it is its answer; an engine that is away is waited for."""
        batch, endpoints, name = self._batch, self._parts.endpoints, new_id("req")
        waited, pause = 0.0, 0.25
        try:
            asked = endpoints.ask(batch.endpoint, request.body, batch.scope, self._principal, name)
            while True:
                try:
                    with self._meter.row():
                        answers = await several.answers(self._parts.answer, self._of_tier(asked.requests, claim))
                    self._meter.took(request.row, *(answer.usage for answer in answers))
                    # Implicit releases are as many as there are ways to ask a plain model, and read nothing.
                    made_by = {one.receipt.release for one in answers}
                    self._new_releases |= {name for name in made_by if not name.startswith(BUILTIN)}
                    return row_of(batch, request, _response(200, name, asked.answered(answers)), None)
                except PASSING:
                    if waited >= PATIENCE_SECONDS:
                        raise
                    await asyncio.sleep(pause)
                    waited, pause = waited + pause, min(pause * 2, 5.0)
        except PASSING:
            raise
        except Exception as error:
            told = error if isinstance(error, AntiphonError) else self._faults.told(error, f"line {request.line + 1}")
            response = _response(told.http_status, name, endpoints.refused(told))
            return row_of(batch, request, response, None, failed=True)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


def row_of(batch: Batch, request: Request, response: Any, error: Any, *, failed: bool = False) -> JobRow:
    """The line of the output or error file that a request becomes."""
    name = f"batch_req_{content_hash([batch.id, request.line])[:26]}"
    payload = {"id": name, "custom_id": request.custom_id, "response": response, "error": error}
    return JobRow(line=request.line, payload=payload, failed=failed)


def _response(status: int, request: str, body: Any) -> dict[str, Any]:
    return {"status_code": status, "request_id": request, "body": body}
