"""The catalog's database: connections, transactions and migration.

Invariants:
- What must commit together is in this one database; it has one writer at a time, from the first statement of a write
  transaction to its commit, so nothing a writer has read can change under it.
- An acknowledged commit is on disk.
- A thread that writes while another thread of this process writes waits on a lock here, not on the database: SQLite's
  busy handler sleeps for up to 100 ms, and PostgreSQL would keep a connection for each that waits.
"""

from __future__ import annotations

import base64
import binascii
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa
from prometheus_client import Counter
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.pool import QueuePool

from antiphon.catalog import schema
from antiphon.catalog.database_errors import BUSY_SECONDS, busy_error, translated_errors
from antiphon.catalog.doorbell import Doorbell, NotificationChannel, Topic, ring_name
from antiphon.catalog.moves import counted_moves, require_unmoved
from antiphon.catalog.postgres_server import PostgresAccess, PostgresServer
from antiphon.catalog.sqlite_file import SqliteFile
from antiphon.catalog.write_delays import WriteDelays
from antiphon.core.clock import Clock
from antiphon.core.codec import Codec, PayloadContext, PlainCodec, pack, unpack
from antiphon.core.errors import AntiphonError, CorruptionError, InvalidInputError
from antiphon.core.scope import Scope

Gather = Callable[[Sequence[Any], Connection], object]
"""Takes everything that a transaction gathered for it, right before the commit."""


class Backend(Protocol):
    """The place of a catalog: :class:`SqliteFile` or :class:`PostgresServer`."""

    @property
    def place(self) -> str:
        """Its path, or its URL without the password."""
        ...

    @property
    def url(self) -> str:
        """Its URL with everything that opens it; not for a message."""
        ...

    @property
    def engine(self) -> sa.Engine: ...

    @property
    def clock(self) -> Clock:
        """The clock that all who share the catalog agree on."""
        ...

    @property
    def most_connections(self) -> int:
        """Connections that one process opens at once at most."""
        ...

    @property
    def channel(self) -> NotificationChannel:
        """Carries rings of the doorbell to other processes."""
        ...

    def exists(self) -> bool: ...

    def described(self) -> str: ...

    def connect(self) -> None: ...

    def require_in_place(self) -> None: ...

    def require_writable(self) -> None: ...

    def reading(self) -> AbstractContextManager[Connection]: ...

    def writing(self) -> AbstractContextManager[Connection]: ...

    def allow_pauses(self, connection: Connection) -> None: ...

    def translated(self, error: sa.exc.DBAPIError) -> Exception | None: ...

    def back_up(self, revision: str) -> str: ...

    def erase_free_space(self) -> bool: ...

    def compact(self) -> None: ...

    def close(self) -> None: ...


