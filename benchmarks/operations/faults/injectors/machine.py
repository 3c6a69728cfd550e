"""Injectors on the machine below the processes: its disk, threads, and what looks after them."""

from __future__ import annotations

import asyncio
import ctypes
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks.operations.faults.injectors.injector import Injector, stood_still
from benchmarks.operations.faults.injectors.processes import parent, remove_group
from benchmarks.operations.faults.project import FaultyProject
from benchmarks.operations.faults.users import Users

from antiphon.core.child_process import start_child

_DISK = Path("/sys/fs/cgroup/blkio")
_WRITES_A_SECOND = 2
_SYNC = "fsync,fdatasync"
_PROCESSES = ("gateway", "worker", "engine")
_GONE = (ProcessLookupError, FileNotFoundError, ValueError)
"""Errors of asking for a process that ends or is being started."""

_COMPUTING = "step-loop"
_SEIZE, _INTERRUPT, _DETACH = 0x4206, 0x4207, 17
"""Orders of ptrace(2)."""

_ALL = 0x4000_0000
"""Of waitpid(2): threads are waited for as well."""

_FUTEX = 202
"""The number of the system call by which threads wait, on x86-64."""


async def engine_dies_unattended(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """The engine is killed while what would start it again hangs."""
    engine = project.pid("engine")
    supervisor = parent(engine)
    with stood_still(supervisor):
        os.kill(supervisor, signal.SIGSTOP)
        os.kill(engine, signal.SIGKILL)
        await asyncio.sleep(seconds)


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


async def disk_errors(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """The disk begins to fail: whoever has what was written put on it for sure gets an error of input and output."""
    end = time.monotonic() + seconds
    failing: dict[int, subprocess.Popen[bytes]] = {}
    try:
        while time.monotonic() < end:
            for process in _PROCESSES:
                with suppress(*_GONE):
                    pid = project.pid(process)
                    if pid not in failing:
                        failing[pid] = start_child(
                            ["strace", "-f", "-qq", "-o", os.devnull, "-p", str(pid), "-e", f"trace={_SYNC}",
                             "-e", f"inject={_SYNC}:error=EIO"],
                            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                        )  # fmt: skip
            await asyncio.sleep(min(0.2, max(0.0, end - time.monotonic())))
    finally:
        for tracer in failing.values():
            # What it traces goes on as it was.
            tracer.kill()
            tracer.wait()


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
        remove_group(group)


async def engine_thread_stuck(project: FaultyProject, users: Users, chance: random.Random, seconds: float) -> None:
    """The thread that computes waits for ever, as in a deadlock, and all others of the engine go on."""
    engine = project.pid("engine")
    thread = next((one for one in _threads(engine) if one[1] == _COMPUTING), None)
    if thread is None:
        raise RuntimeError(f"The engine has no thread {_COMPUTING!r}.")
    end, caught = threading.Event(), threading.Event()
    tracer = threading.Thread(target=_hold, args=(engine, thread[0], caught, end), daemon=True)
    tracer.start()
    try:
        if not await asyncio.to_thread(caught.wait, 10.0):
            raise RuntimeError("The engine's thread cannot be held here: ptrace is not allowed, or it never waited.")
        await asyncio.sleep(seconds)
    finally:
        end.set()
        await asyncio.to_thread(tracer.join, 10.0)


def _threads(pid: int) -> list[tuple[int, str]]:
    """Ids and names of a process's threads."""
    found = []
    for entry in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            found.append((int(entry.name), (entry / "comm").read_text().strip()))
    return found


def _hold(pid: int, thread: int, caught: threading.Event, end: threading.Event) -> None:
    """Hold a thread where it waits, and so has no lock of its interpreter, until the event; a kernel lets it go too
    when the one that holds it ends."""
    library = ctypes.CDLL(None, use_errno=True)
    library.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    place = Path(f"/proc/{pid}/task/{thread}")
    while not end.is_set():
        with suppress(OSError):
            if not place.joinpath("wchan").read_text().startswith("futex"):
                end.wait(0.001)
                continue
        if library.ptrace(_SEIZE, thread, None, None) != 0:
            return
        library.ptrace(_INTERRUPT, thread, None, None)
        _, status = os.waitpid(thread, _ALL)
        if not os.WIFSTOPPED(status):
            return  # It has ended.
        if place.joinpath("syscall").read_text().split()[0] == str(_FUTEX):
            caught.set()
            while not end.wait(0.05):
                # Of a process that was killed it must be fetched, so that others see its end.
                ended, status = os.waitpid(thread, _ALL | os.WNOHANG)
                if ended and not os.WIFSTOPPED(status):
                    return
        library.ptrace(_DETACH, thread, None, None)


MACHINE: dict[str, Injector] = {
    "engine_dies_unattended": engine_dies_unattended,
    "disk_slow": disk_slow,
    "disk_errors": disk_errors,
    "engine_thread_stuck": engine_thread_stuck,
}
