"""A catalog on a PostgreSQL server, shared by as many processes and hosts as have its URL.

Invariants:
- A write transaction first takes the catalog's advisory lock: what it reads is committed, and nobody changes it before
  this transaction ends. It reads at READ COMMITTED, because a snapshot taken before the lock was granted would be old.
- A read transaction is REPEATABLE READ: all its statements see one state.
- An acknowledged commit is on the server's disk (``synchronous_commit``).
- A client that hangs inside a transaction, or whose host is gone, loses the lock within :data:`LOST_SECONDS`; in a
  migration within the minute that it may pause.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection

from antiphon.catalog.database_errors import BUSY_SECONDS, busy_error, other_schema_error
from antiphon.catalog.dialect import ROWCOUNT
from antiphon.catalog.notify_channel import NotifyChannel
from antiphon.catalog.schema import metadata
from antiphon.core.clock import Clock, SystemClock
from antiphon.core.errors import InvalidInputError, SetupError, StorageFullError, UnavailableError
from antiphon.core.tls import ClientTls

_log = logging.getLogger(__name__)

OLDEST = 15
"""The oldest major version of a server that is tested."""

LOST_SECONDS = 2
"""After this the server ends a transaction in which nothing happens: its client hangs, or its host is gone. Those of a
host that is gone are granted the lock one after another where they had asked for it, and together have it for less than
:data:`BUSY_SECONDS`, so that those who wait get it."""

_MIGRATING_SECONDS = 60
_CONNECT_SECONDS = 5
_LOCK_SPACE = 0x416E7469
"""``Anti`` in ASCII: the class of our advisory locks; the object is the schema's name."""

_LOCK = f"SELECT pg_advisory_xact_lock({_LOCK_SPACE}, hashtext(current_schema())), clock_timestamp()"

_OPTIONS = {
    "lock_timeout": f"{BUSY_SECONDS:.0f}s",
    "idle_in_transaction_session_timeout": f"{LOST_SECONDS}s",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "10s",
}
"""The server forgets a host that is gone after about 10 s, as the host forgets it. Without the last one a connection
that listens would keep its place for a quarter of an hour: a notification that is not acknowledged stops keep-alive."""

_KEEPALIVES = {
    "keepalives_idle": "5",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}
"""After 15 s this end, too, knows that the server's host is gone. Keep-alive tells a connection that listens and sends
nothing; one that has sent a statement is told by the timeout of what is not acknowledged, else after a quarter of an
hour."""

_CERTIFICATE = "certificate"

_SETUP = {
    _CERTIFICATE: (
        "has no certificate for its name that is trusted here, or refuses the one of this client",
        "Name the authority in [catalog] authority, and what to show in client_certificate and client_key.",
    ),
    "28": ("refuses the user", "Check the user and the password in catalog.url, and pg_hba.conf on the server."),
    "3D": ("has no such database", "Create it: createdb -h HOST -U USER NAME."),
    "3F": ("has no such schema", "Create it, or name another in search_path."),
    "42501": ("does not let this user", "GRANT CONNECT, CREATE ON DATABASE and CREATE, USAGE ON SCHEMA to the user."),
}
"""The beginning of an SQLSTATE to what is wrong with the server's set-up, and what to do."""

_TEXTS = {
    "authentication failed": "28P01",
    "no pg_hba.conf entry": "28000",
    "no password supplied": "28P01",
    "permission denied": "42501",
    "too many clients": "53300",
    "remaining connection slots": "53300",
    "certificate": _CERTIFICATE,
    "SSL error": _CERTIFICATE,
    "server does not support SSL": _CERTIFICATE,
    "does not exist": "3D000",
    "NUL (0x00)": "22021",
}


_IS_READ_ONLY = "SELECT current_setting('transaction_read_only')::bool"
_CLIENTS = "SELECT sum(numbackends) FROM pg_stat_database"
_RIGHTS = sa.text(
    "SELECT relname AS name, pg_has_role(relowner, 'USAGE') AS owned,"
    " has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'INSERT')"
    " AND has_table_privilege(oid, 'UPDATE') AND has_table_privilege(oid, 'DELETE') AS may"
    " FROM pg_class WHERE relkind = 'r' AND relnamespace = to_regnamespace(quote_ident(current_schema()))"
    " AND relname = ANY(:names)"
)
"""The catalog's tables that are there, and what the user may do to them. Others may be of another program."""


