"""A catalog in a file of SQLite: the embedded one.

Invariants:
- A write transaction holds the write lock from its first statement (``BEGIN IMMEDIATE``), so nothing it has read can
  change under it.
- An acknowledged commit is on disk (WAL with ``synchronous=FULL``).
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import AbstractContextManager, closing
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection

from antiphon.catalog import copies
from antiphon.catalog.database_errors import BUSY_SECONDS, busy_error, damaged_error, other_schema_error
from antiphon.catalog.dialect import ROWCOUNT
from antiphon.catalog.pipe_channel import PipeChannel
from antiphon.core.clock import Clock, SystemClock
from antiphon.core.errors import InvalidInputError, SetupError, StorageFullError, UnavailableError

_BEGIN = "antiphon_begin"
_KEPT_CONNECTIONS = 8


class SqliteFile:
    """The file that ``sqlite:////absolute/path/catalog.db`` names; it appears when it is missing.

    Raises:
        InvalidInputError: the URL names no file. SetupError: its folder does not exist.
    """

    clock: Clock = SystemClock()
    most_connections = 40

    def __init__(self, url: URL) -> None:
        if not url.database or url.database == ":memory:":
            raise InvalidInputError(
                "The URL of SQLite names no file.",
                where="catalog.url",
                next_step="Write sqlite:////absolute/path/catalog.db.",
            )
        self.path = Path(url.database)
        if not self.path.parent.is_dir():
            raise SetupError(
                f"The folder {self.path.parent} does not exist.",
                where="catalog",
                next_step=f"mkdir -p {self.path.parent}",
            )
        self.channel = PipeChannel(self.path.parent / "run" / "doorbell")
        self.engine = sa.create_engine(
            url,
            pool_size=_KEPT_CONNECTIONS,
            max_overflow=self.most_connections - _KEPT_CONNECTIONS,
            hide_parameters=True,  # an error's text would hold what was to be stored
            execution_options=ROWCOUNT,
            connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False, "isolation_level": None},
        )
        sa.event.listen(self.engine, "connect", _configure)
        sa.event.listen(self.engine, "begin", _begin)
        self._writing = self.engine.execution_options(**{_BEGIN: "BEGIN IMMEDIATE"})
        self._identity = self._found()

    @property
    def place(self) -> str:
        """The file's path."""
        return str(self.path)

    @property
    def url(self) -> str:
        """The URL that opens it."""
        return f"sqlite:///{self.path}"

    def exists(self) -> bool:
        """True when the file is there; opening it would make it."""
        return self.path.exists()

    def described(self) -> str:
        """The kind and version of the database."""
        return f"SQLite {sqlite3.sqlite_version}"

    def connect(self) -> None:
        """Make the file and see whether it is a database."""
        with self.engine.connect() as connection:
            connection.exec_driver_sql("SELECT 1 FROM sqlite_master LIMIT 1")
        self._identity = self._found()

    def reading(self) -> AbstractContextManager[Connection]:
        """A read transaction: all its statements see one state."""
        return self.engine.connect()

    def writing(self) -> AbstractContextManager[Connection]:
        """A write transaction, which holds the write lock."""
        return self._writing.begin()

    def require_writable(self) -> None:
        """A file that was opened is written to until its disk is full, which each write tells."""

    def require_in_place(self) -> None:
        """SQLite goes on with a file that was deleted, and makes an empty one for the next connection: what is written
        to either is lost.

        Raises:
            UnavailableError: another file is there than the one that was opened.
        """
        found = self._found()
        if self._identity is None:  # It was closed, and is opened again with whatever file is there.
            self._identity = found
        if found != self._identity:
            raise UnavailableError(
                "The catalog's file was deleted or replaced while it was open.",
                where="catalog",
                next_step="Stop `antiphon up`, restore the file from a backup, and start again.",
            )

    def allow_pauses(self, connection: Connection) -> None:
        """A transaction in a file may pause."""

    def translated(self, error: sa.exc.DBAPIError) -> Exception | None:
        """The error that says what to do about one of the driver's; ``None`` when there is none better."""
        text = str(error.orig)
        if isinstance(error, sa.exc.OperationalError):
            if "decode to UTF-8" in text:
                return damaged_error("a text in it is not UTF-8")
            if "locked" in text or "busy" in text:
                return busy_error()
            if "no such table" in text or "no such column" in text:
                return other_schema_error(text)
            if "full" in text:
                return StorageFullError(
                    f"The catalog cannot be written: {text}.",
                    where="catalog",
                    next_step="Free disk space and try again.",
                )
            return UnavailableError(
                f"The catalog cannot be used: {text}.", where="catalog", next_step="Check disk space and permissions."
            )
        return damaged_error(text) if "malformed" in text or "not a database" in text else None

    def back_up(self, revision: str) -> str:
        """Copy the file before a migration from this revision; where the copy is.

        Raises:
            SetupError: there is no room for it.
        """
        return f"{copies.make(self.path, revision)} is a copy of it"

    def erase_free_space(self) -> bool:
        """Copy the write-ahead log into the file and empty it, so that erased bytes leave the disk; copies that were
        made before migrations hold them too, and go.

        Returns:
            Whether it was emptied; ``False`` while a reader still needs it.
        """
        copies.remove(self.path)
        row = self._maintain("PRAGMA wal_checkpoint(TRUNCATE)")
        return row is not None and row[0] == 0

    def compact(self) -> None:
        """Write the file anew without free pages. Nothing else may have the catalog open."""
        self._maintain("VACUUM")

    def close(self) -> None:
        """Close every idle connection."""
        self.engine.dispose()
        self._identity = None

    def _maintain(self, statement: str) -> tuple[object, ...] | None:
        with closing(self.engine.raw_connection()) as raw:
            cursor = raw.cursor()
            cursor.execute(statement)
            row: tuple[object, ...] | None = cursor.fetchone()
            cursor.close()
            return row

    def _found(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino


def _configure(raw: sqlite3.Connection, _record: object) -> None:
    cursor = raw.cursor()
    cursor.execute(f"PRAGMA busy_timeout={int(BUSY_SECONDS * 1000)}")
    _enter_wal(cursor)
    for pragma in ("synchronous=FULL", "foreign_keys=ON", "secure_delete=ON", "temp_store=MEMORY", "cache_size=-16000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _enter_wal(cursor: sqlite3.Cursor) -> None:
    # Changing the journal mode does not go through the busy handler; only the first opener of a file changes it.
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.005)


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get(_BEGIN, "BEGIN"))