class Database:
    """One catalog. Safe to share between threads; every process opens its own.

    Args:
        codec: seals payload columns.
        clock: stamps ``created_at`` columns; by default that of the place.
    """

    def __init__(self, backend: Backend, *, codec: Codec, clock: Clock | None) -> None:
        self.backend = backend
        self._write_lock = threading.Lock()
        self._writer: int | None = None
        self._connection: Connection | None = None
        self._gathered: list[tuple[Gather, Any]] = []
        self._rung: set[str] = set()
        self._moves: int | None = None
        self.codec = codec
        self.clock = clock or backend.clock
        self.doorbell = Doorbell(backend.channel, self.clock.monotonic)
        self.write_delays = WriteDelays(self.clock)
        self.refused = Counter("antiphon_catalog_errors", "Statements that the catalog refuses.", registry=None)

    @classmethod
    def open(cls, url: str, *, codec: Codec | None = None, clock: Clock | None = None) -> Database:
        """Open ``sqlite:////absolute/path/catalog.db`` (the file appears when it is missing) or
        ``postgresql://user@host/database``.

        Raises:
            InvalidInputError: the URL is malformed or of a database that is not supported.
            SetupError: the folder does not exist or cannot be written; the server refuses the user.
            UnavailableError: the server does not answer.
        """
        return cls.of(backend_of(url), codec=codec, clock=clock)

    @classmethod
    def of(cls, backend: Backend, *, codec: Codec | None = None, clock: Clock | None = None) -> Database:
        """Open the catalog at a place; raises as :meth:`open`."""
        try:
            with translated_errors(backend.translated):
                backend.connect()
        except BaseException:
            backend.close()
            raise
        return cls(backend, codec=codec or PlainCodec(), clock=clock)

    @property
    def path(self) -> Path:
        """The file of an embedded catalog.

        Raises:
            AntiphonError: the catalog is on a server.
        """
        if not isinstance(self.backend, SqliteFile):
            raise AntiphonError("The catalog is on a server and no file.", where=self.backend.place)
        return self.backend.path

    def _errors(self) -> AbstractContextManager[None]:
        return translated_errors(self.backend.translated, self.refused.inc)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A write transaction: committed when the block ends, rolled back when it raises.

        Raises:
            UnavailableError: another writer held the lock for :data:`BUSY_SECONDS`. StorageFullError: the disk is full.
            CorruptionError: the file is damaged or no database. ProjectMovedError: as :meth:`require_unmoved`.
        """
        me = threading.get_ident()
        if self._writer == me:
            raise AntiphonError(
                "A write transaction is already open in this thread.",
                where="catalog",
                next_step="Pass its connection as within=.",
            )
        self.backend.require_in_place()
        if not self._write_lock.acquire(timeout=BUSY_SECONDS):
            raise busy_error()
        rung: frozenset[str] = frozenset()
        try:
            self._writer, began = me, self.clock.monotonic()
            with (
                self.write_delays.refusals(),
                self._errors(),
                self.backend.writing() as connection,
            ):
                self.write_delays.note(began)
                self._connection = connection
                if self._moves is not None:
                    require_unmoved(connection, self._moves, self.backend.place)
                yield connection
                self._hand_over(connection)
                rung = frozenset(self._rung)
                if rung:
                    self.backend.channel.notify(connection, rung)
        finally:
            self._connection = None
            self._gathered.clear()
            self._rung.clear()
            self._writer = None
            self._write_lock.release()
        if rung:
            self.doorbell.committed(rung)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A read transaction: all its statements see one state of the catalog.

        Raises:
            UnavailableError: the catalog is busy or away.
            CorruptionError: the file is damaged or no database.
        """
        self.backend.require_in_place()
        with self._errors(), self.backend.reading() as connection:
            yield connection

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

    def ring(self, topic: Topic, scope: Scope) -> None:
        """Wake who waits for this in the scope's environment, in every process, once this thread's write transaction
        is committed.

        Raises:
            AntiphonError: no write transaction is open in this thread.
        """
        if self.writer is None:
            raise AntiphonError("No write transaction is open in this thread.", where="catalog")
        self._rung.add(ring_name(topic, scope.environment))

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

    def fence(self) -> None:
        """Refuse write transactions once the project is moved from here (``catalog/moves.py``)."""
        with self.read() as connection:
            self._moves = counted_moves(connection)

    def require_unmoved(self) -> None:
        """Refuse what must not be acknowledged once the project was moved.

        Raises:
            ProjectMovedError: it was, since :meth:`fence`.
        """
        if self._moves is not None:
            with self.read() as connection:
                require_unmoved(connection, self._moves, self.backend.place)

    def revision(self) -> str | None:
        """The schema's revision in the file, ``None`` for an empty file."""
        with self.read() as connection:
            if not sa.inspect(connection).has_table("alembic_version"):
                return None
            found: str | None = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
            return found

    def require_writable(self) -> None:
        """Raise ``UnavailableError`` where the place takes no writes, and what else keeps it from answering."""
        with self._errors():
            self.backend.require_writable()

    def migrate(self) -> None:
        """Bring the schema to this version's revision; of a file a copy is made before. Safe when several processes do
        it at once; one that fails leaves the catalog as it was.

        Raises:
            SetupError: the file is of an unreleased or a newer version, is no Antiphon catalog, or there is no room
                for a copy of it.
        """
        if self.revision() == schema.REVISION:
            return
        from antiphon.catalog.migration import upgrade

        with self.transaction() as connection:
            self.backend.allow_pauses(connection)
            upgrade(connection, self.backend.back_up)

    def erase_free_space(self) -> bool:
        """Let erased bytes leave the disk, as far as the place can: rows that were deleted, and logs of them.

        Returns:
            Whether they are gone; ``False`` while a reader still needs them, and on a server, whose own log and backups
            keep them (docs/encryption.md, Erasing).
        """
        with self._errors(), self._write_lock:
            return self.backend.erase_free_space()

    def compact(self) -> None:
        """Write the tables anew without free space. Nothing else may have the catalog open."""
        with self._errors(), self._write_lock:
            self.backend.compact()
        self.erase_free_space()

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

    def connections(self) -> tuple[int, int]:
        """Connections that this process uses now, and the most that it may use at once."""
        pool = self.backend.engine.pool
        return (pool.checkedout() if isinstance(pool, QueuePool) else 0), self.backend.most_connections

    def close(self) -> None:
        """Close every idle connection and the doorbell. Whatever is done after it opens the place anew."""
        self.doorbell.close()
        self.backend.close()


def backend_of(url: str, access: PostgresAccess | None = None) -> Backend:
    """The place that a catalog's URL names; nothing is opened yet.

    Args:
        access: to a server; what the URL itself says by default.

    Raises:
        InvalidInputError, SetupError: as :meth:`Database.open`.
    """
    known = "Write sqlite:////absolute/path/catalog.db or postgresql://user@host/database."
    try:
        parsed: URL = make_url(url)
    except sa.exc.ArgumentError:
        raise InvalidInputError(
            "`catalog.url` is no database URL.", where="catalog.url", next_step=known
        ) from None  # the URL may hold a password
    match parsed.get_backend_name():
        case "sqlite":
            return SqliteFile(parsed)
        case "postgresql" | "postgres":
            return PostgresServer(parsed, access or PostgresAccess())
        case other:
            raise InvalidInputError(
                f"A database of the kind {other!r} is no catalog this version can open.",
                where="catalog.url",
                next_step=known,
            )
