"""Injectors on the machine below the processes: its table of processes, its disk, and what looks after them."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.operations.faults.injectors.injector import Injector, stood_still
from benchmarks.operations.faults.injectors.processes import parent
from benchmarks.operations.faults.project import FaultyProject
from benchmarks.operations.faults.users import Users

_PIDS, _DISK = Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup/blkio")
_WRITES_A_SECOND = 2
_PROCESSES = ("gateway", "worker", "engine")
_GONE = (ProcessLookupError, FileNotFoundError, ValueError)
"""Errors of asking for a process that ends or is being started."""


async def engine_dies_unattended(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """The engine is killed while what would start it again hangs."""
    engine = project.pid("engine")
    supervisor = parent(engine)
    with stood_still(supervisor):
        os.kill(supervisor, signal.SIGSTOP)
        os.kill(engine, signal.SIGKILL)
        await asyncio.sleep(seconds)


async def process_table_full(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """Something has used up the processes and threads that there may be; then the gateway is to begin anew."""
    end = time.monotonic() + seconds
    pids = [project.pid(process) for process in _PROCESSES]
    with _grouped(_PIDS, "pids", [parent(pids[0]), *pids]) as group:
        lowest = int((group / "pids.current").read_text())
        (group / "pids.max").write_text(str(lowest))
        try:
            os.kill(pids[0], signal.SIGTERM)
            while time.monotonic() < end:
                # What ends leaves room, which something else takes at once.
                lowest = min(lowest, int((group / "pids.current").read_text()))
                (group / "pids.max").write_text(str(lowest))
                await asyncio.sleep(min(0.005, max(0.0, end - time.monotonic())))
        finally:
            (group / "pids.max").write_text("max")


async def disk_slow(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """The disk is worn out or shared with too many: it writes no more than twice a second for the project."""
    device = os.stat(project.root).st_dev
    device_name = f"{os.major(device)}:{os.minor(device)}"
    pids = [project.pid(process) for process in _PROCESSES]
    with _grouped(_DISK, "blkio", [parent(pids[0]), *pids]) as group:
        limit = group / "blkio.throttle.write_iops_device"
        try:
            limit.write_text(f"{device_name} {_WRITES_A_SECOND}")
        except OSError as error:
            raise RuntimeError(f"The disk {device_name} cannot be slowed down here: {error}") from error
        try:
            await asyncio.sleep(seconds)
        finally:
            limit.write_text(f"{device_name} 0")


@contextmanager
def _grouped(controller: Path, name: str, pids: Sequence[int]) -> Iterator[Path]:
    """Processes, and what they start, are in a control group of their own while the block lasts; as root."""
    group = controller / f"antiphon-fault-{name}-{os.getpid()}-{pids[0]}"
    group.mkdir()
    try:
        for pid in pids:
            (group / "cgroup.procs").write_text(str(pid))
        yield group
    finally:
        for _ in range(100):
            for inside in (group / "cgroup.procs").read_text().split():
                with suppress(ProcessLookupError):
                    (group.parent / "cgroup.procs").write_text(inside)
            try:
                group.rmdir()
                break
            except OSError:  # One of them is just ending.
                time.sleep(0.05)


async def gateway_allocations_fail(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """A limit on addresses, meant for others, holds for each gateway: what it asks for beyond what it has fails."""
    end = time.monotonic() + seconds
    before: dict[int, tuple[int, int]] = {}
    try:
        while time.monotonic() < end:
            with suppress(*_GONE):
                pid = project.pid("gateway")
                if pid not in before:
                    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
                    found = resource.prlimit(pid, resource.RLIMIT_AS)
                    resource.prlimit(pid, resource.RLIMIT_AS, (pages * resource.getpagesize(), found[1]))
                    before[pid] = found
            await asyncio.sleep(min(0.2, max(0.0, end - time.monotonic())))
    finally:
        for pid, limits in before.items():
            with suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_AS, limits)


MACHINE: dict[str, Injector] = {
    "engine_dies_unattended": engine_dies_unattended,
    "process_table_full": process_table_full,
    "disk_slow": disk_slow,
    "gateway_allocations_fail": gateway_allocations_fail,
}
