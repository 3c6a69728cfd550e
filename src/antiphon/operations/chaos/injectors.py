"""Injectors of faults of processes and of the machine: each begins its fault and ends it.

Invariants: a process is signaled through a descriptor of that very process (``pidfd_open(2)``), looked up by its
record, so that a pid that was given to a stranger is never hit. Load and files end with this process, by the
kernel: burners have it as their parent (``PR_SET_PDEATHSIG``), and the file that fills a disk has no name. What
stands still is continued by :meth:`end`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from antiphon.core.errors import NotFoundError, UnavailableError
from antiphon.operations.chaos.faults import (
    CpuLoad,
    DiskFill,
    MemoryLoad,
    ProcessKill,
    ProcessSlowdown,
    ProcessStop,
)
from antiphon.operations.processes import ProcessRecord, is_running, read_records, started_ticks

_PERIOD = 0.1
"""Seconds of one turn of a slowdown."""
_WRITE_LOCK_BYTE = 120
"""Byte of ``-shm`` by which SQLite's WAL has one writer (https://www.sqlite.org/walformat.html, section 2.3)."""
_CLEAR_SECONDS = 2.0
"""Time within which a process is met at a moment without the write lock."""
_STOP_SECONDS = 1.0
_PIECE = 256 << 20

_BURNER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(0)
open("/proc/self/oom_score_adj", "w").write("1000")
size = int(sys.argv[2])
kept = bytearray(size)
kept[::4096] = b"x" * len(range(0, size, 4096))
print("begun", flush=True)
while not size:
    pass
signal.pause()
"""


class ProcessInjector:
    """Kills, stops or slows a process of the project.

    Args:
        run: the folder of process records; ``target``: the record's name.
        catalog: the SQLite file, whose lock a process that is stopped should not hold; ``None`` without one.
    """

    def __init__(
        self, fault: ProcessKill | ProcessStop | ProcessSlowdown, run: Path, target: str, catalog: Path | None
    ) -> None:
        self._fault = fault
        self._run = run
        self._target = target
        self._catalog = catalog
        self._descriptor = -1
        self._pid = 0
        self._stopped = False

    def begin(self) -> tuple[str, ...]:
        """Break the process; what was touched, in words. Raises ``NotFoundError`` when it does not run."""
        record = running_record(self._run, self._target)
        self._pid = record.pid
        self._descriptor = process_descriptor(record)
        if isinstance(self._fault, ProcessKill):
            self._send(signal.SIGKILL)
        elif isinstance(self._fault, ProcessStop):
            self._stop(clear=not self._fault.in_transaction)
        else:
            self._toggle()
        return (f"{record.name} (process {record.pid})",)

    def tick(self) -> float:
        """Go on with the fault; seconds until the next time."""
        if not isinstance(self._fault, ProcessSlowdown):
            return 3_600.0
        return self._toggle()

    def end(self) -> None:
        """Let the process go on."""
        if self._descriptor >= 0:
            if not isinstance(self._fault, ProcessKill):
                self._send(signal.SIGCONT)
            os.close(self._descriptor)
            self._descriptor = -1

    def _toggle(self) -> float:
        assert isinstance(self._fault, ProcessSlowdown)
        self._stopped = not self._stopped
        self._send(signal.SIGSTOP if self._stopped else signal.SIGCONT)
        return _PERIOD * (self._fault.share if self._stopped else 1 - self._fault.share)

    def _stop(self, *, clear: bool) -> None:
        deadline = time.monotonic() + _CLEAR_SECONDS
        while True:
            self._send(signal.SIGSTOP)
            await_stop(self._pid)
            if not clear or self._catalog is None or not holds_write_lock(self._catalog, self._pid):
                return
            self._send(signal.SIGCONT)
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"{self._target} holds the catalog's write lock all the time.", where=self._target,
                    next_step="Try again later, or say in_transaction: true.",
                )  # fmt: skip
            time.sleep(0.005)

    def _send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, number)


class LoadInjector:
    """Takes cores or memory, by programs that end with this process."""

    def __init__(self, fault: CpuLoad | MemoryLoad) -> None:
        self._fault = fault
        self._burners: list[subprocess.Popen[bytes]] = []

    def begin(self) -> tuple[str, ...]:
        """Start the neighbors, and wait until they have what they take."""
        sizes = [0] * self._fault.cores if isinstance(self._fault, CpuLoad) else [self._fault.megabytes * 1_000_000]
        for size in sizes:
            command = (sys.executable, "-I", "-S", "-c", _BURNER, str(os.getpid()), str(size))
            # A session of its own: the kernel weighs it as it would weigh somebody else's program.
            self._burners.append(subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True))
        for burner in self._burners:
            assert burner.stdout is not None
            if burner.stdout.readline() != b"begun\n":
                raise UnavailableError("A neighbor could not take what it was to take.", where="machine")
        return tuple(f"neighbor (process {burner.pid})" for burner in self._burners)

    def tick(self) -> float:
        return 3_600.0

    def end(self) -> None:
        """End the neighbors."""
        for burner in self._burners:
            burner.kill()
        for burner in self._burners:
            burner.wait()
            if burner.stdout is not None:
                burner.stdout.close()
        self._burners.clear()


class DiskInjector:
    """Fills the file system of a folder with a file that has no name."""

    def __init__(self, fault: DiskFill, folder: Path) -> None:
        self._fault = fault
        self._folder = folder
        self._file = -1

    def begin(self) -> tuple[str, ...]:
        """Take the room. Raises ``UnavailableError`` where the file system cannot set room aside."""
        self._file, name = tempfile.mkstemp(prefix=".chaos-", dir=self._folder)
        os.unlink(name)
        found = os.statvfs(self._folder)
        size = min(self._fault.most, max(0, found.f_bavail * found.f_frsize - self._fault.leave))
        try:
            for start in range(0, size, _PIECE):
                os.posix_fallocate(self._file, start, min(_PIECE, size - start))
        except OSError as error:
            os.close(self._file)
            self._file = -1
            raise UnavailableError(f"The disk cannot be filled: {error.strerror}.", where=str(self._folder)) from None
        return (f"{size / 1e6:,.0f} MB of the file system of {self._folder}",)

    def tick(self) -> float:
        return 3_600.0

    def end(self) -> None:
        """Give the room back."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def holds_write_lock(catalog: Path, pid: int) -> bool:
    """Tells whether a process holds the write lock of an SQLite database in WAL mode, as ``/proc/locks`` says."""
    try:
        inode = os.stat(f"{catalog}-shm").st_ino
        locks = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return False
    for line in locks:
        fields = line.split()
        # 1: POSIX  ADVISORY  WRITE 1234 08:01:4711 120 120; what waits for a lock has an arrow in front of its kind.
        if len(fields) == 8 and fields[3] == "WRITE" and fields[4] == str(pid) and fields[5].endswith(f":{inode}"):
            last = float("inf") if fields[7] == "EOF" else int(fields[7])
            if int(fields[6]) <= _WRITE_LOCK_BYTE <= last:
                return True
    return False


