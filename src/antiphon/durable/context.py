"""A workflow's view of its run.

Invariant: a step is known by its name and by how often that name came before it in the run, so that a workflow
that is called again meets its own records; steps that run side by side need names of their own.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar, cast

from sqlalchemy.engine import Connection

from antiphon.core.clock import Clock
from antiphon.core.errors import AntiphonError, DeadlineExceededError, InvalidInputError
from antiphon.core.scope import Scope
from antiphon.core.telemetry import span
from antiphon.definitions.workflows import RollbackPolicy
from antiphon.durable.policy import DEFAULT_POLICY, WorkflowPolicy
from antiphon.durable.rollbacks import FAILURE_OF, UNDO, check_step_name
from antiphon.durable.run import ProgressReport, Run, StepRecord, StepUnderWay
from antiphon.durable.runs import Runs
from antiphon.durable.step_threads import StepThreads

T = TypeVar("T")

_STEP_THREADS = StepThreads()
_MOST_MISSES = 1_000
"""Steps without a record, at most, that a workflow is let go on past as it is called again for its rollback."""


class EndOfRecords(BaseException):
    """Ends a workflow that is called again for its rollback where its records end; no handler of errors catches it."""


class NotDoneError(AntiphonError):
    """A step has no record, in a workflow that is called again for its rollback."""

    code = "step_not_done"


class StepFailedError(AntiphonError):
    """A step failed before, with an error of a class that is not known here."""

    code = "step_failed"


class NotUndoableError(AntiphonError):
    """A workflow that is called again for its rollback does not say how a step is undone."""

    code = "step_not_undoable"


class RunContext:
    """A workflow's handle on its run. Made by the executor.

    Attributes:
        policy: of its attempts and its rollback; a workflow that has one of its own sets it before its first step.
        failure: of what undoing a step raised, what is raised in its place.
    """

    def __init__(
        self,
        run: Run,
        runs: Runs,
        clock: Clock,
        recorded: dict[tuple[str, int], Any],
        policy: WorkflowPolicy = DEFAULT_POLICY,
        left: Sequence[StepRecord] = (),
    ) -> None:
        self._run = run
        self._runs = runs
        self._clock = clock
        self._recorded = recorded
        self.policy = policy
        self.failure: Callable[[Exception], Exception] = lambda error: error
        self._left = left
        self._undos: dict[tuple[str, int], Callable[[], Awaitable[None]]] = {}
        self._calling_again, self._misses = run.is_rolled_back, 0
        self._seen: Counter[str] = Counter()
        self._under_way: dict[tuple[str, int], StepUnderWay] = {}
        self._broken: dict[tuple[str, int], Exception] = {}
        self._stoppable: dict[tuple[str, int], float] = {}
        self._progress: ProgressReport | None = None
        self._stopping = False

    @property
    def id(self) -> str:
        """The run's id."""
        return self._run.id

    @property
    def resumed(self) -> bool:
        """True when steps of an earlier attempt are recorded."""
        return bool(self._recorded)

    @property
    def is_rolled_back(self) -> bool:
        """True when the workflow is called to learn how its steps are undone."""
        return self._run.is_rolled_back

    @property
    def workflow(self) -> str:
        """The workflow's name."""
        return self._run.workflow

    @property
    def application(self) -> str:
        """The application that its arguments name, empty where they name none."""
        return self._run.application

    @property
    def scope(self) -> Scope:
        """The scope the run works in."""
        return self._run.scope

    @property
    def attempt(self) -> int:
        """Number of this attempt, from 1."""
        return self._run.attempts

    @property
    def claim(self) -> int:
        """Number of the claim that this attempt is, which none before has, also of a run that was retried by hand."""
        return self._run.epoch

    async def step(
        self,
        name: str,
        fn: Callable[..., Any],
        *args: Any,
        timeout: float | None = None,
        stop: threading.Event | None = None,
        undo: Callable[[Any], Any] | None = None,
    ) -> Any:
        """Run a step at least once; a synchronous function runs in a thread of its own.

        The result is recorded as JSON and returned as JSON reads it back, the first time as well. A crash between
        the effect and its record runs the step again: the effect must be idempotent.

        Args:
            timeout: seconds after which the step is canceled and has failed. A thread cannot be stopped: it goes on to
                its end, and its result is dropped.
            stop: is set when the step is canceled or timed out, so that a thread that looks at it ends soon.
            undo: a function of the step's result that undoes it, which is called when the run fails for good or is
                canceled, as :attr:`policy` says: after all that ended after this step was undone, and at least once. It
                has the timeout of the step. A step that did not end is not undone.

        Raises:
            DeadlineExceededError: the step took longer than its timeout.
            LeaseLostError: another worker took the run over; nothing is recorded.
            InvalidInputError: the result is no JSON, or ``undo`` is no function of it.
            Exception: what the function raised, or what it raised in an earlier attempt that went on past it.
        """
        if undo is not None:
            _check_undo(name, undo)
        occurrence = self._enter(name)
        if (name, occurrence) in self._recorded:
            result = self._recorded[name, occurrence]
            if undo is not None:
                undoing = UNDO + name, occurrence
                self._undos[name, occurrence] = partial(self._do, *undoing, undo, result, timeout=timeout)
            return result
        if (failed := self._recorded.get((FAILURE_OF + name, occurrence))) is not None:
            raise _failure_again(failed)
        self._end_of_records(name)
        await self._note_failures()
        policy = self.policy.rollback if undo is not None and self.policy.rollback != "never" else None
        return await self._do(name, occurrence, fn, *args, timeout=timeout, stop=stop, undone_by=policy)

    async def _note_failures(self) -> None:
        """Record the failures that the workflow goes on past: it takes the same way when it is called again."""
        if self.policy.rollback == "never":
            return
        for (name, occurrence), error in list(self._broken.items()):
            key = FAILURE_OF + name, occurrence
            if key not in self._recorded:
                noted = {"error": f"{type(error).__module__}.{type(error).__qualname__}", "message": str(error)}
                self._recorded[key] = noted
                await asyncio.to_thread(self._runs.record, self._run, *key, noted, self._clock.now())

    async def _do(
        self, name: str, occurrence: int, fn: Callable[..., Any], *args: Any, timeout: float | None = None,
        stop: threading.Event | None = None, undone_by: RollbackPolicy | None = None,
    ) -> Any:  # fmt: skip
        """Call a function and record what it returned."""
        started = self._clock.now()
        if stop is not None:
            self._stoppable[name, occurrence] = self._clock.monotonic()
        with self._running(name, occurrence), span(f"step {name}", {"antiphon.run": self.id}):
            try:
                async with asyncio.timeout(timeout) as bound:
                    result = await _called(fn, *args, stop=stop)
            except TimeoutError:
                if not bound.expired():
                    raise
                raise DeadlineExceededError(f"Step {name!r} took longer than {timeout:g} s.") from None
            return await asyncio.to_thread(self._runs.record, self._run, name, occurrence, result, started, undone_by)

    async def transaction(self, name: str, fn: Callable[[Connection], T]) -> T:
        """Run an effect on the catalog exactly once: it and the step's record are one transaction.

        ``fn`` passes its connection on as ``within=`` and returns JSON. It runs in a thread.

        Raises:
            LeaseLostError: another worker took the run over; the effect was not run.
            InvalidInputError: the result is no JSON; the effect is undone.
        """
        occurrence = self._enter(name)
        if (name, occurrence) in self._recorded:
            return cast(T, self._recorded[name, occurrence])
        self._end_of_records(name)
        await self._note_failures()
        running = self._running(name, occurrence, transactional=True)
        with running, span(f"transaction {name}", {"antiphon.run": self.id}):
            result = await asyncio.to_thread(self._runs.transact, self._run, name, occurrence, fn, self._clock.now())
        return cast(T, result)

    async def fenced(self, effect: Callable[[Connection], T]) -> T:
        """Run an effect on the catalog that every attempt has, such as taking something over: the check that the run
        is still this worker's and the effect are one transaction. Nothing is recorded. It runs in a thread.

        Raises:
            LeaseLostError: another worker took the run over; the effect was not run.
        """
        self._end_of_records("")
        await self._note_failures()
        return await asyncio.to_thread(self._runs.fenced, self._run, effect)

    async def roll_back(self, workflow: Callable[[RunContext, dict[str, Any]], Awaitable[Any]]) -> None:
        """Undo what is left of the run's steps, the last one first: the workflow is called again to learn how.

        Raises:
            NotUndoableError: the workflow does not come to a step, or does not say how it is undone. Whatever keeps the
                workflow from being called again, or undoing raises.
        """
        ended: BaseException | None = None
        if self._left:
            try:
                await workflow(self, self._run.arguments)
            except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # As it did before, or at the end of its records.
                ended = error
        self._calling_again = False
        for record in self._left:
            if (record.name, record.occurrence) not in self._undos:
                if isinstance(ended, Exception) and not self._seen:
                    raise ended  # It could not be called at all.
                why = f": it ended with {ended}" if isinstance(ended, Exception) else ""
                raise NotUndoableError(
                    f"The workflow does not come to how the step {record.name!r} is undone{why}.",
                    where=self.id,
                    next_step=f"Undo it by hand, and say so: `antiphon runs skip {self.id} '{UNDO}{record.name}' "
                    "--result null --reason TEXT`.",
                )
        for number, record in enumerate(self._left):
            if self._stopping:
                raise asyncio.CancelledError
            self.progress(number, len(self._left), f"undoing {record.name}")
            try:
                await self._undos[record.name, record.occurrence]()
            except Exception as error:
                raised = self.failure(error)
                if raised is error:
                    raise
                raise raised from error
        names = ", ".join(record.name for record in self._left)
        self.progress(len(self._left), len(self._left), f"undone: {names}" if names else "its steps are undone")

    def _end_of_records(self, name: str) -> None:
        """End the workflow that is called again for its rollback at what it did not do."""
        if not self._calling_again:
            return
        self._misses += 1
        left = [one for one in self._left if (one.name, one.occurrence) not in self._undos]
        if not left or self._misses > _MOST_MISSES:
            raise EndOfRecords
        raise NotDoneError(f"Step {name!r} was not done.", where=self.id)

    def progress(self, done: int, total: int | None = None, note: str = "") -> None:
        """Say how far the run is; written with the next heartbeat, so it may be called often."""
        self._progress = ProgressReport(done, total, note)

    @property
    def latest_progress(self) -> ProgressReport | None:
        """The progress reported last."""
        return self._progress

    @property
    def under_way(self) -> tuple[StepUnderWay, ...]:
        """Steps that have begun and not ended; a failed one until the next begins."""
        return tuple(self._under_way.values())

    @property
    def stopping(self) -> bool:
        """True when the worker wants to stop: a workflow that works outside of steps should end soon."""
        return self._stopping

    def stoppable(self, seconds: float) -> bool:
        """Tells whether every step under way can be told to stop, and has run for longer than so many seconds."""
        begun = [self._stoppable.get((step.name, step.occurrence)) for step in self.under_way]
        now = self._clock.monotonic()
        return bool(begun) and all(at is not None and now - at > seconds for at in begun)

    def stop_at_next_step(self) -> None:
        """Let the step in flight finish and stop the workflow before the next one."""
        self._stopping = True

    def _enter(self, name: str) -> int:
        if self._stopping:
            raise asyncio.CancelledError
        check_step_name(name)
        occurrence = self._seen[name]
        self._seen[name] += 1
        return occurrence

    @contextmanager
    def _running(self, name: str, occurrence: int, *, transactional: bool = False) -> Iterator[None]:
        """Count a step as under way until it ends well."""
        for broken in self._broken:  # The workflow went on past them.
            self._under_way.pop(broken, None)
        self._broken.clear()
        self._under_way[name, occurrence] = StepUnderWay(name, occurrence, transactional)
        try:
            yield
        except Exception as error:
            self._broken[name, occurrence] = error
            raise
        del self._under_way[name, occurrence]


