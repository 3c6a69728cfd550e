"""Starts processes that end when the process that started them ends, whatever ends it.

Scripts that start a platform (the flight desk, benchmarks, kill harnesses) use this instead of ``subprocess.Popen``.
Two things together leave nothing running:

- SIGTERM unwinds the script, so that its context managers end what they started and wait for it. Python's default would
  end the script on the spot.
- The kernel sends SIGTERM to the child when the script is gone without unwinding (SIGKILL, a crash). A platform drains
  on SIGTERM and ends its own processes.

The second is Linux alone (``PR_SET_PDEATHSIG``, ``prctl(2)``). The kernel means the *thread* that started the child:
start children from a thread that lives as long as they are needed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_PRELUDE = """
import ctypes, os, signal, sys
signal.pthread_sigmask(signal.SIG_SETMASK, ())
ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(143)
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.exit(f"{sys.argv[2]} cannot be run: {error.strerror}")
"""
"""Runs in the child before its program: the child sets its own death signal, since code between fork and exec is not
safe beside threads. The parent may have died before the signal was set. The pid stays the program's."""


def die_with_parent(command: Iterable[str]) -> tuple[str, ...]:
    """The command of a child that gets SIGTERM when this process ends; the same command where the kernel cannot."""
    if sys.platform != "linux":
        return tuple(command)
    return (sys.executable, "-I", "-S", "-c", _PRELUDE, str(os.getpid()), *command)


def start_child(command: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """Start a child that ends with this process; SIGTERM unwinds this process from now on. The options are those of
    ``subprocess.Popen``."""
    unwind_on_termination()
    return subprocess.Popen(die_with_parent(command), **options)


def end_with_parent(parent: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel signal this forked child when ``parent`` (a pid) is gone; exits at once if it is already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    # The parent may have died before it could be named.
    if os.getppid() != parent:
        os._exit(128 + number)


def name_thread(name: str) -> None:
    """Give the calling thread a name of at most 15 bytes that the kernel shows; threads that it starts inherit it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def unwind_on_termination() -> None:
    """Let SIGTERM raise ``SystemExit`` in the main thread, unless something else handles the signal."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _unwind)


def _unwind(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def lower_session(pid: int, nice: int) -> bool:
    """Give the session that a process leads a nice value; whether the kernel has sessions to weigh and took it.

    Linux may schedule sessions against each other before it looks at their processes (autogroups, ``sched(7)``): then
    nice values and SCHED_IDLE only say who comes first *within* a session, and a process that leads one of its own
    takes as much as all of another session together. The session then needs a nice value of its own. Where processes
    stand in cgroups of their own, those weigh and this changes nothing.
    """
    group = Path(f"/proc/{pid}/autogroup")
    with suppress(OSError):
        if os.getsid(pid) == pid and group.exists():
            group.write_text(str(nice), encoding="ascii")
            return True
    return False
