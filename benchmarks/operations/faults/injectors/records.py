"""Injectors on what the catalog holds: its schema, its leases, and those who read it beside."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from contextlib import closing

from benchmarks.operations.faults.injectors.injector import Injector
from benchmarks.operations.faults.project import FaultyProject
from benchmarks.operations.faults.users import Users

_GHOST = "receipts_by_mood"
_LOST_HOLDER = "blade-17/6f1c0d2e/4026531836/4711/1234567"
_DAY_US = 86_400_000_000


async def catalog_schema_malformed(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """A tool that edits schemas by hand leaves an index on a column that is not there: no schema can be read."""

    def spoil() -> None:
        with closing(sqlite3.connect(project.catalog, timeout=20.0, isolation_level=None)) as connection:
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(
                "INSERT INTO sqlite_master VALUES ('index', ?, 'receipts', 0, ?)",
                (_GHOST, f"CREATE INDEX {_GHOST} ON receipts (mood)"),
            )
            _next_version(connection)
            connection.execute("COMMIT")

    def mend() -> None:
        with closing(sqlite3.connect(project.catalog, timeout=20.0, isolation_level=None)) as connection:
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("DELETE FROM sqlite_master WHERE name = ?", (_GHOST,))
            _next_version(connection)
            connection.execute("COMMIT")

    try:
        await asyncio.to_thread(spoil)
        await asyncio.sleep(seconds)
    finally:
        # Here, so that it is done also when this task is cancelled.
        mend()


def _next_version(connection: sqlite3.Connection) -> None:
    """Have all connections read the schema anew."""
    (version,) = connection.execute("PRAGMA schema_version").fetchone()
    connection.execute(f"PRAGMA schema_version = {version + 1}")


async def lease_of_a_lost_machine(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """A machine whose clock was a day ahead took over all that one worker does at a time, and was switched off."""
    until = time.time_ns() // 1_000 + _DAY_US

    def change(order: str, *values: str | int) -> int:
        with (
            closing(sqlite3.connect(project.catalog, timeout=20.0)) as connection,
            connection,
        ):
            return connection.execute(order, values).rowcount

    try:
        taken = await asyncio.to_thread(change, "UPDATE leases SET holder = ?, until = ?", _LOST_HOLDER, until)
        if not taken:
            raise RuntimeError("No process of the project holds a lease.")
        await asyncio.sleep(seconds)
    finally:
        change("DELETE FROM leases WHERE holder = ?", _LOST_HOLDER)


async def report_reads_catalog(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """An analyst's program reads the catalog in one long transaction, which keeps its log from being emptied."""
    end = time.monotonic() + seconds
    place = f"file:{project.catalog}?mode=ro"
    with closing(sqlite3.connect(place, uri=True, isolation_level=None, check_same_thread=False)) as connection:
        connection.execute("BEGIN")
        while time.monotonic() < end:
            await asyncio.to_thread(connection.execute("SELECT count(*) FROM receipts").fetchall)
            await asyncio.sleep(min(1.0, max(0.0, end - time.monotonic())))
        connection.execute("ROLLBACK")


RECORDS: dict[str, Injector] = {
    "catalog_schema_malformed": catalog_schema_malformed,
    "lease_of_a_lost_machine": lease_of_a_lost_machine,
    "report_reads_catalog": report_reads_catalog,
}
