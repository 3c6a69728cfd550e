"""Injectors of the kinds that are seen."""

from __future__ import annotations

import asyncio
import csv
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.operations.faults.injectors.injector import Injector, refreshed, released, set_aside, stood_still
from benchmarks.operations.faults.project import FaultyProject
from benchmarks.operations.faults.users import Users, flood, question

from antiphon.core.child_process import start_child


async def engine_killed(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    os.kill(project.pid("engine"), signal.SIGKILL)
    await asyncio.sleep(seconds)


async def gateway_killed(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    os.kill(project.pid("gateway"), signal.SIGKILL)
    await asyncio.sleep(seconds)


async def gateway_and_engine_killed(
    project: FaultyProject, users: Users, chance: random.Random, seconds: float
) -> None:
    for process in ("gateway", "engine"):
        os.kill(project.pid(process), signal.SIGKILL)
    await asyncio.sleep(seconds)


async def engine_flapping(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    end = time.monotonic() + seconds
    for _ in range(4):
        with suppress(ProcessLookupError, FileNotFoundError):
            os.kill(project.pid("engine"), signal.SIGKILL)
        await asyncio.sleep(chance.uniform(4.0, 7.0))
    await asyncio.sleep(max(0.0, end - time.monotonic()))


async def engine_slow(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    pid, end = project.pid("engine"), time.monotonic() + seconds
    with stood_still(pid):
        while time.monotonic() < end:
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(0.9)
            os.kill(pid, signal.SIGCONT)
            await asyncio.sleep(0.1)


def frozen(process: str) -> Injector:
    """A process stands still; whoever takes it for dead may start another one meanwhile."""

    async def act(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
        pid = project.pid(process)
        with stood_still(pid):
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(seconds)

    return act


async def gateway_without_descriptors(
    project: FaultyProject, users: Users, chance: random.Random, seconds: float
) -> None:
    pid = project.pid("gateway")
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    taken = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (max(3, taken - 4), before[1]))
    try:
        await asyncio.sleep(seconds)
    finally:
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


async def catalog_locked(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    done = threading.Event()

    def hold() -> None:
        connection = sqlite3.connect(project.catalog, timeout=20.0, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        done.wait(seconds)
        connection.execute("ROLLBACK")
        connection.close()

    try:
        await asyncio.to_thread(hold)
    finally:
        done.set()


async def processors_taken(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    number = 4 * (os.cpu_count() or 1)
    busy = [
        start_child([sys.executable, "-c", "import os\nos.nice(-10)\nwhile True: pass"], stderr=subprocess.DEVNULL)
        for _ in range(number)
    ]
    try:
        await asyncio.sleep(seconds)
    finally:
        for one in busy:
            one.kill()
            one.wait()


_LEFT_FREE = 512 << 10


async def disk_full(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """Needs a file system of the project's own; see ``small_disk`` in ``project.py``."""
    filler = project.root / "filler"
    with filler.open("wb") as file:
        while (free := shutil.disk_usage(project.root).free) > _LEFT_FREE:
            # Others write meanwhile, so that what was free a moment ago may be so no longer.
            with suppress(OSError):
                os.posix_fallocate(file.fileno(), 0, filler.stat().st_size + free - _LEFT_FREE // 2)
    try:
        await asyncio.sleep(seconds)
    finally:
        filler.unlink()


async def denial_attack(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    guess = f"ak_{chance.randrange(10**12)}"
    await flood(project.url, guess, 2, seconds, question("desk", chance))


async def overload(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    await flood(project.url, project.key, 120, seconds, question("desk", chance))


def rewritten(change: Callable[[list[list[str]], random.Random], list[list[str]]]) -> Injector:
    """The table of the tickets is another one for a while; somebody wants its view to be refreshed."""

    async def act(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
        async with set_aside(project.root / "tickets.csv") as before:
            with before.open(newline="", encoding="utf-8") as file:
                rows = list(csv.reader(file))
            with (project.root / "tickets.csv").open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows(change(rows, chance))
            await refreshed(project, seconds)

    return act


def no_customers(rows: list[list[str]], chance: random.Random) -> list[list[str]]:
    """Most rows lose their key, and hardly any is left of the rest."""
    customer = rows[0].index("customer")
    for row in rows[1:]:
        if chance.random() < 0.9:
            row[customer] = ""
    return rows


def renamed_column(rows: list[list[str]], chance: random.Random) -> list[list[str]]:
    rows[0][rows[0].index("customer")] = "client"
    return rows


def of_the_future(rows: list[list[str]], chance: random.Random) -> list[list[str]]:
    """A clock of the source went ahead by years."""
    opened, resolved = rows[0].index("opened"), rows[0].index("resolved")
    future = datetime.now(UTC) + timedelta(days=1_000)
    for row in rows[1:]:
        row[opened] = (future + timedelta(seconds=chance.randrange(86_400))).isoformat()
        row[resolved] = (future + timedelta(days=2)).isoformat()
    return rows


async def source_gone(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    async with set_aside(project.root / "tickets.csv"):
        await refreshed(project, seconds)


async def source_cut_off(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """The end of a file that was being copied is missing, in the middle of a quoted value."""
    async with set_aside(project.root / "tickets.csv") as before:
        content = before.read_bytes()
        (project.root / "tickets.csv").write_bytes(content[: len(content) // 3] + b'"cut,')
        await refreshed(project, seconds)


async def online_files_gone(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """Everything below the online store's folder is somewhere else, and the gateway begins anew."""
    online = project.root / ".antiphon" / "online"
    aside = online.with_name("online-before")
    online.rename(aside)
    os.kill(project.pid("gateway"), signal.SIGTERM)
    try:
        await asyncio.sleep(seconds)
    finally:
        shutil.rmtree(online, ignore_errors=True)
        aside.rename(online)


async def peak_within_capacity(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    await _asked_otherwise(users, seconds, rates=2.0)


def asked(**otherwise: float) -> Injector:
    """Users who ask in another way for a while, by attributes of theirs."""

    async def inject(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
        before = {name: getattr(users, name) for name in otherwise}
        for name, value in otherwise.items():
            setattr(users, name, value)
        try:
            await asyncio.sleep(seconds)
        finally:
            for name, value in before.items():
                setattr(users, name, value)

    return inject


async def orderly_restart(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """An operator has the worker begin anew, in good order."""
    os.kill(project.pid("worker"), signal.SIGTERM)
    await asyncio.sleep(seconds)


async def _asked_otherwise(users: Users, seconds: float, rates: float) -> None:
    before = dict(users.rate)
    users.rate = {name: rate * rates for name, rate in before.items()}
    try:
        await asyncio.sleep(seconds)
    finally:
        users.rate = before


SEEN_INJECTORS: dict[str, Injector] = {
    "engine_killed": engine_killed,
    "engine_slow": engine_slow,
    "gateway_killed": gateway_killed,
    "worker_stopped": frozen("worker"),
    "disk_full": disk_full,
    "denial_attack": denial_attack,
    "overload": overload,
    "bad_release": released("desk"),
    "source_refused": rewritten(no_customers),
    "schema_changed": rewritten(renamed_column),
    "peak_within_capacity": peak_within_capacity,
    "callers_mistakes": asked(mistakes=0.6),
    "engine_frozen": frozen("engine"),
    "engine_flapping": engine_flapping,
    "gateway_frozen": frozen("gateway"),
    "gateway_without_descriptors": gateway_without_descriptors,
    "gateway_and_engine_killed": gateway_and_engine_killed,
    "catalog_locked": catalog_locked,
    "processors_taken": processors_taken,
    "slow_template": released("triage"),
    "source_gone": source_gone,
    "source_cut_off": source_cut_off,
    "rows_of_the_future": rewritten(of_the_future),
    "online_files_gone": online_files_gone,
    "callers_hang_up": asked(patience=0.004),
    "long_questions": asked(words=60),
    "orderly_restart": orderly_restart,
}