class ServerClock:
    """The server's clock, read from this machine's monotonic clock since the server last told the time.

    Hosts whose clocks differ agree on leases by it. It is behind by at most the time that an answer of the server
    takes, and by the drift of the monotonic clock since (:attr:`FRESH_SECONDS`).
    """

    FRESH_SECONDS = 30.0
    STEP_SECONDS = 1.0
    """A clock that went back by more is told: leases of processes that have ended last that much longer."""

    def __init__(self, local: Clock | None = None) -> None:
        self._local = local or SystemClock()
        self._lock = threading.Lock()
        self._reading: tuple[datetime, float] | None = None

    def now(self) -> datetime:
        """The server's time; this machine's before the server has told it."""
        with self._lock:
            reading = self._reading
        if reading is None:
            return self._local.now()
        return reading[0] + timedelta(seconds=self._local.monotonic() - reading[1])

    def monotonic(self) -> float:
        """Seconds that never go back, of this process."""
        return self._local.monotonic()

    @property
    def stale(self) -> bool:
        """True when the server should tell the time again."""
        with self._lock:
            return self._reading is None or self._local.monotonic() - self._reading[1] > self.FRESH_SECONDS

    def set(self, now: datetime, since: float | None = None) -> None:
        """Take the time that the server has just said, asked ``since`` then (monotonic seconds).

        It is taken also where the server's clock was set back: all who share the catalog agree on it.
        """
        now = now.astimezone(UTC)
        with self._lock:
            before, self._reading = self._reading, (now, self._local.monotonic())
        if before is None or since is None:
            return
        # What it would say at least: the answer may have been long on its way.
        back = (before[0] - now).total_seconds() + since - before[1]
        if back > self.STEP_SECONDS:
            _log.warning(
                "The clock of the PostgreSQL server went back by %.1f s. It counts: leases of processes that have "
                "ended last that much longer, and times may be before earlier ones. Have the server's clock slewed "
                "(chrony, ntpd), not set.",
                back,
            )


class PostgresAccess(msgspec.Struct, frozen=True):
    """Access to a server.

    Attributes:
        password: the user's; ``None`` leaves it to the URL and to libpq.
        schema: made when it is missing; ``None`` is the first of the user's ``search_path``.
        connections: most that this process opens, besides the one on which it hears notifications.
        tls: whom to trust and what to show. A server that is not on this machine is verified unless the URL says how
            (``sslmode``).
    """

    password: str | None = None
    schema: str | None = None
    connections: int = 10
    tls: ClientTls = ClientTls()


