"""Group commit: one writer thread, and one disk flush for everything that waits for it.

Invariants: ``submit`` returns only after the commit that contains its effect; an item that fails is undone by
itself (a savepoint each, a lone one with its transaction); items are applied in the order in which they were submitted.

Method: group commit as in DeWitt et al., "Implementation techniques for main memory database systems" (1984):
while one group is being flushed the next one gathers, so that groups grow with load and a lone item never waits
for company.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from sqlalchemy.engine import Connection

from antiphon.catalog.database import Database
from antiphon.core.errors import CorruptionError, OverloadedError, UnavailableError

T = TypeVar("T")
_Item = tuple[Callable[[Connection], Any], "Future[Any]"]


class GroupCommit:
    """Commits small effects in groups.

    Args:
        database: the catalog.
        largest_group: most items in one transaction.
        most_waiting: items that may wait before more are refused.
    """

    def __init__(self, database: Database, *, largest_group: int = 256, most_waiting: int = 10_000) -> None:
        self._database = database
        self._largest = largest_group
        self._most_waiting = most_waiting
        self._waiting: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._closed = False
        self._closing = threading.Lock()
        self._thread = threading.Thread(target=self._write, name="group-commit", daemon=True)
        self._thread.start()

    async def submit(self, effect: Callable[[Connection], T]) -> T:
        """Run ``effect`` in the writer thread and return its value once it is committed.

        An effect whose caller was cancelled is committed all the same.

        Raises:
            OverloadedError: too many effects wait already.
            UnavailableError: the writer is closed, or the commit failed.
            Exception: whatever ``effect`` raised; nothing of it is committed then.
        """
        return await asyncio.shield(asyncio.wrap_future(self.enqueue(effect)))

    def enqueue(self, effect: Callable[[Connection], T]) -> Future[T]:
        """Like :meth:`submit`, for callers without an event loop: the future is done after the commit."""
        future: Future[T] = Future()
        with self._closing:
            if self._closed:
                raise UnavailableError(
                    "The writer is closed.", where="catalog", next_step="Send it to a process that runs."
                )
            if self._waiting.qsize() >= self._most_waiting:
                raise OverloadedError(
                    "Too many effects wait for the catalog.", where="catalog", next_step="Try again in a second."
                )
            self._waiting.put((effect, future))
        return future

    def close(self) -> None:
        """Commit what was submitted and stop the writer. More than once is harmless."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._waiting.put(None)
        self._thread.join()

    def _write(self) -> None:
        while (group := self._gather()) is not None:
            self._commit(group)

    def _gather(self) -> list[_Item] | None:
        first = self._waiting.get()
        if first is None:
            return None
        group = [first]
        while len(group) < self._largest:
            try:
                item = self._waiting.get_nowait()
            except queue.Empty:
                break
            if item is None:
                self._waiting.put(None)
                break
            group.append(item)
        return group

    def _commit(self, group: list[_Item]) -> None:
        outcomes: list[tuple[Future[Any], Any, BaseException | None]] = []
        try:
            with self._database.transaction() as connection:
                if len(group) == 1:  # Nobody else's effects are to be kept when it fails.
                    ((effect, future),) = group
                    outcomes.append((future, effect(connection), None))
                else:
                    outcomes += [(future, *self._apply(connection, effect)) for effect, future in group]
        except BaseException as error:
            if isinstance(error, CorruptionError) and len(group) > 1:
                # What one of them gathered cannot be kept (a tenant's damaged log): the others are not its.
                for item in group:
                    self._commit([item])
                return
            for _, future in group:
                _resolve(future, None, error)
            return
        for future, value, failure in outcomes:
            _resolve(future, value, failure)

    def _apply(self, connection: Connection, effect: Callable[[Connection], Any]) -> tuple[Any, BaseException | None]:
        try:
            with self._database.savepoint():
                return effect(connection), None
        except Exception as error:
            return None, error


def _resolve(future: Future[Any], value: Any, failure: BaseException | None) -> None:
    with contextlib.suppress(Exception):  # a caller that went away cancelled its future
        if failure is None:
            future.set_result(value)
        else:
            future.set_exception(failure)
