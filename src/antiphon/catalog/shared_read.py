"""Read transactions: one for each read, or one for all reads of a thread's look at the catalog."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol, TypeVar

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

T = TypeVar("T")


class ReadableBackend(Protocol):
    """The part of a catalog's place that reads need."""

    def require_in_place(self) -> None: ...

    def reading(self) -> AbstractContextManager[Connection]: ...


class _Look(threading.local):
    """A thread's look: whether one lasts, its transaction once something was read, the reads inside it, and what they
    found."""

    lasts = False
    transaction: ExitStack | None = None
    connection: Connection | None = None
    readers = 0
    outdated = False

    def __init__(self) -> None:
        self.found: dict[Hashable, Any] = {}


class SharedReads:
    """Opens read transactions of a catalog; within a look a thread has one for all of its reads."""

    def __init__(self, backend: ReadableBackend) -> None:
        self._backend = backend
        self._look = _Look()

    @contextmanager
    def look(self) -> Iterator[None]:
        """Reads of this thread share a transaction within; one look within another is a part of it."""
        if self._look.lasts:
            yield
            return
        self._look.lasts = True
        try:
            yield
        finally:
            self._look.lasts = False
            self._end()

    def renew(self) -> None:
        """Let this thread's next read see what is committed by then; one that goes on sees what it saw."""
        self._look.outdated = self._look.connection is not None

    def once(self, key: Hashable, read: Callable[[], T]) -> T:
        """The result of a read; a look finds it once, for all of its reads see one state."""
        look = self._look
        if not look.lasts:
            return read()
        self._refresh()
        if look.outdated:
            return read()
        if key not in look.found:
            look.found[key] = read()
        found: T = look.found[key]
        return found

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """The transaction of the look that lasts, or one of its own."""
        look = self._look
        if not look.lasts:
            self._backend.require_in_place()
            with self._backend.reading() as connection:
                yield connection
            return
        self._refresh()
        if look.connection is None:
            self._backend.require_in_place()
            transaction = ExitStack()
            look.connection = transaction.enter_context(self._backend.reading())
            look.transaction = transaction
        look.readers += 1
        try:
            yield look.connection
        except DBAPIError:
            look.outdated = True  # A server refuses whatever follows in this transaction.
            raise
        finally:
            look.readers -= 1

    def _refresh(self) -> None:
        if self._look.outdated and not self._look.readers:
            self._end()

    def _end(self) -> None:
        look = self._look
        look.found.clear()
        transaction, look.transaction, look.connection, look.outdated = look.transaction, None, None, False
        if transaction is not None:
            transaction.close()
