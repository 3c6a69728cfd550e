"""The world of one seed: processes that share a catalog, what goes wrong, and the trace of it all."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from datetime import timedelta
from functools import partial
from io import IOBase
from types import SimpleNamespace
from typing import Any
from unittest import mock

from tests.simulation.batons import BatonThread, patience
from tests.simulation.catalog_file import CatalogFile
from tests.simulation.process import PROCESS, START, THREADS, Crashed, Faults, Process, Violation, current
from tests.simulation.virtual_loop import VirtualLoop

from antiphon.catalog import database
from antiphon.catalog.features import publications
from antiphon.core import ids, pauses
from antiphon.core.errors import AntiphonError, UnavailableError
from antiphon.governance.audit import record as audit_record
from antiphon.orchestration import rollouts as rollout_keeping


class World:
    """Everything of one seed.

    Attributes:
        faults: what goes wrong, until :meth:`heal`.
        observers: called after every commit, before the process that committed knows of it.
        writer: the process that holds the catalog's write lock.
        main: stands for the event loop's thread.
    """

    def __init__(self, file: CatalogFile, seed: int, faults: Faults | None = None) -> None:
        self.file = file
        self.seed = seed
        self.random = random.Random(f"world {seed}")
        self.faults = faults or Faults.drawn(self.random)
        self.loop = VirtualLoop(self._execute, self._made)
        self.loop.set_exception_handler(self._unhandled)
        self.processes: list[Process] = []
        self.observers: list[Callable[[Process], None]] = []
        self.violations: list[str] = []
        self.trace: list[str] = []
        self.commits = 0
        self.crashes = 0
        self.healed = False
        self.writer: Process | None = None
        self.main = SimpleNamespace(depth=0)
        self.slow_commits = 0.05 + self.faults.slow
        self._connections: list[sqlite3.Connection] = []
        self._loops: list[asyncio.Task[Any]] = []
        self._undelivered: dict[asyncio.Future[Any], list[Any]] = {}

    # --- Processes.

    def boot(self, name: str) -> Process:
        """Start a process."""
        process = Process(self, name, len(self.processes) + 1)
        self.processes.append(process)
        self.note(process, "boot")
        return process

    def keep_up(self, name: str, main: Callable[[Process], Awaitable[None]]) -> None:
        """Start a process and start it again whenever it dies, as a supervisor does, under its own or another name."""
        self._loops.append(self.loop.create_task(self._supervise(name, main)))

    async def start_twin(self, name: str, main: Callable[[Process], Awaitable[None]]) -> None:
        """Start a process, some time, under the name of one that may run."""
        await asyncio.sleep(self.random.random() * 10)
        twin = self.boot(name)
        twin.spawn(main(twin))  # type: ignore[arg-type]

    async def _supervise(self, name: str, main: Callable[[Process], Awaitable[None]]) -> None:
        first = name
        while True:
            process = self.boot(name)
            task = process.spawn(main(process))  # type: ignore[arg-type]
            await asyncio.wait({task})
            if process.alive:
                error = task.exception()
                if error is None or not _planned(error):
                    if error is not None:
                        self.violate(f"unexpected {type(error).__name__}: {error}")
                    return
                self.kill(process, "its end")
            if not self.healed:
                await asyncio.sleep(self.random.random() * self.faults.restart)
                if self.random.random() < self.faults.renamed:
                    name = f"{first}-{len(self.processes)}"

    def alive(self, prefix: str) -> list[Process]:
        """Living processes of a kind."""
        return [one for one in self.processes if one.alive and one.name.startswith(prefix)]

    def kill(self, process: Process, where: str) -> None:
        """Let a process die now."""
        if process.alive:
            process.alive = False
            self.crashes += 1
            self.note(process, f"dies at {where}")
            self.loop.call_soon(self._unwind, process)

    def points_until_crash(self) -> int:
        rate = self.faults.crash
        return 1 + int(self.random.expovariate(rate)) if rate else 1 << 60

    def wake_up(self) -> float:
        """Seconds until a thread that is told to go on does so."""
        late = not self.healed and self.random.random() < self.faults.slow
        return self.random.random() * (self.faults.stall if late else 0.001)

    def resume(self, process: Process, thread: BatonThread) -> None:
        """Let a parked thread go on."""
        if process.parked.pop(thread, 0) is None:
            thread.resume(None if process.alive else Crashed())

    def _unwind(self, process: Process) -> None:
        # What it still does in memory reaches nobody: its catalog raises, and its clients are gone.
        for thread in list(process.parked):
            self.resume(process, thread)
        for task in list(process.tasks):
            task.cancel()

    # --- The loop's hooks.

    def _execute(self, function: Callable[[], Any], future: asyncio.Future[Any]) -> None:
        process = PROCESS.get()
        if process is None:
            _resolve(future, *_outcome(function))
        else:
            self.loop.call_later(self.random.random() * 0.001, self._begin, process, function, future)

    def _begin(self, process: Process, function: Callable[[], Any], future: asyncio.Future[Any]) -> None:
        if future.cancelled():
            return  # It never began.
        outcome: list[Any] = []

        def job() -> None:
            outcome.extend(_outcome(function) if process.alive else (None, Crashed()))
            delay = process.still_for
            if not self.healed and self.random.random() < self.faults.slow:
                delay += self.random.random() * self.faults.stall
            self._undelivered[future] = outcome
            self.loop.call_later(delay, self._deliver, process, outcome, future)

        THREADS.take().run(partial(copy_context().run, job))

    def _deliver(self, process: Process, outcome: list[Any], future: asyncio.Future[Any]) -> None:
        del self._undelivered[future]
        try:
            process.point("await")
        except Crashed as crashed:
            _drop(outcome[0])
            outcome = [None, crashed]
        _resolve(future, *outcome)

    async def told(self, prefix: str, act: Callable[[Process], Awaitable[Any]]) -> Any:
        """What a client hears at last who asks one process of a kind after another until one answers."""
        while True:
            processes = self.alive(prefix)
            try:
                if processes:
                    return await act(self.random.choice(processes))
            except (Crashed, UnavailableError):
                pass
            await asyncio.sleep(0.1 + self.random.random() * 0.5)

    def start_thread(self, process: Process, function: Callable[[], None]) -> None:
        """A thread that a process keeps."""

        def job() -> None:
            _outcome(function)

        self.loop.call_soon(lambda: THREADS.take().run(partial(copy_context().run, job)))

    def _made(self, task: asyncio.Task[Any]) -> None:
        process = PROCESS.get()
        if process is not None:
            process.tasks[task] = None
            task.add_done_callback(lambda done: process.tasks.pop(done, None))

    def _unhandled(self, loop: Any, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is not None and not _planned(error):
            self.violations.append(f"unexpected {error!r}: {context.get('message')}")

    # --- What happens.

    def note(self, process: Process | None, what: str) -> None:
        """A line of the trace."""
        self.trace.append(f"{self.loop.time():.6f} {'world' if process is None else process.label} {what}")

    def committed(self, process: Process) -> None:
        self.commits += 1
        for observer in self.observers:
            try:
                observer(process)
            except Violation as violation:
                self.violate(f"after commit {self.commits} by {process.label}: {violation}")

    def violate(self, what: str) -> None:
        """Record that an invariant does not hold."""
        self.violations.append(what)
        self.note(None, f"VIOLATION {what}")

    def connection(self) -> sqlite3.Connection:
        """A connection beside production code's, for checks; it is closed with the world."""
        self._connections.append(self.file.connection())
        return self._connections[-1]

    def heal(self) -> None:
        """Nothing goes wrong from now on."""
        self.healed = True
        self.note(None, "healed")
        for process in self.processes:
            process.clock.wrong = timedelta(0)

    async def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Wait until something holds, in virtual time."""
        end = self.loop.time() + seconds
        while not condition():
            if self.loop.time() > end:
                return False
            await asyncio.sleep(0.5)
        return True

    @property
    def digest(self) -> str:
        """SHA-256 of the trace."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()

    def run(self, scenario: Callable[[World], Awaitable[None]]) -> None:
        """Play a scenario to its end; what does not hold is in :attr:`violations`."""
        with ExitStack() as stack:
            stack.enter_context(self._seeded())
            stack.enter_context(self._logged())
            stack.enter_context(patience(self.violate))
            self.file.reset()
            self.file.statement = self._statement
            try:
                self.loop.run_until_complete(self._play(scenario))
            finally:
                self.file.statement = lambda text: None
                for outcome in self._undelivered.values():
                    _drop(outcome[0])
                for connection in self._connections:
                    self.file.give_back(connection)
                self.loop.close()

    async def _play(self, scenario: Callable[[World], Awaitable[None]]) -> None:
        try:
            await scenario(self)
        except Violation as violation:
            self.violate(str(violation))
        finally:
            for task in self._loops:
                task.cancel()
            for process in self.processes:
                process.alive = False
                self._unwind(process)
            for _ in range(1_000):
                left = [task for process in self.processes for task in process.tasks]
                left += [task for task in self._loops if not task.done()]
                if not left and not any(process.parked for process in self.processes):
                    break
                await asyncio.sleep(0.1)
                for process in self.processes:
                    self._unwind(process)

    def _statement(self, text: str) -> None:
        process = PROCESS.get()
        if process is None:
            return
        words = text.split(None, 3)
        self.note(process, " ".join(words[: 3 if words[0] in ("INSERT", "DELETE") else 2]))
        process.point("statement")

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        """Ids, salts, and the time and the thread that production code reads by itself."""
        drawn = random.Random(f"ids {self.seed}")
        system = SimpleNamespace(urandom=drawn.randbytes)
        watch = SimpleNamespace(
            time_ns=lambda: int((START.timestamp() + self.loop.time()) * 1e9), monotonic=self.loop.time
        )
        with (
            mock.patch.object(ids, "_random", SimpleNamespace(take=lambda: drawn.randbytes(10))),
            mock.patch.object(ids, "time", watch),
            mock.patch.object(audit_record, "os", system),
            mock.patch.object(rollout_keeping, "time", watch),
            mock.patch.object(pauses, "phase", 0.0),
            mock.patch.object(database, "threading", THREADS.module),
            mock.patch.object(publications, "time", SimpleNamespace(sleep=_sleep)),
        ):
            yield

    @contextmanager
    def _logged(self) -> Iterator[None]:
        logger, handler = logging.getLogger("antiphon"), _FaultLog(self)
        before = logger.propagate, logger.level
        logger.addHandler(handler)
        logger.propagate = False
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.propagate = before[0]
            logger.setLevel(before[1])
            logger.removeHandler(handler)


def _sleep(seconds: float) -> None:
    """Sleeps in a simulated thread: others go on meanwhile, and its process may die."""
    process, thread = current()
    assert thread is not None
    process.park(thread, seconds)


class _FaultLog(logging.Handler):
    """Finds what production code logs and goes on after: an error that nobody planned is a violation."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not _planned(error):
            self._world.violate(f"unexpected {type(error).__name__}: {error}")


def _planned(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(map(_planned, error.exceptions))
    return isinstance(error, (Crashed, AntiphonError, asyncio.CancelledError))


def _outcome(function: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return function(), None
    except BaseException as error:
        return None, error


def _resolve(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if future.done():
        _drop(value)
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)


def _drop(value: Any) -> None:
    """A file that a process had open is closed with it."""
    if isinstance(value, IOBase):
        value.close()
