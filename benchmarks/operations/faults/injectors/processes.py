"""Injectors on processes and the machine: signals, and limits that the kernel keeps."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.operations.faults.injectors.injector import Injector, refreshed, stood_still
from benchmarks.operations.faults.project import FaultyProject
from benchmarks.operations.faults.users import Users

_CPU = Path("/sys/fs/cgroup/cpu")
_PERIOD_US = 1_000_000
_GONE = (ProcessLookupError, FileNotFoundError, ValueError)
"""Errors of asking for a process that ends or is being started."""


def crash_loop(process: str, number: signal.Signals, lowest: float, highest: float) -> Injector:
    """Each process that is started crashes again, so many seconds after its start."""

    async def act(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
        end, last = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            with suppress(*_GONE):
                pid = project.pid(process)
                if pid != last:
                    if last:
                        await asyncio.sleep(chance.uniform(lowest, highest))
                    os.kill(pid, number)
                    last = pid
            await asyncio.sleep(0.1)

    return act


def killed_together(*processes: str) -> Injector:
    """The kernel's memory killer takes several processes at once, and comes back twice."""

    async def act(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
        end = time.monotonic() + seconds
        for _ in range(3):
            for process in processes:
                with suppress(*_GONE):
                    os.kill(project.pid(process), signal.SIGKILL)
            await asyncio.sleep(min(chance.uniform(3.5, 5.0), max(0.0, end - time.monotonic())))
        await asyncio.sleep(max(0.0, end - time.monotonic()))

    return act


async def engine_dies_beside_frozen_worker(
    project: FaultyProject, users: Users, chance: random.Random, seconds: float
) -> None:
    """Two faults that have nothing to do with each other, a few seconds apart."""
    end, worker = time.monotonic() + seconds, project.pid("worker")
    with stood_still(worker):
        os.kill(worker, signal.SIGSTOP)
        await asyncio.sleep(min(seconds / 4, chance.uniform(3.0, 5.0)))
        crashes = crash_loop("engine", signal.SIGKILL, 0.5, 1.5)
        await crashes(project, users, chance, max(0.0, end - time.monotonic()))


async def gateway_stutters(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """It stands still for seconds, as in collections of garbage or on a bad page of memory, and goes on between."""
    pid, end = project.pid("gateway"), time.monotonic() + seconds
    with stood_still(pid):
        while time.monotonic() < end:
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(chance.uniform(2.5, 4.0))
            os.kill(pid, signal.SIGCONT)
            await asyncio.sleep(chance.uniform(0.5, 1.0))


async def machine_pauses(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """The virtual machine is paused again and again: every process of the project stands still, its supervisor too."""
    children = [project.pid(process) for process in ("gateway", "worker", "engine")]
    pids, end = (parent(children[0]), *children), time.monotonic() + seconds
    with stood_still(*pids):
        while time.monotonic() < end:
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(chance.uniform(4.0, 6.0))
            for pid in reversed(pids):
                os.kill(pid, signal.SIGCONT)
            await asyncio.sleep(chance.uniform(2.0, 3.0))


def parent(pid: int) -> int:
    # The name of a process may have blanks and brackets; what follows it has neither.
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def starved(process: str, share: float) -> Injector:
    """A process gets no more than a share of one processor, by a limit that somebody set."""

    async def act(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
        with _limited(project.pid(process), share):
            await asyncio.sleep(seconds)

    return act


def remove_group(group: Path) -> None:
    """Give the processes of a control group back to the one above, and remove it."""
    for _ in range(100):
        for inside in (group / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                (group.parent / "cgroup.procs").write_text(inside)
        try:
            group.rmdir()
            break
        except OSError:  # One of them is just ending.
            time.sleep(0.05)


@contextmanager
def _limited(pid: int, share: float) -> Iterator[None]:
    """A process is in a control group of its own while the block lasts, with a quota of processor time; as root."""
    group = _CPU / f"antiphon-fault-{os.getpid()}-{pid}"
    group.mkdir()
    try:
        (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
        (group / "cpu.cfs_quota_us").write_text(str(int(_PERIOD_US * share)))
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        (group / "cpu.cfs_quota_us").write_text("-1")
        remove_group(group)


async def engine_socket_gone(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """Something that tidies up removes the engine's socket; it is felt once a gateway begins anew, in good order."""
    (project.root / ".antiphon" / "run" / "engine.sock").unlink()
    os.kill(project.pid("gateway"), signal.SIGTERM)
    await asyncio.sleep(seconds)


async def inodes_gone(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """No file can be made any more, although there is room; needs a file system of the project's own."""
    mount = project.root.parent
    filler = project.root / "filler"
    filler.mkdir()
    _remount(mount, os.statvfs(mount).f_files - os.statvfs(mount).f_ffree + 200)
    try:
        number = 0
        with suppress(OSError):
            while number < 10_000:
                (filler / f"session-{number}").touch()
                number += 1
        await refreshed(project, seconds)
    finally:
        for file in filler.iterdir():
            file.unlink()
        _remount(mount, 0)


def _remount(mount: Path, inodes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,nr_inodes={inodes}", str(mount)], check=True, capture_output=True)


PROCESSES: dict[str, Injector] = {
    "engine_crash_loop": crash_loop("engine", signal.SIGSEGV, 0.2, 1.0),
    "gateway_crash_loop": crash_loop("gateway", signal.SIGABRT, 0.5, 2.0),
    "worker_crash_loop": crash_loop("worker", signal.SIGKILL, 0.5, 1.5),
    "everything_killed": killed_together("engine", "worker", "gateway"),
    "engine_dies_beside_frozen_worker": engine_dies_beside_frozen_worker,
    "gateway_stutters": gateway_stutters,
    "machine_pauses": machine_pauses,
    "engine_starved": starved("engine", 0.01),
    "gateway_starved": starved("gateway", 0.02),
    "engine_socket_gone": engine_socket_gone,
    "inodes_gone": inodes_gone,
}
