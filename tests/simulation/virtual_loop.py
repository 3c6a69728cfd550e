"""An event loop in virtual time: nothing waits, and what happens depends on the seed alone.

Invariants:
- Time moves only when nothing is ready, and then to the next timer.
- Sets of tasks and futures iterate in the same order in every process: their hash is their number, not their address.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Any

Executed = Callable[[Callable[[], Any], "asyncio.Future[Any]"], None]
"""Runs a function that was handed to an executor, and resolves its future."""

_numbers = count()


class NumberedFuture(asyncio.Future[Any]):
    """A future whose hash is its number."""

    def __new__(cls, *args: Any, **options: Any) -> NumberedFuture:
        made = super().__new__(cls)
        made.number = next(_numbers)
        return made

    def __hash__(self) -> int:
        return self.number


class NumberedTask(asyncio.Task[Any]):
    """A task whose hash is its number."""

    def __new__(cls, *args: Any, **options: Any) -> NumberedTask:
        made = super().__new__(cls)
        made.number = next(_numbers)
        return made

    def __hash__(self) -> int:
        return self.number


class StuckError(Exception):
    """Nothing is ready, no timer runs, and the simulation is not over."""


class VirtualLoop(asyncio.BaseEventLoop):
    """The event loop of one simulation.

    Args:
        execute: takes what ``run_in_executor`` and ``asyncio.to_thread`` hand over.
        made: told of every task.
    """

    def __init__(self, execute: Executed, made: Callable[[asyncio.Task[Any]], None]) -> None:
        global _numbers
        super().__init__()
        _numbers = count()
        self._now = 0.0
        self._selector = self  # BaseEventLoop waits by self._selector.select().
        self._clock_resolution = 1e-9
        self._execute = execute
        self._made = made
        self.set_task_factory(self._task)

    def time(self) -> float:
        """Virtual seconds since the start."""
        return self._now

    def select(self, timeout: float | None) -> list[Any]:
        """Move time instead of waiting."""
        if timeout is None:
            raise StuckError("Nothing is ready and no timer runs.")
        self._now += max(timeout, 0.0)
        return []

    def create_future(self) -> asyncio.Future[Any]:
        return NumberedFuture(loop=self)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        future = self.create_future()
        self._execute(lambda: func(*args), future)
        return future

    def _task(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        task = NumberedTask(coroutine, loop=loop, **options)
        self._made(task)
        return task

    def _process_events(self, events: Any) -> None:
        pass

    def _write_to_self(self) -> None:
        pass
