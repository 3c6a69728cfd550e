"""Faults of real processes: begun, ended in their time, and ended by themselves when the process that runs them is
killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from antiphon.core.child_process import start_child
from antiphon.core.errors import NotFoundError, UnavailableError
from antiphon.operations.chaos.faults import (
    CpuLoad,
    DiskFill,
    GuardedFault,
    MemoryLoad,
    ProcessKill,
    ProcessSlowdown,
    ProcessStop,
)
from antiphon.operations.chaos.guarded_fault import guarded
from antiphon.operations.chaos.guardian import RUNNER_GONE, FaultOrder
from antiphon.operations.chaos.injectors import ProcessInjector, continue_left_over, holds_write_lock
from antiphon.operations.chaos.journal import FaultEnd, FaultStart, read_journal
from antiphon.operations.processes import ProcessRecord, boot, started_ticks, write_record

RUNNER = """
import asyncio, signal, sys, msgspec
from antiphon.operations.chaos.guardian import FaultOrder
from antiphon.operations.chaos.guarded_fault import guarded

async def main():
    async with guarded(msgspec.json.decode(sys.stdin.readline(), type=FaultOrder)) as fault:
        print("begun", fault.process.pid, flush=True)
        await fault.over()

# As in a terminal: what a shell starts in the background ignores Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
asyncio.run(main())
"""


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process on record under the name ``worker``."""
    process = start_child(["sleep", "600"], start_new_session=True)
    until(lambda: "sleep" in Path(f"/proc/{process.pid}/comm").read_text())
    record(tmp_path, process.pid)
    yield process
    process.kill()
    process.wait()


def record(run: Path, pid: int, ticks: int | None = None) -> None:
    found = (started_ticks(pid) or 0) if ticks is None else ticks
    write_record(run, ProcessRecord("worker", pid, found, datetime.now(UTC), boot=boot(), run=str(run.resolve())))


def order(folder: Path, fault: GuardedFault, target: str = "worker") -> FaultOrder:
    return FaultOrder("it", "fault", fault, target, str(folder), str(folder), str(folder))


