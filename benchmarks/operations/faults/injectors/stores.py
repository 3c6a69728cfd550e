"""Injectors on the catalog and the online store."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from benchmarks.operations.faults.injectors.injector import Injector, refreshed
from benchmarks.operations.faults.project import FaultyProject
from benchmarks.operations.faults.users import Users


async def catalog_locked_by_turns(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """A script of somebody's writes to the catalog in long transactions, one after another."""
    done, end = threading.Event(), time.monotonic() + seconds

    def hold() -> None:
        connection = sqlite3.connect(project.catalog, timeout=20.0, isolation_level=None)
        try:
            while time.monotonic() < end and not done.is_set():
                connection.execute("BEGIN IMMEDIATE")
                done.wait(min(chance.uniform(3.0, 5.0), max(0.0, end - time.monotonic())))
                connection.execute("ROLLBACK")
                done.wait(0.3)
        finally:
            connection.close()

    try:
        await asyncio.to_thread(hold)
    finally:
        done.set()


async def catalog_read_only(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """The files of the catalog can be read and not written."""
    files = [project.catalog.with_name(project.catalog.name + suffix) for suffix in ("", "-wal", "-shm")]
    async with _immutable([file for file in files if file.is_file()]):
        await asyncio.sleep(seconds)


async def online_store_read_only(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """No file can be made or removed in the folders of the online store; what is there is read as ever."""
    online = project.root / ".antiphon" / "online"
    async with _immutable([online, *(path for path in online.rglob("*") if path.is_dir())]):
        await refreshed(project, seconds)


@asynccontextmanager
async def _immutable(paths: Sequence[Path]) -> AsyncIterator[None]:
    """Nothing is changed in files or folders while the block lasts; as root, on a file system that can do it."""

    def change(order: str) -> None:
        subprocess.run(["chattr", order, *map(str, paths)], check=order == "+i", capture_output=True)

    try:
        await asyncio.to_thread(change, "+i")
        yield
    finally:
        change("-i")


def online_files(damaged: Callable[[Path, random.Random], None], every: float) -> Injector:
    """A bad disk damages files of the online store while the gateway reads them, and does so again.

    Args:
        every: seconds from one time to the next.
    """

    async def act(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for file in sorted((project.root / ".antiphon" / "online").rglob("*.mdb")):
                if file.name != "overlay.mdb":
                    with suppress(FileNotFoundError):
                        await asyncio.to_thread(damaged, file, chance)
            await asyncio.sleep(min(every, max(0.0, end - time.monotonic())))

    return act


def scribbled(file: Path, chance: random.Random) -> None:
    """Bytes in the middle of a file are others."""
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 3)
        opened.write(chance.randbytes(4_096))


def cut(file: Path, chance: random.Random) -> None:
    """The second half of a file is gone."""
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size // 2)


STORES: dict[str, Injector] = {
    "catalog_locked_by_turns": catalog_locked_by_turns,
    "catalog_read_only": catalog_read_only,
    "online_store_read_only": online_store_read_only,
    "online_files_scribbled": online_files(scribbled, 2.0),
    "online_files_cut": online_files(cut, 3.0),
}
