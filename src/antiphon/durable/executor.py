"""The executor: claims runs, keeps their leases, calls their workflows, which a registry names.

Invariant: a run is left in the catalog as what happened to it (succeeded, failed, queued again, cancelled), or its
lease ends and another executor claims it. Nothing depends on this process ending well.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Set
from datetime import timedelta
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import msgspec

from antiphon.catalog.database import Database
from antiphon.catalog.run_holds import RunHolds
from antiphon.core.clock import Clock
from antiphon.core.errors import AntiphonError, ConflictError, DeadlineExceededError, NotFoundError, UnavailableError
from antiphon.core.logs import described
from antiphon.core.scope import Scope
from antiphon.core.telemetry import span
from antiphon.durable.claims import ServedRuns
from antiphon.durable.context import RunContext
from antiphon.durable.policy import DEFAULT_POLICY, WorkflowPolicy
from antiphon.durable.ramp import LOOK_SECONDS, Ramp
from antiphon.durable.rollbacks import left_to_undo
from antiphon.durable.run import LeaseLostError, Run, RunRequest
from antiphon.durable.runs import Runs

if TYPE_CHECKING:
    from antiphon.durable.run_metrics import Outcome, RunMetrics

POLL_SECONDS = 10.0
"""Interval of looks for what no ring has told."""

CONCURRENCY = 4
"""Runs that an executor works on at once, unless it says otherwise."""

_SOON_SECONDS = 0.1
"""The shortest pause while runs are held: one of them may be due, whose lease could not be renewed."""
_AWAY_SECONDS = 1.0
"""Wait for a catalog that is away, at most."""

YIELD_SECONDS = 1.5
"""Time that a step may still take once its run is paused or runs of its workflow are held; then it is cancelled and
done again later. One that can be told to stop, and has run for longer than that, is cancelled at once."""

Workflow = Callable[[RunContext, dict[str, Any]], Awaitable[dict[str, Any]]]


class WorkflowRegistry:
    """Workflows by name. A worker claims only runs of workflows it knows."""

    def __init__(self) -> None:
        self._workflows: dict[str, Workflow] = {}
        self._policies: dict[str, WorkflowPolicy] = {}
        self._shared: set[str] = set()

    def add(
        self, name: str, workflow: Workflow, policy: WorkflowPolicy = DEFAULT_POLICY, *, shared: bool = False
    ) -> None:
        """Register a workflow.

        Args:
            policy: whose slots its runs take, how often and how long they are tried.
            shared: its runs need nothing of a project's own, so that a worker does those of any tenant that has no
                worker itself.

        Raises:
            ConflictError: the name is taken.
        """
        if name in self._workflows:
            raise ConflictError(f"A workflow {name!r} is registered already.", where="durable")
        self._workflows[name], self._policies[name] = workflow, policy
        if shared:
            self._shared.add(name)

    def get(self, name: str) -> Workflow:
        """One workflow.

        Raises:
            NotFoundError: none of this name is registered.
        """
        try:
            return self._workflows[name]
        except KeyError:
            raise NotFoundError(f"There is no workflow {name!r}.", where="durable") from None

    def policy(self, name: str) -> WorkflowPolicy:
        """The policy of a workflow, the default one of a workflow that is not registered."""
        return self._policies.get(name, DEFAULT_POLICY)

    def served(
        self, scope: Scope, full: frozenset[str] = frozenset(), without: frozenset[str] = frozenset()
    ) -> ServedRuns:
        """The runs that a worker of this scope with these workflows serves.

        Args:
            full: classes of work, and ``without`` workflows, of which it takes no more now.
        """
        served = tuple(
            name for name in self._workflows if self._policies[name].work not in full and name not in without
        )
        shared = tuple(name for name in served if name in self._shared)
        return ServedRuns(scope.environment, served, scope.tenant, shared)


_log = logging.getLogger(__name__)


class Executor:
    """Runs workflows until told to stop. Many may share a catalog, in one process or in many.

    Args:
        database: the catalog.
        registry: the workflows this executor knows.
        worker_id: unique among living workers; a worker that was started again under its name takes its runs back
            at once.
        scope: the one whose runs it claims; of other tenants of its environment those of shared workflows.
        clock: wall time of leases.
        concurrency: runs at once.
        slots: runs at once of each class of work, which are its bulkhead, and of a class that is not named
            ``concurrency``. ``None``: all classes share ``concurrency``.
        lease: how long a run is held without a heartbeat; a dead worker's runs wait this long, unless its end is seen
            (``durable.abandoned_runs``).
        poll: seconds between looks for new runs when the doorbell does not ring; a run that is due at a moment, or
            whose lease ends, is looked for then.
        grace: seconds a step may still take after ``stop`` before it is cancelled.
        fair: of runs that are due, those of the tenant go first that has fewest under way, and of these those that were
            left alone for longest; else the oldest.
        backoff: wait before the second attempt, in place of what policies say.
        metrics: count the attempts.
    """

    def __init__(
        self,
        database: Database,
        registry: WorkflowRegistry,
        worker_id: str,
        scope: Scope,
        clock: Clock | None = None,
        *,
        concurrency: int = CONCURRENCY,
        slots: Mapping[str, int] | None = None,
        fair: bool = False,
        lease: timedelta = timedelta(seconds=15),
        poll: float = POLL_SECONDS,
        grace: float = 10.0,
        backoff: timedelta | None = None,
        metrics: RunMetrics | None = None,
    ) -> None:
        self._metrics = metrics
        self._clock = clock or database.clock
        self._doorbell = database.doorbell
        self._runs = Runs(database, self._clock)
        self._ramp = Ramp(RunHolds(database), scope, self._clock)
        self._registry = registry
        self._scope = scope
        self._worker = worker_id
        self.name = f"runs of {worker_id}"
        self._environment = scope.environment
        self._concurrency = concurrency
        self._slots = slots
        self._fair = fair
        self._lease = lease
        self._poll = poll
        self._grace = grace
        self._backoff = backoff
        self._count = count(1)
        self._began: Counter[str] = Counter()
        self._contexts: dict[asyncio.Task[None], RunContext] = {}

    async def run_until(self, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set; then let steps in flight finish and give the runs back."""
        stopping = asyncio.create_task(stop.wait())
        found = True
        try:
            with self._doorbell.wakeup(self._environment, "runs") as wakeup:
                await self._patiently(self._runs.reclaim, self._worker, self._environment)
                while not stop.is_set():
                    if self._ramp.is_due:
                        await self._patiently(self._ramp.read)
                    waiting = self._ramp.waiting(context.workflow for context in self._contexts.values())
                    served = self._served(waiting)
                    claimed = await self._claim(served) if served.workflows else None
                    if claimed is not None:
                        found = True
                        await self._start(claimed)
                        continue
                    poll = wakeup.rested(self._poll)
                    if served.workflows:
                        poll = await self._idle_seconds(served, poll)
                    if waiting:
                        poll = min(poll, LOOK_SECONDS)
                    await wakeup.wait(poll, stopping, *self._contexts, found=found)
                    found = False
        finally:
            stopping.cancel()
            await self._drain()

    def _served(self, waiting: frozenset[str]) -> ServedRuns:
        """The runs for which there is a free slot, but for those of workflows that wait after a freeze."""
        taken = Counter(self._group(context.workflow) for context in self._contexts.values())
        full = frozenset(group for group, held in taken.items() if held >= self._most(group))
        if self._slots is None and full:
            return ServedRuns(self._environment, (), self._scope.tenant)
        return self._registry.served(self._scope, full, waiting)

    def _group(self, workflow: str) -> str:
        return "" if self._slots is None else self._registry.policy(workflow).work

    def _most(self, group: str) -> int:
        return self._concurrency if self._slots is None else self._slots.get(group, self._concurrency)

    def _turn(self, workflows: Set[str]) -> Set[str]:
        """Of the workflows of which a run waits those of the class that began one longest ago: a long queue of short
        runs, which always has a free slot, keeps no other class waiting."""
        longest_ago = min((self._group(name) for name in workflows), key=self._began.__getitem__, default="")
        return {name for name in workflows if self._group(name) == longest_ago}

    async def _claim(self, served: ServedRuns) -> Run | None:
        held = [context.id for context in self._contexts.values()]
        claim = partial(self._runs.claim, fair=self._fair, held=held, turn=self._turn, policy=self._registry.policy)
        claimed: Run | None = await self._patiently(claim, self._worker, served, self._lease)
        if claimed is not None:
            self._began[self._group(claimed.workflow)] = next(self._count)
        return claimed

    async def _idle_seconds(self, served: ServedRuns, poll: float) -> float:
        """Seconds, ``poll`` at most, for which there is nothing to claim, unless it rings or a slot becomes free."""
        due = await self._patiently(self._runs.next_due, served)
        # What is due and was not claimed is a run that this worker holds, and cannot renew the lease of.
        soonest = _SOON_SECONDS if self._contexts else 0.0
        return poll if due is None else min(poll, max(due.total_seconds(), soonest))

    async def _start(self, run: Run) -> None:
        try:
            steps = await asyncio.to_thread(self._runs.steps, run.scope, run.id)
        except AntiphonError:
            _log.exception("the journal of run %s cannot be read; its lease will end", run.id)
            return
        recorded = {(step.name, step.occurrence): step.result for step in steps}
        policy, left = self._registry.policy(run.workflow), left_to_undo(steps)
        context = RunContext(run, self._runs, self._clock, recorded, policy, left)
        task = asyncio.create_task(self._hold(run, context), name=f"run {run.id}")
        self._contexts[task] = context
        task.add_done_callback(lambda ended: self._contexts.pop(ended, None))

    async def _drain(self) -> None:
        for context in self._contexts.values():
            context.stop_at_next_step()
        if self._contexts:
            await asyncio.wait(set(self._contexts), timeout=self._grace)
        left = set(self._contexts)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _hold(self, run: Run, context: RunContext) -> None:
        timed_out: DeadlineExceededError | None = None
        began = self._clock.monotonic()
        if self._metrics is not None:
            self._metrics.began(run.workflow)
        workflow = asyncio.create_task(self._call(run, context))
        heart = asyncio.create_task(self._beat(run, context))
        try:
            bound = self._registry.policy(run.workflow).timeout
            seconds = None if bound is None else bound.total_seconds()
            ended_first, _ = await asyncio.wait({workflow, heart}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if not ended_first:
                timed_out = DeadlineExceededError(
                    f"The attempt took longer than {seconds:g} s.",
                    next_step=f"`antiphon runs show {run.id}` says at which step.",
                )
                # What runs in a thread cannot be stopped from outside; it sees this, and records nothing any more.
                context.stop_at_next_step()
            if heart.done() and not heart.exception() and heart.result() == "yield":
                context.stop_at_next_step()
                # What has run for long will hardly end within the bound, and ends at once when it is told to.
                left = 0.0 if context.stoppable(YIELD_SECONDS) else min(YIELD_SECONDS, self._grace)
                await asyncio.wait({workflow}, timeout=left)
        finally:
            # Also when this task itself is cancelled: the workflow stops before the run is left.
            for task in (workflow, heart):
                task.cancel()
            ended, heartbeat = await asyncio.gather(workflow, heart, return_exceptions=True)
            if timed_out is not None and isinstance(ended, asyncio.CancelledError):
                ended = timed_out
            outcome = await self._leave(run, context, ended, heartbeat)
            if self._metrics is not None:
                self._metrics.ended(run.workflow, outcome, self._clock.monotonic() - began)

    async def _call(self, run: Run, context: RunContext) -> dict[str, Any]:
        with span(f"workflow {run.workflow}", {"antiphon.run": run.id}, traceparent=run.trace):
            workflow = self._registry.get(run.workflow)
            if not run.is_rolled_back:
                return await workflow(context, run.arguments)
            await context.roll_back(workflow)
            return {}

    async def _beat(self, run: Run, context: RunContext) -> RunRequest:
        """Keep the lease; returns once the run is to be cancelled or given back.

        Raises:
            LeaseLostError: the run is not ours any more.
        """
        every = min(self._lease.total_seconds() / 3, 1.0)
        with self._doorbell.wakeup(run.scope.environment, "cancellations") as wakeup:
            while True:
                await wakeup.wait(every, found=False)
                self._doorbell.end_rest()
                try:
                    beat = partial(self._runs.heartbeat, run, self._lease, context.latest_progress, context.under_way)
                    if (request := await asyncio.to_thread(beat)) is not None:
                        return request
                except UnavailableError:
                    # The lease may last until the catalog is back; if not, the next heartbeat says so.
                    _log.warning("the catalog is away; run %s is held without a heartbeat", run.id)

    async def _leave(self, run: Run, context: RunContext, ended: Any, heartbeat: Any) -> Outcome:
        try:
            if isinstance(heartbeat, Exception) and not isinstance(heartbeat, LeaseLostError):
                _log.error("the heartbeat of run %s failed", run.id, exc_info=heartbeat)
            if isinstance(heartbeat, LeaseLostError) or isinstance(ended, LeaseLostError):
                _log.warning("run %s was taken over; what this worker computed is dropped", run.id)
                return "lost"
            if isinstance(ended, asyncio.CancelledError):
                leave = self._runs.end_cancelled if heartbeat == "cancel" else self._runs.give_back
                await asyncio.to_thread(leave, run)
                return "canceled" if heartbeat == "cancel" else "given_back"
            if isinstance(ended, BaseException):
                await self._leave_failed(run, context, ended)
                return "failed"
            if run.is_rolled_back:
                await asyncio.to_thread(self._runs.end_rolled_back, run, context.latest_progress)
                return "rolled_back"
            await asyncio.to_thread(self._runs.end, run, ended or {}, context.latest_progress)
            return "succeeded"
        except LeaseLostError:
            _log.warning("run %s was taken over as it ended", run.id)
            return "lost"
        except AntiphonError as error:
            if isinstance(ended, BaseException) or isinstance(error, UnavailableError):
                _log.exception("run %s cannot be left in order; its lease will end", run.id)
                return "lost"
            await self._leave_failed(run, context, error)
            return "failed"

    async def _leave_failed(self, run: Run, context: RunContext, error: BaseException) -> None:
        _log.error("run %s (%s) failed in attempt %d", run.id, run.workflow, run.attempts, exc_info=error)
        what = str(error) if isinstance(error, AntiphonError) else described(error)
        retry_at = None
        if _worth_retrying(error) and run.attempts < run.max_attempts:
            policy = context.policy
            if self._backoff is not None:
                policy = msgspec.structs.replace(policy, first_wait=self._backoff)
            retry_at = self._clock.now() + policy.wait_after(run.attempts)
        with contextlib.suppress(LeaseLostError):
            await asyncio.to_thread(self._runs.fail, run, what, retry_at, context.under_way)

    async def _patiently(self, call: Any, *args: Any) -> Any:
        try:
            return await asyncio.to_thread(call, *args)
        except UnavailableError:
            _log.warning("the catalog is away; the worker waits", exc_info=True)
            await asyncio.sleep(min(_AWAY_SECONDS, self._poll * 10))
            return None


def _worth_retrying(error: BaseException) -> bool:
    # What the caller did wrong stays wrong; what was away, held or broken may come back.
    return not isinstance(error, AntiphonError) or error.transient or error.http_status >= 500
