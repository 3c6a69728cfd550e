"""One process of a simulation: its clock, its view of the catalog, its tasks and threads, and its death."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec
from tests.simulation.batons import BatonThread, BatonThreads
from tests.simulation.catalog_file import CatalogView

from antiphon.catalog.database import Database
from antiphon.catalog.database_errors import BUSY_SECONDS, busy_error
from antiphon.core.codec import PlainCodec

if TYPE_CHECKING:
    from tests.simulation.world import World

START = datetime(2013, 4, 10, 12, tzinfo=UTC)
CLOCK_STEP = 5.0
"""Seconds by which a process's clock may be wrong, either way."""

THREADS = BatonThreads()
PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)


def current() -> tuple[Process, BatonThread | None]:
    """The process that asks and, unless it is in its event loop, the thread."""
    process = PROCESS.get()
    assert process is not None
    return process, THREADS.current


class Crashed(BaseException):
    """The process died: nothing after this moment happened in it."""


class Violation(AssertionError):
    """An invariant does not hold."""


class Faults(msgspec.Struct, frozen=True):
    """How often things go wrong in a world.

    Attributes:
        crash: chance of a death at one statement, commit or thread; ``restart`` seconds until the process is back.
        busy: chance that a transaction finds the catalog busy.
        deaf: chance that a process does not hear that another one committed.
        unsure: chance that a commit is done and reported as failed, as when a connection to a server breaks.
        pause: chance that a whole process stands still for up to ``stall`` seconds, as when its machine is suspended.
        slow: chance that a thread is held up for up to ``stall`` seconds before a transaction, or its result after it.
        renamed: chance that a process comes back under another name.
        clocks: chance that a process's clock is stepped when something happens to it.
    """

    crash: float = 0.0
    restart: float = 2.0
    busy: float = 0.0
    unsure: float = 0.0
    deaf: float = 0.0
    pause: float = 0.0
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
            unsure=random.choice((0.0, 0.0, 0.03)),
            deaf=random.choice((0.0, 0.2, 1.0)),
            pause=random.choice((0.0, 0.0, 0.03, 0.1)),
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
    """The clock of one process: the world's time, and what it is wrong by; ``latest`` is the latest that it told,
    ``recent`` are the last ones: it may have been set back since the latest."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.wrong = timedelta(0)
        self.latest = START
        self.recent = deque([START], maxlen=4)

    def now(self) -> datetime:
        found = START + timedelta(seconds=self._world.loop.time()) + self.wrong
        self.latest = max(self.latest, found)
        self.recent.append(found)
        return found

    def monotonic(self) -> float:
        return self._world.loop.time()


class Process:
    """One process of the platform, from its start to its death; the one after it is another.

    Attributes:
        name: what it calls itself; a process that comes back may have the same.
        label: name and number, unique in the world.
        points_left: moments until it dies.
        away: the catalog is away for it from its transaction of this number on, for so many seconds.
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
        self.points_left = world.points_until_crash()
        self.still_until = 0.0
        self.away: tuple[int, float] | None = None
        self._back_at = 0.0

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start a task of this process."""
        context = copy_context()
        context.run(PROCESS.set, self)
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
        world, thread = self.world, THREADS.current
        if thread is None or thread.depth:
            return
        if world.healed:
            delay = world.random.random() * 0.002
        elif world.random.random() < world.faults.slow:
            delay = world.random.random() * world.faults.stall
        else:
            delay = world.random.random() ** 4 * 0.05
        if not world.healed and world.random.random() < world.faults.pause:
            self.still_until = world.loop.time() + world.random.random() * world.faults.stall
            self.note(f"stands still until {self.still_until:.3f}")
        delay += self.still_for
        if not world.healed and world.random.random() < world.faults.clocks:
            self.step_clock()
        self.park(thread, delay)

    @property
    def still_for(self) -> float:
        """Seconds for which it still does nothing."""
        return max(0.0, self.still_until - self.world.loop.time())

    @contextmanager
    def reads(self) -> Iterator[None]:
        thread = THREADS.current or self.world.main
        thread.depth += 1
        try:
            yield
        finally:
            thread.depth -= 1

    @contextmanager
    def writes(self) -> Iterator[None]:
        world, thread = self.world, THREADS.current
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
        world, thread = self.world, THREADS.current
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
        if self.away is not None:
            transactions, seconds = self.away
            self.away = transactions - 1, seconds
            if transactions == 1:
                self._back_at = world.loop.time() + seconds
            return world.loop.time() < self._back_at
        found = not world.healed and world.random.random() < world.faults.busy
        if found:
            self.note("busy")
        return found

    def loses_a_ring(self) -> bool:
        return self.world.random.random() < self.world.faults.deaf

    def loses_the_answer(self) -> bool:
        world = self.world
        return not world.healed and world.random.random() < world.faults.unsure

    def point(self, where: str) -> None:
        self._require_alive()
        if self.world.healed:
            return
        self.points_left -= 1
        if self.points_left <= 0:
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
