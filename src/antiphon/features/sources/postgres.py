"""A PostgreSQL table or query as a source. The only file that imports ``adbc_driver_postgresql``.

Invariants: everything that is read is of one snapshot of the database (one read-only, repeatable-read transaction), and
comes in batches, so that memory does not grow with the table; what could not be read to the end was not read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit, urlunsplit

from antiphon.core.errors import AntiphonError, InvalidInputError, SetupError, UnavailableError
from antiphon.definitions.source import SourceSpec
from antiphon.features.expressions.expression_sql import quoted

if TYPE_CHECKING:
    import duckdb

_CONNECTION = "connect_timeout=10&keepalives_idle=30&tcp_user_timeout=60000&application_name=antiphon"
_AS_DOUBLE = {"numeric", "money"}
_AS_IT_IS = {
    "bool", "int2", "int4", "int8", "float4", "float8", "text", "varchar", "bpchar", "name", "char", "date",
    "timestamp", "timestamptz",
}  # fmt: skip


def extract(connection: duckdb.DuckDBPyConnection, source: SourceSpec, table: str) -> tuple[int, str]:
    """Read the source's table or query into a temporary DuckDB table.

    Returns:
        The number of rows, and their database snapshot (``xmin:xmax:running``).

    Raises:
        SetupError: the driver is missing, or the database refuses access.
        UnavailableError: the database is away, or went away before the last row.
        InvalidInputError: there is no such table or column, or the query is wrong.
    """
    with _connected(source) as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        cursor.execute("SET LOCAL TIME ZONE 'UTC'")
        snapshot = _current_snapshot(cursor)
        cursor.execute(_readable(cursor, _query(source)))
        reader = cursor.fetch_record_batch()
        connection.register("postgres_batch", reader.schema.empty_table())
        connection.execute(f"CREATE OR REPLACE TEMP TABLE {quoted(table)} AS SELECT * FROM postgres_batch")
        rows = 0
        for batch in reader:
            connection.register("postgres_batch", batch)
            connection.execute(f"INSERT INTO {quoted(table)} SELECT * FROM postgres_batch")
            rows += batch.num_rows
        connection.unregister("postgres_batch")
    return rows, snapshot


def snapshot_of(source: SourceSpec) -> str:
    """The database's present snapshot, and a check that it answers."""
    with _connected(source) as cursor:
        return _current_snapshot(cursor)


def _current_snapshot(cursor: Any) -> str:
    cursor.execute("SELECT pg_current_snapshot()::text")
    ((snapshot,),) = cursor.fetchall()
    return str(snapshot)


def _query(source: SourceSpec) -> str:
    if source.query is not None:
        return source.query.strip().rstrip(";")
    assert source.table is not None
    return f"SELECT * FROM {'.'.join(quoted(part) for part in source.table.split('.'))}"


def _readable(cursor: Any, query: str) -> str:
    """The query with every column in a type that features know: exact numbers as doubles, the rest as text."""
    schema = cursor.adbc_execute_schema(query)
    columns = []
    for field in schema:
        kind = (field.metadata or {}).get(b"ADBC:postgresql:typname", b"").decode()
        name = quoted(field.name)
        value = name if not kind and _plain(field.type) else readable_column(name, kind)
        columns.append(value if value == name else f"{value} AS {name}")
    return f"SELECT {', '.join(columns)} FROM ({query}) AS antiphon_source"


def readable_column(name: str, kind: str) -> str:
    """A column of a type of PostgreSQL in a type that features know; ``name`` is quoted."""
    if kind in _AS_DOUBLE:
        return f"{name}::numeric::float8"
    return name if kind in _AS_IT_IS else f"{name}::text"


def _plain(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(
        types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind) or types.is_string(kind)
        or types.is_temporal(kind)
    )  # fmt: skip


