"""The row runner of batch jobs: takes a job's rows from their source, answers them, and writes them.

Table jobs (``table_job``) and batches of OpenAI's API (``batch_job``) are two sources of rows for this one runner.

Invariants:

- A row is keyed (job, line), the first one written stays, and only the holder of the job's present epoch writes.
- A row is written within :data:`FLUSH_SECONDS` of its answer while others come, and before the runner is left, however
  it is left; rows under way then are answered again by the worker that resumes the job.
- A row that fails is a row with its error. A transient error is waited for; if it lasts, the run fails and is retried.
- A row that a budget has no room for waits until it has, without a slot, and no other row is begun meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from math import inf
from typing import Any, Protocol

import msgspec

from antiphon.batch.estimates import Estimates
from antiphon.batch.fair_queue import FairQueue, SlotRequest
from antiphon.batch.gauge import TRANSIENT_ERRORS, Gauge, JobMeter
from antiphon.batch.row_plan import RowSketch
from antiphon.catalog.batch.batches import Ending
from antiphon.catalog.batch.jobs import BatchJob, JobRow, Jobs
from antiphon.catalog.serving.receipt import UsageReceipt
from antiphon.core.clock import Clock
from antiphon.core.errors import AntiphonError, BudgetExhaustedError, InternalError, InvalidInputError
from antiphon.core.logs import unexpected
from antiphon.durable.context import RunContext
from antiphon.durable.run import RunResult
from antiphon.serving.request import Tier

_log = logging.getLogger(__name__)

FLUSH_ROWS, FLUSH_SECONDS = 16, 0.5
"""A commit of rows comes after so many, or so long: the most that a crash can cost."""

CHECK_SECONDS = 0.5
"""Interval of checks whether the job is to end early."""

GRACE_SECONDS = 60.0
"""Time that rows under way may still take once the job has expired."""

CANCEL_GRACE_SECONDS = 0.5
"""The same once it is being cancelled: an answer that is nearly there is kept, and no other is waited for."""

PATIENCE_SECONDS = 120.0
"""Time that a row waits for an engine that is away before the run fails and is retried."""

BUDGET_SECONDS = 5.0
"""Interval at which a row asks again that a budget had no room for."""

MEASURE_SECONDS = 5.0
"""Interval at which usage is stored and the work left is estimated again."""

TRACEBACKS = 10
"""Internal faults of a job that are logged with a traceback; the others get a line each."""

_PULSE = 0.1


class BatchContext(msgspec.Struct, frozen=True):
    """State that all batch work of a process shares: slots at the engine, the supply gauge, estimates made from it."""

    queue: FairQueue
    gauge: Gauge
    estimates: Estimates
    clock: Clock


class RowAnswer(msgspec.Struct, frozen=True):
    """An answered row, the usage of its answers, and the releases that made them (of jobs without a fixed release)."""

    row: JobRow
    usages: Sequence[UsageReceipt]
    releases: frozenset[str] = frozenset()


class RowTask(Protocol):
    """One row to be answered; implemented by ``table_job.TableRow`` and ``batch_job.RequestRow``.

    Attributes:
        label: names the row in the log.
        prefix: digest of the beginning of its prompt; 0 for none.
        sketch: sizes of its prompt and output, where they are known.
        refusal: the error of a row that is not asked at all.
    """

    label: str
    prefix: int
    sketch: RowSketch | None
    refusal: AntiphonError | None

    async def answer(self, tier: Tier) -> RowAnswer:
        """Answers the row in this tier of the engine."""
        ...

    def failed(self, error: AntiphonError) -> JobRow:
        """The output row of an error."""
        ...


class RowFaults:
    """Logs the internal faults of one job's rows, the first with tracebacks."""

    def __init__(self, job: str) -> None:
        self._job = job
        self._seen = 0

    def report(self, error: Exception, row: str) -> InternalError:
        """Logs an error and returns the error that its row shows."""
        self._seen += 1
        return unexpected(error, _log, f"{row} of {self._job}", "worker.log", traced=self._seen <= TRACEBACKS)


