"""Resident memory of processes, and memory given back to the system once what took it is gone: glibc keeps freed memory
for the next allocation."""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable
from pathlib import Path

LARGE_BYTES = 1 << 18
"""A request from this size on leaves enough behind to be worth giving back."""

DELAY_SECONDS = 1.0


def resident_bytes(pid: int) -> int | None:
    """Resident memory of a process, pages of files that it has mapped included; ``None`` when it is gone, or the system
    does not say (``proc(5)``, ``statm``)."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


LEAST_AVAILABLE = 0.03
"""Share of a machine's memory below which it soon kills processes, or stands still."""


def shortage() -> str | None:
    """The sentence that says that the machine has hardly any memory left (``MemAvailable`` of ``proc(5)``); ``None``
    while it has, or where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found = {name: int(text.split()[0]) for name, _, text in (line.partition(":") for line in lines)}
        total, available = found["MemTotal"], found["MemAvailable"]
    except (OSError, KeyError, ValueError, IndexError):
        return None
    if available >= LEAST_AVAILABLE * total:
        return None
    return f"The machine has {available / 1e3:.0f} of {total / 1e3:.0f} MB of memory left."


def trim() -> None:
    """Give back what this process has freed; nothing happens where the C library cannot."""
    found: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if found is not None:
        found(0)


class MemoryRelease:
    """Trims a moment after something large was there, at most once a second, in a thread; belongs to an event loop."""

    def __init__(self, release: Callable[[], None] = trim, delay: float = DELAY_SECONDS) -> None:
        self._release = release
        self._delay = delay
        self._waiting = False

    def used(self, size: int) -> None:
        """So many bytes were held, and will be freed in a moment."""
        if size >= LARGE_BYTES and not self._waiting:
            self._waiting = True
            asyncio.get_running_loop().call_later(self._delay, self._begin)

    def _begin(self) -> None:
        self._waiting = False
        asyncio.get_running_loop().run_in_executor(None, self._release)
