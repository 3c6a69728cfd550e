"""Threads of which one runs at a time: the simulation hands the baton to one and has it back when that one parks.

A function that production code runs in a thread is suspended in its middle that way, with its real stack, while others
go on. Each is a greenlet: handing over costs no turn of the operating system. They are kept for the next simulation of
this process of Python.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, SimpleNamespace

from greenlet import greenlet

PATIENCE = 60.0
"""Real seconds after which what runs waits for something that the simulation does not know."""


class StuckThreadError(BaseException):
    """What runs waits for something outside of the simulation."""


class BatonThread:
    """One thread. It runs only while :meth:`run` or :meth:`resume` waits for it.

    Attributes:
        depth: transactions that it has open.
    """

    def __init__(self, pool: BatonThreads) -> None:
        self._pool = pool
        self.depth = 0
        self._greenlet = greenlet(self._loop)
        self._job: Callable[[], None] | None = None
        self._thrown: BaseException | None = None

    def run(self, job: Callable[[], None]) -> None:
        """Run a job until it parks or ends; it raises nothing."""
        self._job = job
        self._hand_over()

    def resume(self, thrown: BaseException | None = None) -> None:
        """Let a parked job go on, or raise in it."""
        self._thrown = thrown
        self._hand_over()

    def park(self) -> None:
        """Give the baton back; called by the job itself. Returns, or raises what it was resumed with."""
        self._greenlet.parent.switch()
        thrown, self._thrown = self._thrown, None
        if thrown is not None:
            raise thrown

    def _hand_over(self) -> None:
        assert self._pool.current is None
        loop = asyncio.get_running_loop()
        self._pool.current = self
        asyncio._set_running_loop(None)  # A thread has none.
        try:
            self._greenlet.switch()
        finally:
            asyncio._set_running_loop(loop)
            self._pool.current = None

    def _loop(self) -> None:
        while True:
            job, self._job = self._job, None
            assert job is not None
            job()
            self._pool.idle.append(self)
            self._greenlet.parent.switch()


class BatonThreads:
    """The threads of this process of Python.

    Attributes:
        current: the one that runs; ``None`` in the event loop.
        module: stands for ``threading`` where production code asks which thread it is in.
    """

    def __init__(self) -> None:
        self.idle: list[BatonThread] = []
        self.current: BatonThread | None = None
        self.module = SimpleNamespace(get_ident=lambda: id(self.current), Lock=threading.Lock)

    def take(self) -> BatonThread:
        """A thread that does nothing."""
        return self.idle.pop() if self.idle else BatonThread(self)


@contextmanager
def patience(tell: Callable[[str], None]) -> Iterator[None]:
    """Tell where something waits for longer than :data:`PATIENCE`, and raise :class:`StuckThreadError` there.

    The second alarm counts: the first may only say that this process was stopped, or the machine asleep.
    """
    alarms = 0

    def give_up(number: int, frame: FrameType | None) -> None:
        nonlocal alarms
        alarms += 1
        if alarms == 1:
            return
        where = "".join(traceback.format_stack(frame))
        tell(f"something waits outside of the simulation:\n{where}")
        raise StuckThreadError

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE / 2, PATIENCE / 2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
