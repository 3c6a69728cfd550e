"""Threads, queues and conditions of production code, as the simulation schedules them.

Nothing is held while a thread parks, so a condition needs no lock; who waits looks again whenever it is woken.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

from tests.simulation.batons import BatonThread
from tests.simulation.process import Process, current

from antiphon.catalog import group_commit
from antiphon.catalog.features import publications
from antiphon.governance.audit import writer as audit_writer


class CooperativeCondition:
    """``threading.Condition``."""

    def __init__(self) -> None:
        self._waiting: dict[BatonThread, Process] = {}

    def __enter__(self) -> CooperativeCondition:
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is held."""

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        process, thread = current()
        assert thread is not None
        loop = process.world.loop
        deadline = None if timeout is None else loop.time() + timeout
        while not (found := predicate()):
            if deadline is not None and loop.time() >= deadline:
                return found
            self._waiting[thread] = process
            if deadline is not None:
                loop.call_at(deadline, process.world.resume, process, thread)
            process.park(thread, None)
        return found

    def notify_all(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for thread, process in waiting.items():
            process.world.loop.call_later(process.world.wake_up(), process.world.resume, process, thread)


class CooperativeQueue:
    """``queue.SimpleQueue``."""

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._changed = CooperativeCondition()

    def put(self, item: Any) -> None:
        self._items.append(item)
        self._changed.notify_all()

    def get(self) -> Any:
        self._changed.wait_for(lambda: self._items)
        return self._items.popleft()

    def get_nowait(self) -> Any:
        if not self._items:
            raise queue.Empty
        return self._items.popleft()

    def qsize(self) -> int:
        return len(self._items)


class CooperativeThread:
    """``threading.Thread``."""

    def __init__(self, *, target: Callable[[], None], name: str, daemon: bool) -> None:
        self._target = target

    def start(self) -> None:
        process, _ = current()
        process.world.start_thread(process, self._target)

    def join(self, timeout: float | None = None) -> None:
        """Whoever stops a process in the simulation kills it."""


def _sleep(seconds: float) -> None:
    CooperativeCondition().wait_for(lambda: False, seconds)


@contextmanager
def cooperative() -> Iterator[None]:
    """Production's own threads are the simulation's."""
    ours = SimpleNamespace(Thread=CooperativeThread, Condition=CooperativeCondition, Lock=threading.Lock)
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(group_commit, "threading", ours))
        stack.enter_context(mock.patch.object(audit_writer, "threading", ours))
        queues = SimpleNamespace(SimpleQueue=CooperativeQueue, Empty=queue.Empty)
        stack.enter_context(mock.patch.object(group_commit, "queue", queues))
        stack.enter_context(mock.patch.object(publications, "time", SimpleNamespace(sleep=_sleep)))
        yield
