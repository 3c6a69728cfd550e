"""Setup of a training process before it loads anything, and the report of its end.

Invariant: it gives way to everything else, ends with its parent, and is alone in its folder.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from antiphon.core.child_process import end_with_parent, lower_session
from antiphon.core.disk import FULL, file_lock, replace_file
from antiphon.core.errors import AntiphonError, ConflictError, SetupError
from antiphon.core.logs import described
from antiphon.training.folder_seal import PLAIN, FolderSeal
from antiphon.training.order import ERROR, Failure

LOCK = "process.json"
FAILED, DISK_FULL, OUT_OF_MEMORY = 10, 11, 12
"""Exit codes: an error that ``error.json`` tells, and two that may have kept it from being written."""

_OUT_OF_MEMORY = re.compile(
    "can't allocate memory|[Cc]annot allocate memory|bad_alloc|failed to map segment|unable to mmap"
)
_SHORTAGES = {
    DISK_FULL: ("The disk is full, or a file grew past its limit.", "Free some space and order it again"),
    OUT_OF_MEMORY: ("The training ran out of memory.", "Lower `batch`, or free some memory, and order it again"),
}


class ProcessMark(msgspec.Struct, frozen=True):
    """The content of ``process.json``. A pid may be reused; with its start time (in ticks) it is this process."""

    pid: int
    started_ticks: int


def environment(threads: int) -> dict[str, str]:
    """Environment variables the process must start with.

    Waiting OpenMP threads that spin for long make a step six times as long beside busy neighbors; with hardly any
    spinning (1,000) it is 40 % longer on an idle machine. Arithmetic must not pick its number of threads by the load.
    """
    return {
        "GOMP_SPINCOUNT": "20000",
        "OMP_NUM_THREADS": str(threads),
        "OMP_DYNAMIC": "FALSE",
        "MKL_DYNAMIC": "FALSE",
        "OPENBLAS_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # Without it a GPU's sums differ from run to run.
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }


def confine(parent: int | None, memory_bytes: int | None) -> None:
    """Lowest priority, an end with the parent (``None`` when this process was started by hand), and a bound on memory.
    Before torch loads: threads inherit it."""
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    else:
        os.nice(19)
    lower_session(os.getpid(), 19)
    with suppress(OSError):  # Of all processes the kernel should end this one when memory runs out.
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
    if parent is not None:
        end_with_parent(parent, signal.SIGKILL)
    if memory_bytes is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))


def processor_seconds(pid: int) -> float | None:
    """Seconds of processor that all threads of a process have used, ``None`` when it is gone."""
    fields = _stat(pid)
    return None if fields is None else (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def set_priority(pid: int, nice: int) -> bool:
    """Take a training from the lowest priority to an ordinary one of this nice value; returns whether it was permitted:
    in its session against others, or for its threads."""
    permitted = lower_session(pid, nice)
    with suppress(ProcessLookupError, PermissionError, FileNotFoundError):
        for thread in [int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()]:
            with suppress(ProcessLookupError):  # A thread that has ended keeps no other from its priority.
                os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
                os.setpriority(os.PRIO_PROCESS, thread, nice)
        permitted = True
    return permitted


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder for this process; the kernel lets go of it however the process ends. Raises ``ConflictError``
    when another one holds it."""
    with file_lock(folder / LOCK, wait=False) as held:
        if held is None:
            raise ConflictError(
                "Another process trains in this folder.", where=str(folder), next_step="Wait for it, or stop it."
            )
        mark = ProcessMark(os.getpid(), started_ticks(os.getpid()) or 0)
        os.ftruncate(held, 0)
        os.pwrite(held, msgspec.json.encode(mark), 0)
        yield


def started_ticks(pid: int) -> int | None:
    """The kernel's start time of a running process (``proc(5)``, field 22), ``None`` when it is gone or a zombie."""
    fields = _stat(pid)
    return None if fields is None or fields[0] in "ZX" else int(fields[19])


def _stat(pid: int) -> list[str] | None:
    """Fields of ``/proc/PID/stat`` from the third on (``proc(5)``), ``None`` when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def left_over(folder: Path) -> int | None:
    """Pid of the process that still trains in a folder, if one does."""
    try:
        mark = msgspec.json.decode((folder / LOCK).read_bytes(), type=ProcessMark)
    except (OSError, msgspec.DecodeError):
        return None
    return mark.pid if started_ticks(mark.pid) == mark.started_ticks else None


def explain(error: BaseException, folder: Path, seal: FolderSeal = PLAIN) -> int:
    """Write ``error.json`` for whatever ended the training; returns the exit code.

    The message of an error that is not Antiphon's own may quote an example: it is told by type, here as in logs.
    """
    code = FAILED
    reported: AntiphonError
    if isinstance(error, OSError) and error.errno in FULL:
        code, reported = DISK_FULL, shortage(DISK_FULL, folder)
    elif is_out_of_memory(error):
        code, reported = OUT_OF_MEMORY, shortage(OUT_OF_MEMORY, folder)
    elif isinstance(error, AntiphonError):
        reported = error
    else:
        reported = AntiphonError(
            f"The training failed: {described(error)}",
            where=str(folder),
            next_step="Its log is beside it; ordered again, it goes on from the last checkpoint.",
        )
    report = Failure(reported.code, reported.what, reported.where, reported.next_step)
    with suppress(OSError):
        replace_file(folder / ERROR, seal.seal(ERROR, msgspec.json.encode(report)))
    return code


def is_out_of_memory(error: BaseException) -> bool:
    """``True`` for an error by which Python, numpy or torch report that memory ran out."""
    return isinstance(error, MemoryError) or (
        isinstance(error, (RuntimeError, OSError, ImportError)) and _OUT_OF_MEMORY.search(str(error)) is not None
    )


def shortage(code: int, folder: Path) -> SetupError:
    """The error of a training that ran out of memory, or could not write."""
    what, remedy = _SHORTAGES[code]
    return SetupError(what, where=str(folder), next_step=f"{remedy}: it goes on from the last checkpoint.")


def processor() -> str:
    """The processor's name."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    import platform

    return platform.processor() or platform.machine()


def install_stop() -> Any:
    """Let SIGTERM ask for a stop at the end of the step; returns what says whether it was asked."""
    stop_requested = False

    def ask(*_: object) -> None:
        nonlocal stop_requested
        stop_requested = True

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return lambda: stop_requested
