"""The catalog of simulations: a real file of SQLite in memory, as new for each seed, and its view by one process.

A process parks before each transaction and, while it holds the write lock, before the commit; it may die at each
statement, before the commit and right after it, and may find the catalog busy. Between the statements of a transaction
nothing happens elsewhere: it holds the write lock, or it reads one state, so that others would make no difference.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy.engine import Connection, make_url

from antiphon.catalog.database import Database
from antiphon.catalog.database_errors import busy_error
from antiphon.catalog.sqlite_file import SqliteFile
from antiphon.core.clock import Clock


class CatalogFile:
    """One file that every simulation of this process of Python uses, one after another.

    Attributes:
        statement: told of every statement before it runs; what it raises undoes the transaction.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "catalog.db"
        made = Database.open(f"sqlite:///{self.path}")
        made.migrate()
        made.close()
        self.sqlite = SqliteFile(make_url(f"sqlite:///{self.path}"))
        self.channels: list[RingChannel] = []
        self.statement: Callable[[str], None] = lambda text: None
        self._spare: list[sqlite3.Connection] = []
        self._tables = self._empty_tables()
        sa.event.listen(self.sqlite.engine, "connect", _without_flushes)
        sa.event.listen(self.sqlite.engine, "before_cursor_execute", self._executing)
        sa.event.listen(self.sqlite.engine, "handle_error", _keep_connected)
        self.sqlite.connect()

    def reset(self) -> None:
        """Bring it back to an empty catalog, that nobody hears of. Connections stay open, with what they prepared."""
        self.channels.clear()
        connection = self.connection()
        connection.execute("BEGIN IMMEDIATE")
        for table in self._tables:
            connection.execute(f"DELETE FROM {table}")
        connection.execute("COMMIT")
        self.give_back(connection)

    def connection(self) -> sqlite3.Connection:
        """A connection beside SQLAlchemy, for checks."""
        if self._spare:
            return self._spare.pop()
        return sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)

    def give_back(self, connection: sqlite3.Connection) -> None:
        """Keep a connection for the next simulation."""
        self._spare.append(connection)

    def close(self) -> None:
        """Close every connection."""
        for connection in self._spare:
            connection.close()
        self.sqlite.close()

    def _empty_tables(self) -> list[str]:
        connection = self.connection()
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        empty = [name for name in tables if connection.execute(f"SELECT 1 FROM {name}").fetchone() is None]
        assert {*tables} - {*empty} == {"alembic_version"}, "A new catalog is not empty, and would not be as new."
        self.give_back(connection)
        return empty

    def _executing(self, connection: Any, cursor: Any, text: str, parameters: Any, context: Any, many: bool) -> None:
        self.statement(text)


def _without_flushes(raw: sqlite3.Connection, record: object) -> None:
    # No power is cut here: a commit is durable because the machine goes on.
    raw.execute("PRAGMA synchronous=OFF")


def _keep_connected(context: sa.engine.ExceptionContext) -> None:
    # SQLAlchemy gives a connection up after what is no Exception. The death of a process undoes its transaction alone.
    context.is_disconnect = False


class CatalogUser(Protocol):
    """A process as its view of the catalog sees it."""

    def loses_a_ring(self) -> bool:
        """Whether another process does not hear of a commit."""
        ...

    def before_transaction(self) -> None:
        """Park; raises when the process is dead."""

    def finds_it_busy(self) -> bool: ...

    def loses_the_answer(self) -> bool:
        """Whether a commit that is done is reported as failed."""
        ...

    def point(self, where: str) -> None:
        """A moment at which it may die."""

    def note(self, what: str) -> None: ...

    def reads(self) -> AbstractContextManager[None]:
        """A read transaction: nothing parks in it."""
        ...

    def writes(self) -> AbstractContextManager[None]:
        """A write transaction, of which there is one at a time: it waits for the one before."""
        ...

    def commits(self) -> None:
        """The disk takes its time; others read meanwhile."""

    def committed(self) -> None:
        """A write transaction of it is committed, and the process does not know yet."""


class RingChannel:
    """Carries rings between the simulated processes of a file; some are lost."""

    def __init__(self, file: CatalogFile, user: CatalogUser) -> None:
        self._file = file
        self._user = user
        self._deliver: Callable[[Collection[str] | None], None] | None = None

    def notify(self, connection: Connection, names: Collection[str]) -> None:
        """A file rings after the commit."""

    def committed(self, names: Collection[str]) -> None:
        for other in [*self._file.channels]:
            if other is not self and other._deliver is not None and not self._user.loses_a_ring():
                other._deliver(names)

    def open(self, deliver: Callable[[Collection[str] | None], None]) -> None:
        self._deliver = deliver
        self._file.channels.append(self)

    def close(self) -> None:
        self._deliver = None
        self._file.channels.remove(self)


class CatalogView:
    """One process's backend of the shared file."""

    def __init__(self, file: CatalogFile, user: CatalogUser, clock: Clock) -> None:
        self._file = file
        self._user = user
        self.clock = clock
        self.place = file.sqlite.place
        self.url = file.sqlite.url
        self.engine = file.sqlite.engine
        self.channel = RingChannel(file, user)

    def exists(self) -> bool:
        return True

    def described(self) -> str:
        return self._file.sqlite.described()

    def connect(self) -> None:
        """It is connected."""

    def require_in_place(self) -> None:
        """Called before each transaction, outside of every lock: others go on here."""
        self._user.before_transaction()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        if self._user.finds_it_busy():
            raise busy_error()
        with self._user.reads(), self._file.sqlite.reading() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        if self._user.finds_it_busy():
            raise busy_error()
        try:
            with self._user.writes(), self._file.sqlite.writing() as connection:
                yield connection
                self._user.commits()
                self._user.point("before commit")
                if self._user.finds_it_busy():
                    raise busy_error()
        except BaseException as error:
            self._user.note(f"undone {type(error).__name__}")
            raise
        self._user.note("commit")
        self._user.committed()
        self._user.point("after commit")
        if self._user.loses_the_answer():
            raise busy_error()

    def translated(self, error: sa.exc.DBAPIError) -> Exception | None:
        return self._file.sqlite.translated(error)

    def back_up(self, revision: str) -> str:
        raise NotImplementedError

    def erase_free_space(self) -> bool:
        return True

    def compact(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """The file stays open for the others."""