@contextmanager
def _connected(source: SourceSpec) -> Iterator[Any]:
    """A cursor; the driver's errors come out as ours."""
    try:
        from adbc_driver_manager import Error
        from adbc_driver_postgresql import dbapi
    except ImportError as error:
        raise SetupError(
            "The driver of PostgreSQL is not installed.",
            where=f"source {source.name}",
            next_step="pip install antiphon[postgres]",
        ) from error
    import pyarrow

    try:
        assert source.url is not None
        uri = database_uri(source.name, source.url, source.password_variable)
        with dbapi.connect(uri) as opened, opened.cursor() as cursor:
            yield cursor
    except AntiphonError:
        raise
    except Error as error:
        raise database_error(source.name, str(error), error.sqlstate or "", source.password_variable) from error
    except (pyarrow.ArrowException, OSError) as error:
        # Errors while batches are read come from Arrow, which knows no SQLSTATE.
        raise database_error(source.name, str(error), "", source.password_variable) from error


def database_uri(source: str, url: str, password_variable: str | None) -> str:
    """The declared URL with the password from the environment; without one libpq looks where it always does. Raises
    ``SetupError`` when the variable is not set."""
    parts = urlsplit(url)
    place = parts.netloc
    if password_variable is not None:
        password = os.environ.get(password_variable)
        if not password:
            raise SetupError(
                f"The environment variable {password_variable} is not set.",
                where=f"source {source}",
                next_step="Set it where the worker starts, or correct password_variable.",
            )
        user, _, host = place.rpartition("@")
        place = f"{user}:{quote(password, safe='')}@{host}"
    query = "&".join(filter(None, (parts.query, _CONNECTION)))
    return urlunsplit((parts.scheme, place, parts.path, query, ""))


def database_error(source: str, said: str, state: str, password_variable: str | None) -> AntiphonError:
    """The error of a source whose database said something, with its SQLSTATE where it is known."""
    where = f"source {source}"
    if not state or state.startswith("\0"):
        found = re.search(r"SQLSTATE: ?([0-9A-Z]{5})", said)
        state = found.group(1) if found else ""
    words = _words(said)
    if state.startswith("28") or state == "42501" or "password" in said:
        variable = password_variable or "PGPASSWORD"
        return SetupError(
            f"PostgreSQL refuses access: {words}",
            where=where,
            next_step=f"Set {variable}, and let the user of the URL read what the source names.",
        )
    if state.startswith("3D") or re.search(r'database "[^"]*" does not exist', said):
        return SetupError(f"PostgreSQL has no such database: {words}", where=where, next_step="Correct the URL.")
    if state.startswith(("08", "57", "53", "58")) or (not state and ("ERROR:" not in said or _LOST.search(said))):
        return UnavailableError(
            f"PostgreSQL is away, or went away before the last row: {words}",
            where=where,
            next_step="It is tried again; what was read and published before stays.",
        )
    return InvalidInputError(
        f"PostgreSQL cannot answer this: {words}",
        where=where,
        next_step="Correct the source's table or query; it is read in a transaction that may not write.",
    )


_LOST = re.compile(r"connection|terminat|shut ?down|starting up|recovery|cancel|time ?out|memory|space|disk", re.I)
"""Messages of a server that cannot go on, in errors that come without a code."""


def _words(said: str) -> str:
    """The server's first sentence, without the values that it quotes."""
    line = next((line for line in said.splitlines() if "ERROR:" in line or "FATAL:" in line), said.splitlines()[0])
    line = re.sub(r"^.*?(ERROR|FATAL): *", "", line)
    if not re.match(r"(relation|column|database|permission|password|role|schema|function|syntax)", line):
        line = re.sub(r'"[^"]*"', '"…"', line)
    return f"{line.strip()[:300].rstrip('.')}."


def shown(source: SourceSpec) -> str:
    """Host and database, for people."""
    parts = urlsplit(source.url or "")
    return f"{parts.hostname or 'localhost'}:{parts.port or 5432}{parts.path}"
