"""Injectors on limits and file systems: what the kernel does not give, and what cannot be written or is not there."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from benchmarks.operations.faults.injectors.injector import Injector, refreshed
from benchmarks.operations.faults.injectors.processes import remove_group
from benchmarks.operations.faults.project import FaultyProject
from benchmarks.operations.faults.users import Users

_MEMORY = Path("/sys/fs/cgroup/memory")
_NEW_MEMORY = 256 << 10
_LARGEST_FILE = 4_096
_GONE = (ProcessLookupError, FileNotFoundError, ValueError)
"""Errors of asking for a process that ends or is being started."""


async def gateway_waits_for_memory(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """The gateway gets no more memory, by a limit beyond which the kernel ends nobody and lets wait."""
    with _limited_memory(project.pid("gateway")):
        await asyncio.sleep(seconds)


@contextmanager
def _limited_memory(pid: int) -> Iterator[None]:
    """A process is in a control group of its own while the block lasts, where new memory is short; as root."""
    group = _MEMORY / f"antiphon-fault-{os.getpid()}-{pid}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(_NEW_MEMORY))
        (group / "memory.oom_control").write_text("1")
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        (group / "memory.limit_in_bytes").write_text("-1")
        remove_group(group)


async def file_system_read_only(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """After an error of the disk the kernel takes no more writes: no file of the project's folder can be changed."""
    paths = [project.root, *(one for one in project.root.rglob("*") if not one.is_symlink())]
    paths = [one for one in paths if one.is_dir() or one.is_file()]

    def change(order: str) -> None:
        for first in range(0, len(paths), 500):
            # Files come and go meanwhile: of those that are gone it complains.
            words = ["chattr", "-f", order, *map(str, paths[first : first + 500])]
            subprocess.run(words, check=False, capture_output=True)

    try:
        await asyncio.to_thread(change, "+i")
        with suppress(OSError):
            (project.root / "written").touch()
            raise RuntimeError("The project's folder can be written still: chattr does nothing here.")
        await asyncio.sleep(seconds)
    finally:
        await asyncio.to_thread(change, "-i")


async def worker_file_size_limited(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """A limit on the size of files, meant for others, holds for each worker that is started."""
    end = time.monotonic() + seconds
    before: dict[int, tuple[int, int]] = {}
    ordered = asyncio.create_task(refreshed(project, seconds))
    try:
        while time.monotonic() < end:
            with suppress(*_GONE):
                pid = project.pid("worker")
                if pid not in before:
                    found = resource.prlimit(pid, resource.RLIMIT_FSIZE)
                    resource.prlimit(pid, resource.RLIMIT_FSIZE, (_LARGEST_FILE, found[1]))
                    before[pid] = found
            await asyncio.sleep(min(0.1, max(0.0, end - time.monotonic())))
        await ordered
    finally:
        ordered.cancel()
        for pid, limits in before.items():
            with suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


async def catalog_table_renamed(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """A script that was meant for another database renames a table that each answer is written to."""

    def rename(before: str, after: str) -> None:
        try:
            with closing(sqlite3.connect(project.catalog, timeout=20.0, isolation_level=None)) as connection:
                # Nothing else in the schema is to follow the new name.
                connection.execute("PRAGMA legacy_alter_table = ON")
                connection.execute("BEGIN IMMEDIATE")
                if connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (after,)).fetchone():
                    # A process that was started meanwhile has made the table anew.
                    connection.execute(f"INSERT OR IGNORE INTO {before} SELECT * FROM {after}")
                    connection.execute(f"DROP TABLE {after}")
                connection.execute(f"ALTER TABLE {before} RENAME TO {after}")
                connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise RuntimeError(f"The table {before} cannot be renamed: {error}") from error

    await asyncio.to_thread(rename, "receipts", "receipts_before")
    try:
        await asyncio.sleep(seconds)
    finally:
        await asyncio.to_thread(rename, "receipts_before", "receipts")


async def wrong_disk_mounted(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """An empty disk that cannot be written is mounted over the online store, and the gateway begins anew; as root."""
    online = project.root / ".antiphon" / "online"
    words = ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(online)]
    mounted = await asyncio.to_thread(subprocess.run, words, capture_output=True)
    if mounted.returncode != 0:
        raise RuntimeError(f"Nothing can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        os.kill(project.pid("gateway"), signal.SIGTERM)
        await asyncio.sleep(seconds)
    finally:
        await asyncio.to_thread(subprocess.run, ["umount", "-l", str(online)], check=False)


async def disk_half_full(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """Somebody puts a large file beside the project, and there is much room left; on a file system of its own."""
    usage = shutil.disk_usage(project.root)
    video = project.root / "holiday.mp4"
    try:
        with video.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, usage.total // 2 - usage.used))
        await asyncio.sleep(seconds)
    finally:
        video.unlink()


async def catalog_looked_after(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """A weekly script checks the catalog, gathers its statistics and empties its log."""
    end = time.monotonic() + seconds

    def look() -> None:
        with closing(sqlite3.connect(project.catalog, timeout=20.0, isolation_level=None)) as connection:
            for order in ("PRAGMA integrity_check", "ANALYZE", "PRAGMA wal_checkpoint(PASSIVE)"):
                connection.execute(order).fetchall()

    await asyncio.to_thread(look)
    await asyncio.sleep(max(0.0, end - time.monotonic()))


LIMITS: dict[str, Injector] = {
    "gateway_waits_for_memory": gateway_waits_for_memory,
    "file_system_read_only": file_system_read_only,
    "worker_file_size_limited": worker_file_size_limited,
    "catalog_table_renamed": catalog_table_renamed,
    "wrong_disk_mounted": wrong_disk_mounted,
    "disk_half_full": disk_half_full,
    "catalog_looked_after": catalog_looked_after,
}