def continue_left_over(run: Path, names: Sequence[str]) -> tuple[str, ...]:
    """Let processes go on that a guardian left standing still, because it was killed itself; those that did."""
    found = []
    for record in read_records(run):
        if record.name in names and is_running(record):
            stat = Path(f"/proc/{record.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
            if stat == "T":
                descriptor = process_descriptor(record)
                try:
                    signal.pidfd_send_signal(descriptor, signal.SIGCONT)
                finally:
                    os.close(descriptor)
                found.append(record.name)
    return tuple(found)


def await_stop(pid: int) -> None:
    """Wait until every thread of a process stands still: the signal is sent before they do."""
    deadline = time.monotonic() + _STOP_SECONDS
    while time.monotonic() < deadline:
        with suppress(OSError, IndexError):
            threads = [one.read_text(encoding="utf-8") for one in Path(f"/proc/{pid}/task").glob("[0-9]*/stat")]
            if all(one.rpartition(")")[2].split()[0] in "TZX" for one in threads):
                return
        time.sleep(0.001)


def running_record(run: Path, name: str) -> ProcessRecord:
    """The record of a process that runs; raises ``NotFoundError`` without one."""
    for record in read_records(run):
        if record.name == name and is_running(record):
            return record
    raise NotFoundError(f"The process {name!r} does not run.", where=name, next_step="See `antiphon status`.")


def process_descriptor(record: ProcessRecord) -> int:
    """A descriptor of the very process of a record; raises ``NotFoundError`` when it has ended."""
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(record.pid)
        # Of the pid since the descriptor was made: it is the recorded one, or it is not.
        if started_ticks(record.pid) == record.started_ticks:
            return descriptor
        os.close(descriptor)
    raise NotFoundError(
        f"The process {record.name!r} has ended.", where=record.name, next_step="See `antiphon status`."
    )
