"""The world of one seed: processes that share a catalog, their clocks, what goes wrong, and the trace of it all."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar, copy_context
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

import msgspec
from tests.simulation.batons import BatonThread, BatonThreads
from tests.simulation.catalog_file import CatalogFile, CatalogView
from tests.simulation.virtual_loop import VirtualLoop

from antiphon.catalog.database import Database
from antiphon.catalog.database_errors import BUSY_SECONDS, busy_error
from antiphon.core import ids
from antiphon.core.codec import PlainCodec
from antiphon.core.errors import AntiphonError, UnavailableError
from antiphon.governance.audit import record as audit_record
from antiphon.orchestration import rollouts as rollout_keeping

START = datetime(2013, 4, 10, 12, tzinfo=UTC)
CLOCK_STEP = 5.0
"""Seconds by which a process's clock may be wrong, either way."""

_threads = BatonThreads()
_process: ContextVar[Process | None] = ContextVar("process", default=None)


def current() -> tuple[Process, BatonThread | None]:
    """The process that asks and, unless it is in its event loop, the thread."""
    process = _process.get()
    assert process is not None
    return process, _threads.current


class Crashed(BaseException):
    """The process died: nothing after this moment happened in it."""


class Violation(AssertionError):
    """An invariant does not hold."""


class Faults(msgspec.Struct, frozen=True):
    """How often things go wrong in a world.

    Attributes:
        crash: chance of a death at one statement, commit or thread; ``restart`` seconds until the process is back.
        busy: chance that a transaction finds the catalog busy.
        slow: chance that a thread is held up for up to ``stall`` seconds before a transaction, or its result after it.
        renamed: chance that a process comes back under another name.
        clocks: chance that a process's clock is stepped when something happens to it.
    """

    crash: float = 0.0
    restart: float = 2.0
    busy: float = 0.0
    slow: float = 0.0
    stall: float = 12.0
    renamed: float = 0.3
    clocks: float = 0.0

    @classmethod
    def drawn(cls, random: random.Random) -> Faults:
        """The temper of a seed: most have a few kinds of fault, some none, some many."""
        return cls(
            crash=random.choice((0.0, 0.003, 0.01, 0.03)),
            restart=random.choice((0.2, 2.0, 8.0)),
            busy=random.choice((0.0, 0.0, 0.01, 0.05)),
            slow=random.choice((0.0, 0.01, 0.05, 0.15)),
            renamed=random.choice((0.0, 0.5)),
            clocks=random.choice((0.0, 0.02)),
        )


class CooperativeLock:
    """A lock as the simulation schedules it, for what reads or writes the catalog while it is held."""

    def __init__(self) -> None:
        self._held = False

    def acquire(self, timeout: float = -1) -> bool:
        waited = 0.0
        while self._held:
            process, thread = current()
            if thread is None or waited > timeout >= 0:
                return False
            delay = 0.001 + process.world.random.random() * 0.01
            process.park(thread, delay)
            waited += delay
        self._held = True
        return True

    def release(self) -> None:
        self._held = False

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *error: object) -> None:
        self.release()


