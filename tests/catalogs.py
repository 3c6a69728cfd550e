"""Catalogs for tests: files of SQLite, and databases of a PostgreSQL server that this process of pytest starts once.

``ANTIPHON_TEST_CATALOG=postgresql`` lets :func:`catalog_url` name databases for every test that asks it.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import threading
from contextlib import suppress
from functools import cache
from itertools import count
from pathlib import Path
from urllib.parse import quote

from tests.servers import PostgresProcess

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.sqlite_file import SqliteFile
from antiphon.core.clock import Clock

KINDS = ("sqlite", "postgresql")
_numbers = count(1)
_emptied: list[str] = []


@cache
def postgres() -> PostgresProcess:
    """The server, with a migrated catalog as a template for others."""
    server = PostgresProcess()
    atexit.register(server.remove)
    server.start()
    server.run("CREATE DATABASE template")
    database = Database.open(_url(server, "template"))
    database.migrate()
    database.close()
    return server


@cache
def _migrated_file() -> Path:
    """A file with an empty, migrated catalog, which is copied: making the tables takes eight times as long."""
    folder = Path(tempfile.mkdtemp(prefix="antiphon-catalog-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    database = Database.open(f"sqlite:///{folder}/catalog.db")
    database.migrate()
    database.close()
    return folder / "catalog.db"


def catalog_url(folder: Path, kind: str | None = None) -> str:
    """The URL of the folder's catalog, which has its tables: the same for the same folder, in every process."""
    known = folder / "catalog.url"
    if known.exists():
        return known.read_text()
    if (kind or os.environ.get("ANTIPHON_TEST_CATALOG", "sqlite")) == "sqlite":
        path = folder / "catalog.db"
        if folder.is_dir() and not path.exists():
            # Another process may do the same at this moment.
            copy = folder / f".{os.getpid()}-{threading.get_ident()}.db"
            shutil.copyfile(_migrated_file(), copy)
            with suppress(FileExistsError):
                os.link(copy, path)
            copy.unlink()
        return f"sqlite:///{path}"
    server = postgres()
    if not _emptied:
        name = f"catalog_{next(_numbers)}"
        server.run(f"CREATE DATABASE {name} TEMPLATE template STRATEGY file_copy")
        _emptied.append(_url(server, name))
    known.write_text(_emptied.pop())
    return known.read_text()


def opened_again(database: Database, clock: Clock | None = None) -> Database:
    """Another process's view of a catalog."""
    return Database.open(database.backend.url, codec=database.codec, clock=clock)


def stored_bytes(database: Database) -> bytes:
    """Everything that the catalog stores: its files, or what a dump of the server's tables holds."""
    if isinstance(database.backend, SqliteFile):
        return b"".join(path.read_bytes() for path in database.path.parent.iterdir())
    with database.read() as connection:
        rows = [row for table in schema.metadata.sorted_tables for row in connection.execute(table.select())]
    return b"".join(value if isinstance(value, bytes) else str(value).encode() for row in rows for value in row)


def drop(database: Database) -> None:
    """Close a catalog, and leave one on the server empty for the next test: making one takes thirty times as long."""
    for thread in threading.enumerate():
        if thread.name == "last-use":  # It writes in the background, and would open another connection.
            thread.join(5)
    database.close()
    if not isinstance(database.backend, SqliteFile):
        name = database.backend.url.rpartition("/")[2]
        others = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        postgres().run(others)  # One that a test left open would hold a lock.
        tables = (f'DELETE FROM "{table.name}"' for table in reversed(schema.metadata.sorted_tables))
        with database.transaction() as connection:  # In one round trip: there are a hundred of them.
            connection.exec_driver_sql("; ".join(tables))
        database.close()
        _emptied.append(database.backend.url)


def _url(server: PostgresProcess, name: str) -> str:
    return f"postgresql://{server.user}:{quote(server.password, safe='')}@127.0.0.1:{server.port}/{name}"
