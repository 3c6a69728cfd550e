"""The process records under ``.antiphon/run``: which child runs under which pid, since when.

A pid alone may have been given to a stranger since; a record therefore carries the kernel's start time of the
process, and only a process with that start time is ours.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Collection
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec


class ProcessRecord(msgspec.Struct, frozen=True):
    """The content of ``NAME.pid``.

    Attributes:
        started_ticks: field 22 of ``/proc/PID/stat``, since the machine was started; 0 where there is no /proc.
        boot: which start of the machine that was.
        run: the folder it was written to: of a project that was copied, the records are still the other one's.
        stopped: why it does not run, of one that its supervisor has stopped and starts when it is needed; ``pid`` is
            then that of its last start, 0 without one.
        ended: how its run before this one ended, such as ``signal 9``; empty for one that was asked to end, and for the
            first.
    """

    name: str
    pid: int
    started_ticks: int
    started_at: datetime
    restarts: int = 0
    boot: str = ""
    run: str = ""
    stopped: str = ""
    ended: str = ""


ProcessState = Literal["running", "paused", "stopped", "away"]


class ProcessStatus(msgspec.Struct, frozen=True):
    """A child as it is now. ``resident_bytes``, ``nice`` and the ``cpu_seconds`` since its start are ``None`` when it
    does not run.

    ``paused``: it stands still where it is (SIGSTOP), as a training does beside online requests. ``stopped``: it was
    ended and is started when it is needed; ``detail`` says why. ``ended``: how the run before ended, unless in order.
    """

    name: str
    pid: int
    alive: bool
    restarts: int
    started_at: datetime
    resident_bytes: int | None = None
    nice: int | None = None
    state: ProcessState = "running"
    detail: str = ""
    cpu_seconds: float | None = None
    ended: str = ""


def started_ticks(pid: int) -> int | None:
    """The kernel's start time of a running process, ``None`` when it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return None if Path("/proc/self/stat").exists() or not _answers_signal(pid) else 0
    except ProcessLookupError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def write_record(run: Path, record: ProcessRecord) -> None:
    """Write ``run/NAME.pid`` so that a reader sees the old record or the new one, never half of it."""
    partial = run / f"{record.name}.pid.partial"
    partial.write_bytes(msgspec.json.encode(record))
    partial.replace(run / f"{record.name}.pid")


def read_records(run: Path) -> tuple[ProcessRecord, ...]:
    """Every readable record of this folder's own processes, by name."""
    records, own = [], str(run.resolve())
    for file in sorted(run.glob("*.pid")):
        try:
            record = msgspec.json.decode(file.read_bytes(), type=ProcessRecord)
        except (msgspec.DecodeError, FileNotFoundError):
            continue
        if record.run in ("", own):
            records.append(record)
    return tuple(records)


def is_running(record: ProcessRecord) -> bool:
    """``True`` while the very process of this record runs."""
    ticks = started_ticks(record.pid) if record.pid else None
    return ticks is not None and ticks == record.started_ticks and record.boot in ("", boot())


class ProcessIdentity(msgspec.Struct, frozen=True):
    """Names one process among all of all machines and of all times.

    Attributes:
        namespace: in which the pid counts: containers may share a host name and not their processes; empty where there
            is none.
    """

    host: str
    boot: str
    namespace: str
    pid: int
    started_ticks: int

    @classmethod
    def own(cls) -> ProcessIdentity:
        """The identity of this process."""
        return cls(socket.gethostname(), boot(), _namespace(), os.getpid(), started_ticks(os.getpid()) or 0)

    def __str__(self) -> str:
        return f"{self.host}/{self.boot}/{self.namespace}/{self.pid}/{self.started_ticks}"

    def has_ended(self, other: str) -> bool:
        """``True`` when another one, by its text, is taken for ended: it was of this host name, and is not there.

        So is one of another container of this host name: it was the container before, unless two run at once, whose
        processes take each other's leases. What is done under them must bear that.
        """
        try:
            host, started, _, pid, ticks = other.rsplit("/", 4)
            if host != self.host:
                return False
            return started != self.boot or started_ticks(int(pid)) != int(ticks)
        except ValueError:  # Another version wrote it.
            return False

    def sees_end_of(self, other: str) -> bool:
        """``True`` when another one is known to have ended: as :meth:`has_ended`, where its pid counts as ours does.

        Two machines may have one host name, and every machine has a first namespace: so it is of this start, too.
        """
        return other.split("/")[-4:-2] == [self.boot, self.namespace] and self.has_ended(other)


def statuses(run: Path) -> tuple[ProcessStatus, ...]:
    """The present state of every recorded child."""
    return tuple(_status(record) for record in read_records(run))


def signal_group(record: ProcessRecord, number: signal.Signals) -> bool:
    """Signal the child's process group; ``False`` when it no longer runs."""
    if not is_running(record):
        return False
    try:
        os.killpg(record.pid, number)
    except ProcessLookupError:
        return False
    return True


def _status(record: ProcessRecord) -> ProcessStatus:
    alive = is_running(record)
    resident = nice = cpu = None
    if alive:
        try:
            pages = Path(f"/proc/{record.pid}/statm").read_text(encoding="utf-8").split()[1]
            resident = int(pages) * os.sysconf("SC_PAGE_SIZE")
            nice = os.getpriority(os.PRIO_PROCESS, record.pid)
            fields = Path(f"/proc/{record.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except (OSError, IndexError):
            pass
    return ProcessStatus(
        name=record.name,
        pid=record.pid,
        alive=alive,
        restarts=record.restarts,
        started_at=record.started_at,
        resident_bytes=resident,
        nice=nice,
        state=_state(record, alive),
        detail=record.stopped,
        cpu_seconds=cpu,
        ended=record.ended,
    )


def _state(record: ProcessRecord, alive: bool) -> ProcessState:
    if not alive:
        return "stopped" if record.stopped else "away"
    return "paused" if _stands_still(record.pid) else "running"


def _stands_still(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "T"
    return False


def waited_seconds(pid: int, loops: Collection[str] | None = None) -> dict[int, float]:
    """Read for how many seconds threads of a process have waited for a processor so far, the second figure of
    ``/proc/PID/task/*/schedstat``; empty where the kernel does not say.

    Args:
        loops: only the main thread and those of these names; ``None`` reads all.
    """
    found = {}
    for thread in Path(f"/proc/{pid}/task").glob("[0-9]*"):
        with suppress(OSError, IndexError):  # It ends as it is read.
            name = (thread / "comm").read_text(encoding="utf-8", errors="replace").strip()
            if loops is not None and thread.name != str(pid) and name not in loops:
                continue
            found[int(thread.name)] = int((thread / "schedstat").read_text(encoding="ascii").split()[1]) / 1e9
    return found


def descriptors(pid: int) -> tuple[int, int] | None:
    """The files and sockets that a process has open, and how many it may have; ``None`` where the kernel does not
    say."""
    try:
        limits = Path(f"/proc/{pid}/limits").read_text(encoding="ascii")
        most = next(line for line in limits.splitlines() if line.startswith("Max open files")).split()[3]
        return len(os.listdir(f"/proc/{pid}/fd")), int(most)
    except (OSError, StopIteration, IndexError, ValueError):  # It ends as it is read, or may have any number.
        return None


def boot() -> str:
    """A name of this start of the machine: pids and start times count anew after the next; empty where it has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _namespace() -> str:
    try:
        return str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        return ""


def _answers_signal(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