class ProcessClock:
    """The clock of one process: the world's time, and what it is wrong by; ``latest`` is the latest that it told."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.wrong = timedelta(0)
        self.latest = START

    def now(self) -> datetime:
        found = START + timedelta(seconds=self._world.loop.time()) + self.wrong
        self.latest = max(self.latest, found)
        return found

    def monotonic(self) -> float:
        return self._world.loop.time()


class Process:
    """One process of the platform, from its start to its death; the one after it is another.

    Attributes:
        name: what it calls itself; a process that comes back may have the same.
        label: name and number, unique in the world.
    """

    def __init__(self, world: World, name: str, number: int) -> None:
        self.world = world
        self.name = name
        self.label = f"{name}#{number}"
        self.alive = True
        self.clock = ProcessClock(world)
        self.database = Database(CatalogView(world.file, self, self.clock), codec=PlainCodec(), clock=None)
        self.database._write_lock = CooperativeLock()  # type: ignore[assignment]
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.parked: dict[BatonThread, None] = {}
        self.stop = asyncio.Event()
        self._left = world.points_until_crash()

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start a task of this process."""
        context = copy_context()
        context.run(_process.set, self)
        return context.run(self.world.loop.create_task, coroutine)

    async def ask(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """What a client gets who asks this process; raises :class:`Crashed` when it dies before the answer."""
        if not self.alive:
            coroutine.close()
            raise Crashed
        task = self.spawn(coroutine)
        await asyncio.wait({task})
        if task.cancelled() or not self.alive:
            task.cancelled() or task.exception()
            raise Crashed
        return task.result()

    async def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Like :meth:`ask`, of a function that runs in a thread."""
        return await self.ask(asyncio.to_thread(function, *args, **options))

    # --- What its view of the catalog tells.

    def before_transaction(self) -> None:
        self._require_alive()
        world, thread = self.world, _threads.current
        if thread is None or thread.depth:
            return
        if world.healed:
            delay = world.random.random() * 0.002
        elif world.random.random() < world.faults.slow:
            delay = world.random.random() * world.faults.stall
        else:
            delay = world.random.random() ** 4 * 0.05
        if not world.healed and world.random.random() < world.faults.clocks:
            self.step_clock()
        self.park(thread, delay)

    @contextmanager
    def reads(self) -> Iterator[None]:
        thread = _threads.current or self.world.main
        thread.depth += 1
        try:
            yield
        finally:
            thread.depth -= 1

    @contextmanager
    def writes(self) -> Iterator[None]:
        world, thread = self.world, _threads.current
        given_up = world.loop.time() + BUSY_SECONDS
        while world.writer is not None:
            if thread is None or world.loop.time() >= given_up:
                raise busy_error()
            self.park(thread, 0.001 + world.random.random() * 0.05)
        world.writer = self
        try:
            with self.reads():
                yield
        finally:
            world.writer = None

    def commits(self) -> None:
        world, thread = self.world, _threads.current
        if thread is not None and thread.depth == 1 and not world.healed and world.random.random() < world.slow_commits:
            self.note("flushes")
            self.park(thread, world.random.random() * 3.0)

    def park(self, thread: BatonThread, delay: float | None) -> None:
        """Let others go on for so long; without a delay until the thread is resumed."""
        self.parked[thread] = None
        if delay is not None:
            self.world.loop.call_later(delay, self.world.resume, self, thread)
        thread.park()
        self.point("thread")

    def finds_it_busy(self) -> bool:
        world = self.world
        found = not world.healed and world.random.random() < world.faults.busy
        if found:
            self.note("busy")
        return found

    def point(self, where: str) -> None:
        self._require_alive()
        if self.world.healed:
            return
        self._left -= 1
        if self._left <= 0:
            self.world.kill(self, where)
            raise Crashed

    def note(self, what: str) -> None:
        self.world.note(self, what)

    def committed(self) -> None:
        self.world.committed(self)

    def step_clock(self) -> None:
        self.clock.wrong = timedelta(seconds=round(self.world.random.uniform(-CLOCK_STEP, CLOCK_STEP), 3))
        self.note(f"clock {self.clock.wrong.total_seconds():+.3f}")

    def _require_alive(self) -> None:
        if not self.alive:
            raise Crashed


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

    async def _supervise(self, name: str, main: Callable[[Process], Awaitable[None]]) -> None:
        first = name
        while True:
            process = self.boot(name)
            task = process.spawn(main(process))  # type: ignore[arg-type]
            await asyncio.wait({task})
            if process.alive:
                task.result()
                return
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
        process = _process.get()
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
            delay = 0.0
            if not self.healed and self.random.random() < self.faults.slow:
                delay = self.random.random() * self.faults.stall
            self.loop.call_later(delay, self._deliver, process, outcome, future)

        _threads.take().run(partial(copy_context().run, job))

    def _deliver(self, process: Process, outcome: list[Any], future: asyncio.Future[Any]) -> None:
        try:
            process.point("await")
        except Crashed as crashed:
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

        self.loop.call_soon(lambda: _threads.take().run(partial(copy_context().run, job)))

    def _made(self, task: asyncio.Task[Any]) -> None:
        process = _process.get()
        if process is not None:
            process.tasks[task] = None
            task.add_done_callback(lambda done: process.tasks.pop(done, None))

    def _unhandled(self, loop: Any, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, (Crashed, AntiphonError, asyncio.CancelledError)) and error is not None:
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
            self.file.reset()
            self.file.statement = self._statement
            try:
                self.loop.run_until_complete(self._play(scenario))
            finally:
                self.file.statement = lambda text: None
                for connection in self._connections:
                    connection.close()
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
        process = _process.get()
        if process is None:
            return
        words = text.split(None, 3)
        self.note(process, " ".join(words[: 3 if words[0] in ("INSERT", "DELETE") else 2]))
        process.point("statement")

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        """Ids, salts and the time that production code reads by itself."""
        drawn = random.Random(f"ids {self.seed}")
        system = SimpleNamespace(urandom=drawn.randbytes)
        watch = SimpleNamespace(time_ns=lambda: int((START.timestamp() + self.loop.time()) * 1e9), monotonic=self.loop.time)
        with (
            mock.patch.object(ids, "os", system),
            mock.patch.object(ids, "time", watch),
            mock.patch.object(audit_record, "os", system),
            mock.patch.object(rollout_keeping, "time", watch),
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


class _FaultLog(logging.Handler):
    """Finds what production code logs and goes on after: an error that nobody planned is a violation."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, (Crashed, AntiphonError, asyncio.CancelledError)):
            self._world.violate(f"unexpected {type(error).__name__}: {error}")


def _outcome(function: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return function(), None
    except BaseException as error:
        return None, error


def _resolve(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