@contextmanager
def runner(folder: Path, fault: GuardedFault | FaultOrder) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process that holds a fault, and the pid of its guardian."""
    process = start_child([sys.executable, "-c", RUNNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        ordered = fault if isinstance(fault, FaultOrder) else order(folder, fault)
        process.stdin.write(msgspec.json.encode(ordered).decode() + "\n")
        process.stdin.flush()
        begun, pid = process.stdout.readline().split()
        assert begun == "begun"
        yield process, int(pid)
    finally:
        process.kill()
        process.communicate()


def ends(folder: Path) -> list[str]:
    return [one.reason for one in read_journal(folder) if isinstance(one, FaultEnd)]


def test_a_stopped_process_goes_on_when_the_runner_is_killed(tmp_path: Path, worker: Any) -> None:
    with runner(tmp_path, ProcessStop("worker", "600s")) as (process, _):
        assert state(worker.pid) == "T"
        process.kill()
        until(lambda: ends(tmp_path) == [RUNNER_GONE])
        assert state(worker.pid) != "T"
    (start,) = [one for one in read_journal(tmp_path) if isinstance(one, FaultStart)]
    assert start.touched == (f"worker (process {worker.pid})",)


def test_ctrl_c_ends_the_runner_and_the_fault_with_it(tmp_path: Path, worker: Any) -> None:
    with runner(tmp_path, ProcessStop("worker", "600s")) as (process, guardian):
        assert os.getsid(guardian) == guardian, "Ctrl-C would reach it too"
        process.send_signal(signal.SIGINT)
        process.wait(20)
        assert ends(tmp_path) == ["the experiment ended it"]
        assert state(worker.pid) != "T"


async def test_a_fault_ends_in_its_time_or_with_its_block(tmp_path: Path, worker: Any) -> None:
    async with guarded(order(tmp_path, ProcessStop("worker", "300ms"))) as fault:
        assert state(worker.pid) == "T"
        await fault.over()
        assert state(worker.pid) != "T"
    async with guarded(order(tmp_path, ProcessStop("worker", "600s"))):
        assert state(worker.pid) == "T"
    assert state(worker.pid) != "T"
    assert ends(tmp_path) == ["its time was over", "the experiment ended it"]


async def test_a_slow_process_stands_still_for_its_share(tmp_path: Path, worker: Any) -> None:
    seen = set[bool]()
    async with guarded(order(tmp_path, ProcessSlowdown("worker", "600s", 0.5))):
        deadline = time.monotonic() + 20
        while len(seen) < 2 and time.monotonic() < deadline:
            seen.add(state(worker.pid) == "T")
            await asyncio.sleep(0.005)
    assert seen == {True, False}
    assert state(worker.pid) != "T"


async def test_a_kill_hits_the_process_of_the_record_and_no_stranger(tmp_path: Path, worker: Any) -> None:
    record(tmp_path, worker.pid, ticks=1)
    with pytest.raises(UnavailableError, match="does not run"):
        async with guarded(order(tmp_path, ProcessKill("worker"))):
            pass
    assert worker.poll() is None
    record(tmp_path, worker.pid)
    async with guarded(order(tmp_path, ProcessKill("worker"))) as fault:
        await fault.over()
    assert worker.wait(20) == -signal.SIGKILL


def test_neighbors_end_with_the_runner_and_with_a_guardian_that_is_killed(tmp_path: Path) -> None:
    with runner(tmp_path, CpuLoad("600s", 2)) as (process, guardian):
        burners = children(guardian)
        assert len(burners) == 2
        process.kill()
        until(lambda: not any(started_ticks(one) for one in burners))
    assert ends(tmp_path) == [RUNNER_GONE]
    with runner(tmp_path, MemoryLoad("600s", 20)) as (_, guardian):
        (neighbor,) = children(guardian)
        assert Path(f"/proc/{neighbor}/oom_score_adj").read_text().strip() == "1000"
        assert int(Path(f"/proc/{neighbor}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > 20_000_000
        os.kill(guardian, signal.SIGKILL)
        until(lambda: started_ticks(neighbor) is None)


def test_what_a_killed_guardian_left_standing_goes_on_with_the_next_command(tmp_path: Path, worker: Any) -> None:
    with runner(tmp_path, ProcessStop("worker", "600s")) as (_, guardian):
        os.kill(guardian, signal.SIGKILL)
        until(lambda: started_ticks(guardian) is None)
        assert state(worker.pid) == "T"
    assert continue_left_over(tmp_path, ["gateway"]) == ()
    assert continue_left_over(tmp_path, ["worker"]) == ("worker",)
    until(lambda: state(worker.pid) != "T")
    assert continue_left_over(tmp_path, ["worker"]) == ()


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "antiphon-test", str(folder)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("this user may not mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_has_room_again_when_the_runner_is_killed(tmp_path: Path) -> None:
    def free() -> int:
        found = os.statvfs(disk)
        return found.f_bavail * found.f_frsize

    with small_disk(tmp_path / "disk") as disk:
        with runner(disk, DiskFill("600s", leave=8_000_000, most=1_000_000_000)) as (process, guardian):
            assert 6_000_000 < free() <= 8_000_000
            process.kill()
            until(lambda: free() > 50_000_000)
        with runner(disk, DiskFill("600s", leave=0, most=5_000_000)) as (_, guardian):
            assert 50_000_000 < free() < 64_000_000
            os.kill(guardian, signal.SIGKILL)
            until(lambda: free() > 60_000_000)
        assert [one.name for one in disk.iterdir() if one.name.startswith(".chaos")] == []


def test_a_process_is_stopped_at_a_moment_without_the_write_lock(tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.db"
    writer = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("PRAGMA journal_mode = WAL")
database.execute("CREATE TABLE t (x)")
for line in sys.stdin:
    database.execute(line)
    print("done", flush=True)
"""
    process = start_child(
        [sys.executable, "-c", writer, str(catalog)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def execute(statement: str) -> None:
        process.stdin.write(statement + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"

    try:
        execute("INSERT INTO t VALUES (1)")
        record(tmp_path, process.pid)
        assert not holds_write_lock(catalog, process.pid)
        execute("BEGIN IMMEDIATE")
        assert holds_write_lock(catalog, process.pid)
        assert not holds_write_lock(catalog, os.getpid())
        injector = ProcessInjector(ProcessStop("worker", "1s"), tmp_path, "worker", catalog)
        with pytest.raises(UnavailableError, match="write lock all the time"):
            injector.begin()
        injector.end()
        until(lambda: state(process.pid) != "T")
        execute("COMMIT")
        injector = ProcessInjector(ProcessStop("worker", "1s"), tmp_path, "worker", catalog)
        injector.begin()
        until(lambda: state(process.pid) == "T")
        with closing(sqlite3.connect(catalog, timeout=2, isolation_level=None)) as other:
            other.execute("INSERT INTO t VALUES (2)")
        injector.end()
        until(lambda: state(process.pid) != "T")
    finally:
        process.kill()
        process.communicate()


def test_a_process_that_is_not_on_record_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        ProcessInjector(ProcessKill("worker"), tmp_path, "worker", None).begin()
