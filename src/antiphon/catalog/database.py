"""The catalog's database: connections, transactions and migration.

Invariants:
- What must commit together is in this one file; a write transaction holds the write lock from its first
  statement (``BEGIN IMMEDIATE``), so nothing it has read can change under it.
- An acknowledged commit is on disk (WAL with ``synchronous=FULL``).
- A thread that writes while another thread of this process writes waits on a lock, not on SQLite's busy
  handler, whose sleeps grow to 100 ms.
"""

from __future__ import annotations

import base64
import binascii
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, make_url

from antiphon.catalog import copies, schema
from antiphon.catalog.database_errors import BUSY_SECONDS, busy_error, translated_errors
from antiphon.core.clock import Clock, SystemClock
from antiphon.core.codec import Codec, PayloadContext, PlainCodec, pack, unpack
from antiphon.core.errors import (
    AntiphonError,
    CorruptionError,
    InvalidInputError,
    SetupError,
    UnavailableError,
)
from antiphon.core.scope import Scope

_BEGIN = "antiphon_begin"

Gather = Callable[[Sequence[Any], Connection], object]
"""Takes everything that a transaction gathered for it, right before the commit."""


class Database:
    """One catalog. Safe to share between threads; every process opens its own.

    Args:
        engine: a SQLAlchemy engine prepared by :meth:`open`.
        codec: seals payload columns.
        clock: stamps ``created_at`` columns.
    """

    def __init__(self, engine: sa.Engine, *, codec: Codec, clock: Clock) -> None:
        self._engine = engine
        self._writing = engine.execution_options(**{_BEGIN: "BEGIN IMMEDIATE"})
        self._write_lock = threading.Lock()
        self._writer: int | None = None
        self._connection: Connection | None = None
        self._gathered: list[tuple[Gather, Any]] = []
        self._identity = _identity(self.path)
        self.codec = codec
        self.clock = clock

    @classmethod
    def open(cls, url: str, *, codec: Codec | None = None, clock: Clock | None = None) -> Database:
        """Open ``sqlite:////absolute/path/catalog.db``; the file appears when it is missing.

        Raises:
            InvalidInputError: the URL is malformed or of a database that is not supported.
            SetupError: the folder does not exist or cannot be written.
        """
        parsed = _parse(url)
        engine = sa.create_engine(
            parsed,
            pool_size=8,
            max_overflow=32,
            hide_parameters=True,  # an error's text would hold what was to be stored
            connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False, "isolation_level": None},
        )
        sa.event.listen(engine, "connect", _configure)
        sa.event.listen(engine, "begin", _begin)
        database = cls(engine, codec=codec or PlainCodec(), clock=clock or SystemClock())
        try:
            with database.read() as connection:
                connection.exec_driver_sql("SELECT 1 FROM sqlite_master LIMIT 1")
            database._identity = _identity(database.path)
        except BaseException:
            engine.dispose()
            raise
        return database

    @property
    def path(self) -> Path:
        """The database's file."""
        return Path(str(self._engine.url.database))

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A write transaction: committed when the block ends, rolled back when it raises.

        Raises:
            UnavailableError: another writer held the lock for :data:`BUSY_SECONDS`. StorageFullError: the disk is full.
            CorruptionError: the file is damaged or no database.
        """
        me = threading.get_ident()
        if self._writer == me:
            raise AntiphonError(
                "A write transaction is already open in this thread.",
                where="catalog",
                next_step="Pass its connection as within=.",
            )
        self._require_in_place()
        if not self._write_lock.acquire(timeout=BUSY_SECONDS):
            raise busy_error()
        try:
            self._writer = me
            with translated_errors(), self._writing.begin() as connection:
                self._connection = connection
                yield connection
                self._hand_over(connection)
        finally:
            self._connection = None
            self._gathered.clear()
            self._writer = None
            self._write_lock.release()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A read transaction: all its statements see one state of the catalog.

        Raises:
            UnavailableError: the catalog is busy or away.
            CorruptionError: the file is damaged or no database.
        """
        self._require_in_place()
        with translated_errors(), self._engine.connect() as connection:
            yield connection

    def _require_in_place(self) -> None:
        """SQLite goes on with a file that was deleted, and makes an empty one for the next connection: what is written
        to either is lost."""
        found = _identity(self.path)
        if self._identity is None:  # It was closed, and is opened again with whatever file is there.
            self._identity = found
        if found != self._identity:
            raise UnavailableError(
                "The catalog's file was deleted or replaced while it was open.",
                where="catalog",
                next_step="Stop `antiphon up`, restore the file from a backup, and start again.",
            )

    @property
    def writer(self) -> Connection | None:
        """The write transaction that is open in this thread, if one is."""
        return self._connection if self._writer == threading.get_ident() else None

    def gather(self, sink: Gather, item: Any) -> None:
        """Let ``sink`` have an item right before this thread's write transaction commits: all that was gathered for
        it, in one call, in order. What it raises undoes the transaction.

        Raises:
            AntiphonError: no write transaction is open in this thread.
        """
        if self.writer is None:
            raise AntiphonError("No write transaction is open in this thread.", where="catalog")
        self._gathered.append((sink, item))

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """A part of this thread's write transaction that is undone by itself, with what it gathered."""
        connection, before = self.writer, len(self._gathered)
        assert connection is not None
        connection.exec_driver_sql("SAVEPOINT part")
        try:
            yield
        except Exception:
            del self._gathered[before:]
            connection.exec_driver_sql("ROLLBACK TO part")
            connection.exec_driver_sql("RELEASE part")
            raise
        connection.exec_driver_sql("RELEASE part")

    def _hand_over(self, connection: Connection) -> None:
        gathered: dict[Gather, list[Any]] = {}
        for sink, item in self._gathered:
            gathered.setdefault(sink, []).append(item)
        for sink, items in gathered.items():
            sink(items, connection)

    def writing(self, within: Connection | None) -> AbstractContextManager[Connection]:
        """``within`` itself when given, else an own write transaction."""
        return self.transaction() if within is None else nullcontext(within)

    def reading(self, within: Connection | None) -> AbstractContextManager[Connection]:
        """``within`` itself when given, else an own read transaction."""
        return self.read() if within is None else nullcontext(within)

    def rows(self, statement: sa.Executable, within: Connection | None = None) -> Sequence[Any]:
        """All rows of a query: tuples with names."""
        with self.reading(within) as connection:
            return connection.execute(statement).all()

    def first(self, statement: sa.Executable, within: Connection | None = None) -> sa.Row[Any] | None:
        """The first row of a query, if there is one."""
        with self.reading(within) as connection:
            return connection.execute(statement).first()

    def scalar(self, statement: sa.Executable, within: Connection | None = None) -> Any:
        """The first column of the first row of a query; ``None`` without a row."""
        with self.reading(within) as connection:
            return connection.execute(statement).scalar()

    def write(self, statement: sa.Executable, within: Connection | None = None) -> int:
        """Change rows; returns how many."""
        with self.writing(within) as connection:
            return int(connection.execute(statement).rowcount)

    def revision(self) -> str | None:
        """The schema's revision in the file, ``None`` for an empty file."""
        with self.read() as connection:
            if not sa.inspect(connection).has_table("alembic_version"):
                return None
            found: str | None = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
            return found

    def migrate(self) -> None:
        """Bring the schema to this version's revision, after a copy of the file was made. Safe when several processes
        do it at once; one that fails leaves the catalog as it was.

        Raises:
            SetupError: the file is of an unreleased or a newer version, is no Antiphon catalog, or there is no room
                for a copy of it.
        """
        if self.revision() == schema.REVISION:
            return
        from antiphon.catalog.migration import upgrade

        with self.transaction() as connection:
            upgrade(connection, self.path)

    def truncate_log(self) -> bool:
        """Copy the write-ahead log into the file and empty it, so that erased bytes leave the disk; copies that were
        made before migrations hold them too, and go.

        Returns:
            Whether it was emptied; ``False`` while a reader still needs it.
        """
        copies.remove(self.path)
        row = self._maintain("PRAGMA wal_checkpoint(TRUNCATE)")
        return row is not None and row[0] == 0

    def compact(self) -> None:
        """Write the file anew without free pages, and empty the log. Nothing else may have the catalog open."""
        self._maintain("VACUUM")
        self.truncate_log()

    def _maintain(self, statement: str) -> Any:
        """Run a statement that no transaction may hold, while no thread of this process writes; its first row."""
        with translated_errors(), self._write_lock, closing(self._engine.raw_connection()) as raw:
            cursor = raw.cursor()
            cursor.execute(statement)
            row = cursor.fetchone()
            cursor.close()
            return row

    def seal(self, scope: Scope, schema: str, subject: str, content: bytes) -> bytes:
        """A payload column's bytes."""
        return pack(self.codec.seal(content, PayloadContext(schema=schema, scope=scope, subject=subject)))

    def unseal(self, scope: Scope, schema: str, subject: str, packed: bytes) -> bytes:
        """The inverse of :meth:`seal`.

        Raises:
            CorruptionError: the column does not hold such a payload.
        """
        return self.codec.open(unpack(packed), PayloadContext(schema=schema, scope=scope, subject=subject))

    def seal_text(self, scope: Scope, schema: str, subject: str, text: str) -> str:
        """Like :meth:`seal`, for a column of text."""
        return base64.b64encode(self.seal(scope, schema, subject, text.encode())).decode()

    def unseal_text(self, scope: Scope, schema: str, subject: str, sealed: str) -> str:
        """The inverse of :meth:`seal_text`.

        Raises:
            CorruptionError: the column does not hold such a payload.
        """
        try:
            packed = base64.b64decode(sealed, validate=True)
        except (binascii.Error, ValueError) as error:
            raise CorruptionError(
                "Stored text is no envelope.", where=subject, next_step="Run `antiphon doctor`."
            ) from error
        return self.unseal(scope, schema, subject, packed).decode()

    def close(self) -> None:
        """Close every idle connection. Whatever is done after it opens the file anew."""
        self._engine.dispose()
        self._identity = None


def database_file(url: str) -> Path:
    """The file that a catalog's URL names.

    Raises:
        InvalidInputError, SetupError: as :meth:`Database.open`.
    """
    return Path(str(_parse(url).database))


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except sa.exc.ArgumentError:
        raise InvalidInputError(
            "`catalog.url` is no database URL.",
            where="catalog.url",
            next_step="Write sqlite:////absolute/path/catalog.db.",
        ) from None  # the URL may hold a password
    if parsed.get_backend_name() != "sqlite" or not parsed.database or parsed.database == ":memory:":
        raise InvalidInputError(
            f"A database of the kind {parsed.get_backend_name()!r} at this URL is no catalog this version can open.",
            where="catalog.url",
            next_step="Write sqlite:////absolute/path/catalog.db.",
        )
    folder = Path(parsed.database).parent
    if not folder.is_dir():
        raise SetupError(f"The folder {folder} does not exist.", where="catalog", next_step=f"mkdir -p {folder}")
    return parsed


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
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