@dataclass
class RowRunner:
    """Answers the rows of one job.

    Attributes:
        finished: rows that are written already.
        faults: log of internal faults.
        deadline: seconds since 1970.
        concurrency: rows under way at once, as far as they get slots.
        max_failed: the job fails once more rows have failed.
        ending: tells whether the job is to end early; called every :data:`CHECK_SECONDS`.
    """

    run_context: RunContext
    jobs: Jobs
    context: BatchContext
    job: BatchJob
    epoch: int
    finished: int
    faults: RowFaults
    _: KW_ONLY
    deadline: float = inf
    concurrency: float = inf
    max_failed: int | None = None
    ending: Callable[[], Awaitable[Ending | None]] | None = None

    def __post_init__(self) -> None:
        self._ending: Ending | None = None
        self._failed = self.job.rows_failed
        self._under_way: set[asyncio.Task[JobRow]] = set()
        self._unfunded = 0
        self._pending: list[JobRow] = []
        self._releases: set[str] = set(self.job.releases)
        self._new_releases: set[str] = set()
        self._flushed = self._checked = self._measured = self._stopped = self._now()
        self._meter = JobMeter(self.context.gauge, self.context.estimates, self.job.scope, self.job.id)

    async def run(self, chunk: Callable[[], Awaitable[Sequence[RowTask]]]) -> Ending:
        """Answers every row that ``chunk`` returns, until it returns none or the job ends early.

        Raises:
            UnavailableError, EngineError, OverloadedError: a part that the rows need stayed away.
            ConflictError: another worker took the job over.
            InvalidInputError: more than ``max_failed`` rows failed.
            CancelledError: the worker stops; rows answered until then are written, as with the transient errors.
        """
        self.run_context.progress(self.finished, self.job.total, "answering")
        try:
            await self._check()
            await self._measure()
            while self._ending is None and (rows := await chunk()):
                for row in rows:
                    if self._ending is None:
                        await self._submit(row)
            while self._under_way and not self._out_of_time():
                await self._wait_for_rows()
        except (*TRANSIENT_ERRORS, asyncio.CancelledError):
            await self._write()  # rows that were answered need not be answered again
            raise
        finally:
            for task in self._under_way:
                task.cancel()
            await asyncio.gather(*self._under_way, return_exceptions=True)
        await self._write()
        self._require_few_failed()
        await self._measure()
        return self._ending or "completed"

    async def _submit(self, row: RowTask) -> None:
        if row.refusal is not None:
            self._pending.append(row.failed(row.refusal))
            await self._pulse()
            return
        while (len(self._under_way) >= self.concurrency or self._unfunded) and self._ending is None:
            await self._wait_for_rows()
        queue, slot = self.context.queue, self._slot_request(row)
        acquiring = asyncio.ensure_future(queue.acquire(slot))
        handed = False
        try:
            # Rows that end late may hold every slot: a job that ends waits for none.
            while not acquiring.done() and self._ending is None:
                await self._wait_for_rows(acquiring)
            if self._ending is None:
                place = _RowSlot(queue, slot)
                task = asyncio.create_task(self._answer(row, place))
                task.add_done_callback(lambda _: place.release())
                self._under_way.add(task)
                handed = True
        finally:
            if not acquiring.done():
                acquiring.cancel()
                await asyncio.gather(acquiring, return_exceptions=True)
            elif not handed and not acquiring.cancelled():
                queue.release(slot)

    def _slot_request(self, row: RowTask) -> SlotRequest:
        return SlotRequest(
            self.job.scope.tenant,
            self.job.id,
            since=self.context.clock.now().timestamp(),
            deadline=self.deadline,
            seconds_left=self._meter.seconds_left,
            prefix=row.prefix,
        )

    async def _wait_for_rows(self, *others: asyncio.Future[Any]) -> None:
        await asyncio.wait({*others, *self._under_way}, timeout=_PULSE, return_when=asyncio.FIRST_COMPLETED)
        await self._pulse()

    async def _pulse(self) -> None:
        """Collects rows that have ended, writes what is due, and checks whether to go on."""
        ended = {task for task in self._under_way if task.done()}
        self._under_way -= ended
        failures = [error for task in ended if (error := task.exception()) is not None]
        self._pending += [task.result() for task in ended if task.exception() is None]
        due = len(self._pending) >= FLUSH_ROWS or self._now() - self._flushed > FLUSH_SECONDS
        if self._pending and (due or failures):
            await self._write()
        if failures:
            raise failures[0]
        if self.run_context.stopping:
            raise asyncio.CancelledError  # the run goes back to the queue with the rows it has
        self._require_few_failed()
        if self._ending is None and self._now() - self._checked > CHECK_SECONDS:
            await self._check()
        if self._now() - self._measured > MEASURE_SECONDS:
            await self._measure()

    async def _check(self) -> None:
        self._checked = self._now()
        self._ending = None if self.ending is None else await self.ending()
        self._stopped = self._now()

    def _out_of_time(self) -> bool:
        grace = CANCEL_GRACE_SECONDS if self._ending == "cancelled" else GRACE_SECONDS
        return self._ending is not None and self._now() - self._stopped > grace

    async def _write(self) -> None:
        rows, self._pending = self._pending, []
        self._flushed = self._now()
        if rows:
            job = self.job
            if new := self._new_releases - self._releases:
                # Before the rows: a principal that may not read a release's answers must never find them unmarked.
                await asyncio.to_thread(self.jobs.note_releases, job.scope, job.id, self.epoch, new)
                self._releases |= new
            await asyncio.to_thread(self.jobs.write_rows, job.scope, job.id, self.epoch, rows)
            self.finished += len(rows)
            self._failed += sum(row.failed for row in rows)
            self.run_context.progress(self.finished, job.total, "answering")

    def _require_few_failed(self) -> None:
        if self.max_failed is not None and self._failed > self.max_failed:
            raise InvalidInputError(
                f"{self._failed} of the first {self.finished} rows failed, and at most {self.max_failed} may.",
                where="max_failed_rows",
                next_step=f"GET /admin/batch/{self.job.id}/rows says why; mend the cause and order it again.",
            )

    async def _measure(self) -> None:
        """Stores the usage since the last time and estimates the work left."""
        self._measured = self._now()
        await asyncio.to_thread(self._meter.keep)

    async def _answer(self, row: RowTask, place: _RowSlot) -> JobRow:
        """Answers one row. An error of its own is its result; an engine that is away is waited for."""
        waited, pause = 0.0, 0.25
        while True:
            try:
                with self.context.gauge.row():
                    answer = await row.answer(place.request.tier(self.context.clock.now().timestamp()))
                self._meter.took(row.sketch, *answer.usages)
                self._new_releases |= answer.releases
                return answer.row
            except BudgetExhaustedError as error:
                await self._wait_for_budget(error, place)
            except TRANSIENT_ERRORS:
                if waited >= PATIENCE_SECONDS:
                    raise
                await asyncio.sleep(pause)
                waited, pause = waited + pause, min(pause * 2, 5.0)
            except AntiphonError as error:
                return row.failed(error)
            except Exception as error:
                return row.failed(self.faults.report(error, row.label))

    async def _wait_for_budget(self, error: BudgetExhaustedError, place: _RowSlot) -> None:
        place.release()  # Others' rows may have room.
        self._unfunded += 1
        try:
            self.run_context.progress(self.finished, self.job.total, f"waits: {error.what}")
            await asyncio.sleep(min(error.retry_after or 1.0, BUDGET_SECONDS))
        finally:
            self._unfunded -= 1
        await place.acquire()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


class _RowSlot:
    """A row's slot in the queue, which it gives back while it waits for something else than the engine."""

    def __init__(self, queue: FairQueue, request: SlotRequest) -> None:
        self.request = request
        self._queue = queue
        self._held = True

    async def acquire(self) -> None:
        await self._queue.acquire(self.request)
        self._held = True

    def release(self) -> None:
        if self._held:
            self._held = False
            self._queue.release(self.request)


def run_result(
    run: RunContext, job: BatchJob, error: str | None, head: Mapping[str, Any], more: Mapping[str, Any] = {}
) -> dict[str, Any]:
    """Returns the result of a job's run: it ends as the job did, never as plain ``succeeded`` when rows failed. The
    counts of rows stand between ``head`` and ``more``, and the number of failed ones becomes the run's note."""
    result = {**head, "rows": job.rows_done, "failed": job.rows_failed, **more}
    if job.rows_failed:
        run.progress(job.rows_done, job.total, f"{job.rows_failed} of {job.rows_done} rows failed")
    match job.status:
        case "failed":
            return RunResult(result, "failed", error)
        case "cancelled":
            return RunResult(result, "cancelled")
        case _:
            return RunResult(result, "succeeded_with_failures") if job.rows_failed else result