def _failure_again(noted: dict[str, str]) -> Exception:
    """A failure that was noted, of its own class where that is loaded and takes a message."""
    module, _, name = noted["error"].rpartition(".")
    kind = getattr(sys.modules.get(module), name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        with suppress(Exception):
            return kind(noted["message"])
    return StepFailedError(f"{noted['error']}: {noted['message']}", where="step")


def _check_undo(name: str, undo: Any) -> None:
    """Raise ``InvalidInputError`` unless a function can be called with a step's result: its rollback would be too late
    to find that out."""
    try:
        inspect.signature(undo).bind(None)
    except ValueError:
        return  # Built in, without a signature.
    except TypeError as error:
        raise InvalidInputError(
            f"What undoes the step {name!r} is no function of its result: {error}.",
            where="undo",
            next_step="Write undo=lambda result: … or a function of one parameter.",
        ) from None


async def _called(fn: Callable[..., Any], *args: Any, stop: threading.Event | None) -> Any:
    if inspect.iscoroutinefunction(fn):
        return await fn(*args)
    call = partial(contextvars.copy_context().run, fn, *args)
    try:
        result = await asyncio.get_running_loop().run_in_executor(_STEP_THREADS, call)
    except asyncio.CancelledError:
        if stop is not None:
            stop.set()
        raise
    return await result if inspect.isawaitable(result) else result