class PostgresServer:
    """The database that ``postgresql://user@host:port/database`` names, with libpq's parameters after ``?``.

    Raises:
        InvalidInputError: the URL names no database, or the schema's name is none. SetupError: the driver is not
            installed.
    """

    def __init__(self, url: URL, access: PostgresAccess) -> None:
        if not url.database:
            raise InvalidInputError(
                "The URL of PostgreSQL names no database.",
                where="catalog.url",
                next_step="Write postgresql://user@host/database.",
            )
        if access.schema is not None and not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", access.schema):
            raise InvalidInputError(
                f"{access.schema!r} is no name of a schema.",
                where="catalog.schema",
                next_step="Use lower-case letters, digits and underscores.",
            )
        self.url = url.render_as_string(hide_password=False)
        shown = url.set(drivername="postgresql", query={} if access.schema is None else {"schema": access.schema})
        self.place = shown.render_as_string(hide_password=True)
        self.clock = ServerClock()
        self.most_connections = access.connections
        self._access = access
        if access.password is not None:
            url = url.set(password=access.password)
        try:
            self.engine = sa.create_engine(
                url.set(drivername="postgresql+psycopg").update_query_dict(_parameters(url, access)),
                pool_size=access.connections,
                max_overflow=0,
                pool_timeout=BUSY_SECONDS,
                pool_pre_ping=True,  # A server that was started again is not told by the first statement's failure.
                hide_parameters=True,  # an error's text would hold what was to be stored
                execution_options=ROWCOUNT,
                connect_args={"connect_timeout": _CONNECT_SECONDS, "application_name": "antiphon"},
            )
        except ImportError as error:
            raise SetupError(
                "A catalog on PostgreSQL needs the driver psycopg.",
                where="catalog.url",
                next_step="pip install 'antiphon[postgres]'",
            ) from error
        sa.event.listen(self.engine, "checkout", _follow_default)
        self.channel = NotifyChannel(self.engine, self.place)
        self._reading = self.engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    def exists(self) -> bool:
        """Always true: a database on a server is made by its owner, not by opening it."""
        return True

    def described(self) -> str:
        """The server's version, how long it takes to answer, how far its clock is from this machine's, what the user
        may do to the tables, how many connections there are, and what is wrong with its settings.

        Raises:
            SetupError: the user lacks a right to rows of a table.
        """
        with self.engine.connect() as connection:
            version, fsync, most = (
                connection.exec_driver_sql(f"SHOW {name}").scalar()
                for name in ("server_version", "fsync", "max_connections")
            )
            took = []
            for _ in range(5):
                began, sent = time.perf_counter(), SystemClock().now()
                now: Any = connection.exec_driver_sql("SELECT clock_timestamp()").scalar()
                spent = time.perf_counter() - began
                took.append((spent, (now - sent).total_seconds() - spent / 2))
            used = connection.exec_driver_sql(_CLIENTS).scalar()
            rights = connection.execute(_RIGHTS, {"names": list(metadata.tables)}).all()
        if lacking := sorted(row.name for row in rights if not row.may):
            shown = ", ".join(lacking[:3]) + (f" and {len(lacking) - 3} more" if len(lacking) > 3 else "")
            raise SetupError(
                f"The user may not read and write every table of the catalog: {shown}.",
                where=self.place,
                next_step="GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA … TO the user.",
            )
        apart = min(took)[1]
        parts = [
            f"PostgreSQL {version}",
            f"answers in {1e3 * sorted(took)[2][0]:.1f} ms",
            f"clock {abs(apart):.3f} s {'behind' if apart < 0 else 'ahead of'} this machine's",
            f"reads and writes {len(rights)} tables",
            f"up to {self.most_connections} connections a process, {used} of the server's {most} in use",
        ]
        if not all(row.owned for row in rights):
            parts.append("THE TABLES ARE ANOTHER USER'S: an upgrade that changes them needs their owner")
        if fsync != "on":
            parts.append("FSYNC IS OFF: a power cut loses what was acknowledged")
        return ", ".join(parts)

    def connect(self) -> None:
        """See whether the server answers, is new enough and takes writes, and make the schema.

        Raises:
            SetupError: it is older than :data:`OLDEST`, or the user may not make tables. UnavailableError: it is a
                standby.
        """
        with self.engine.connect() as connection:
            version = connection.exec_driver_sql("SHOW server_version_num").scalar()
            if int(str(version)) < OLDEST * 10_000:
                shown = connection.exec_driver_sql("SHOW server_version").scalar()
                raise SetupError(
                    f"The PostgreSQL server is of version {shown}.",
                    where=self.place,
                    next_step=f"Use version {OLDEST} or newer.",
                )
            if connection.exec_driver_sql(_IS_READ_ONLY).scalar():
                raise self._read_only()
            self._make_schema(connection)
            self._tell_time(connection)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A read transaction: all its statements see one state."""
        with self._reading.connect() as connection:
            if self.clock.stale:
                self._tell_time(connection)
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A write transaction, which holds the catalog's lock."""
        with self.engine.begin() as connection:
            since = self.clock.monotonic()
            locked = connection.exec_driver_sql(_LOCK).one()
            self.clock.set(locked[1], since)
            yield connection

    def require_in_place(self) -> None:
        """A server is where its URL says."""

    def require_writable(self) -> None:
        """Raise ``UnavailableError`` where the server takes no writes: it was made read-only, or is a standby."""
        with self.engine.connect() as connection:
            if connection.exec_driver_sql(_IS_READ_ONLY).scalar():
                raise self._read_only()

    def allow_pauses(self, connection: Connection) -> None:
        """Let this transaction keep the lock while its client computes: a migration on a crowded machine does."""
        connection.exec_driver_sql(f"SET LOCAL idle_in_transaction_session_timeout = '{_MIGRATING_SECONDS}s'")

    def translated(self, error: sa.exc.DBAPIError) -> Exception | None:
        """The error that says what to do about one of the driver's; ``None`` when there is none better.

        Texts of the server are not repeated: some hold values.
        """
        state = getattr(error.orig, "sqlstate", None) or _state_of(str(error.orig))
        for prefix, (wrong, next_step) in _SETUP.items():
            if state.startswith(prefix):
                return SetupError(f"The PostgreSQL server {wrong}.", where=self.place, next_step=next_step)
        match state:
            case "42P01" | "42703":
                return other_schema_error("a table or a column is missing")
            case "55P03" | "40001" | "40P01":
                return busy_error()
            case "53100":
                return StorageFullError(
                    "The PostgreSQL server's disk is full.",
                    where=self.place,
                    next_step="Free disk space on the server and try again.",
                )
            case "53300":
                return UnavailableError(
                    "The PostgreSQL server takes no more connections.",
                    where=self.place,
                    next_step="Raise max_connections: each process of Antiphon takes up to "
                    f"{self._access.connections + 1} ([catalog] connections, and one that listens).",
                )
            case "25006":
                return self._read_only()
            case "22003":
                return InvalidInputError("A number is too large.", next_step="Numbers are whole and below 2**63.")
            case "22021" | "22P05":
                return InvalidInputError("A text holds a NUL character.", next_step="Remove it.")
            case "54000":
                return InvalidInputError("A name is too long to be indexed.", next_step="Shorten it.")
        if isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError) or error.connection_invalidated:
            return UnavailableError(
                "The PostgreSQL server is away" + (f" ({state})." if state else "."),
                where=self.place,
                next_step="What was under way may or may not be done; try again when it is back.",
            )
        return None

    def back_up(self, revision: str) -> str:
        """Name the way back from a migration; a server's backups are its own."""
        return "a dump made before (pg_dump) is the way back"

    def erase_free_space(self) -> bool:
        """Let the server use the space of deleted rows again. Its own log and backups keep them for their time."""
        self._maintain("VACUUM")
        return False

    def compact(self) -> None:
        """Write the tables anew without deleted rows."""
        self._maintain("VACUUM FULL")

    def close(self) -> None:
        """Close every idle connection."""
        self.engine.dispose()

    def _maintain(self, statement: str) -> None:
        with self.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.exec_driver_sql(statement)

    def _make_schema(self, connection: Connection) -> None:
        name = self._access.schema
        if name is not None and connection.exec_driver_sql(f"SELECT to_regnamespace('{name}')").scalar() is None:
            connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {name}")
            connection.commit()
        may = "SELECT has_schema_privilege(current_schema(), 'CREATE')"
        if not connection.exec_driver_sql(may).scalar():
            raise SetupError(
                "The user may not make tables in the schema of the catalog.",
                where=self.place,
                next_step="GRANT CREATE, USAGE ON SCHEMA public TO the user, or name another in [catalog] schema.",
            )

    def _read_only(self) -> UnavailableError:
        return UnavailableError(
            "The PostgreSQL server takes no writes.",
            where=self.place,
            next_step="Name the primary server, or all of them with ?target_session_attrs=read-write; see whether "
            "default_transaction_read_only is on.",
        )

    def _tell_time(self, connection: Connection) -> None:
        since = self.clock.monotonic()
        answered: Any = connection.exec_driver_sql("SELECT clock_timestamp()").scalar()
        self.clock.set(answered, since)


