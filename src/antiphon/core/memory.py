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
