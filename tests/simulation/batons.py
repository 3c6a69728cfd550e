"""Threads of which one runs at a time: the simulation hands the baton to one and has it back when that one parks.

A function that production code runs in a thread is suspended in its middle that way, with its real stack, while others
go on. Threads are kept for the next simulation of this process of Python.
"""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

PATIENCE = 60.0
"""Real seconds after which a thread that holds the baton waits for something that the simulation does not know."""


class BatonThread:
    """One thread. It runs only while :meth:`run` or :meth:`resume` waits for it.

    Attributes:
        depth: transactions that it has open.
    """

    def __init__(self, pool: BatonThreads) -> None:
        self._pool = pool
        self.depth = 0
        self._go = threading.Lock()
        self._back = threading.Lock()
        self._go.acquire()
        self._back.acquire()
        self._job: Callable[[], None] | None = None
        self._thrown: BaseException | None = None
        self._thread = threading.Thread(target=self._loop, name="simulated", daemon=True)
        self._thread.start()

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
        self._back.release()
        self._go.acquire()
        thrown, self._thrown = self._thrown, None
        if thrown is not None:
            raise thrown

    def _hand_over(self) -> None:
        self._go.release()
        if not self._back.acquire(timeout=PATIENCE):
            frame = sys._current_frames().get(self._thread.ident or 0)
            where = "".join(traceback.format_stack(frame)) if frame is not None else ""
            raise RuntimeError(f"A thread waits for something outside of the simulation:\n{where}")

    def _loop(self) -> None:
        self._pool.of_thread.mine = self
        while True:
            self._go.acquire()
            job, self._job = self._job, None
            assert job is not None
            job()
            self._pool.idle.append(self)
            self._back.release()


class BatonThreads:
    """The threads of this process of Python."""

    def __init__(self) -> None:
        self.idle: list[BatonThread] = []
        self.of_thread: Any = threading.local()

    def take(self) -> BatonThread:
        """A thread that does nothing."""
        return self.idle.pop() if self.idle else BatonThread(self)

    @property
    def current(self) -> BatonThread | None:
        """The thread that asks; ``None`` in the event loop."""
        return getattr(self.of_thread, "mine", None)