def _parameters(url: URL, access: PostgresAccess) -> dict[str, str]:
    """The parameters of libpq that are ours; what the URL says itself stays."""
    given = url.query.get("options", "")
    schema = {} if access.schema is None else {"search_path": access.schema}
    options = " ".join(f"-c{name}={value}" for name, value in (_OPTIONS | schema).items())
    parameters = {"options": f"{options} {given if isinstance(given, str) else ' '.join(given)}".strip()}
    if access.tls.authority is not None:
        parameters["sslrootcert"] = str(access.tls.authority)
    if "sslmode" not in url.query and (access.tls.authority is not None or not _on_this_machine(url)):
        parameters = {"sslrootcert": "system", "sslmode": "verify-full"} | parameters
    parameters |= {name: value for name, value in _KEEPALIVES.items() if name not in url.query}
    if access.tls.certificate is not None:
        parameters |= {"sslcert": str(access.tls.certificate), "sslkey": str(access.tls.key)}
    return parameters


def _follow_default(connection: Any, *_: Any) -> None:
    """Have transactions begin as the server's ``default_transaction_read_only`` says. After one that only reads the
    dialect would begin them READ WRITE, which a server that was made read-only lets pass."""
    connection.read_only = None


def _state_of(text: str) -> str:
    """The SQLSTATE of an error that has none: psycopg passes on of a failed connection what the server wrote, and
    refuses some values itself."""
    return next((state for words, state in _TEXTS.items() if words in text), "")


def _on_this_machine(url: URL) -> bool:
    named = url.query.get("host", url.host or "")
    hosts = (host for each in ([named] if isinstance(named, str) else named) for host in each.split(","))
    return all(_is_loopback(host) for host in hosts)


def _is_loopback(host: str) -> bool:
    """Tells whether a host, perhaps with its port, is this machine."""
    if host.startswith("/"):
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    name = urlsplit(f"//{host}").hostname or ""
    with suppress(ValueError):
        return ipaddress.ip_address(name).is_loopback
    return name in ("", "localhost")
