"""Time lapse: every process of a platform on a wall clock that is moved by hand, through Debian's ``faketime``.

The wall clock of all processes started from :func:`within_time_lapse` is the machine's own plus an offset read from a
file, which :class:`TimeLapse` writes; monotonic clocks, and so every pause and timeout, stay the machine's. A day
without anything to do takes as long as it takes to say that it is over, and work takes its own time.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from antiphon.core.errors import SetupError

_FILE = "FAKETIME_TIMESTAMP_FILE"
SEEN_SECONDS = 1.5
"""In which every process has read the file anew."""


def within_time_lapse(module: str, arguments: Sequence[str], file: Path, start: datetime) -> None:
    """Run this program anew on a clock that begins at ``start``; returns only in the program so started.

    Raises:
        SetupError: ``faketime`` is not installed.
    """
    if os.environ.get(_FILE):
        return
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        raise SetupError(
            "The clock cannot be moved without faketime.", where="libfaketimeMT.so.1",
            next_step="Install it (Debian: apt-get install faketime).",
        )  # fmt: skip
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(_line(start.timestamp() - time.time()), encoding="ascii")
    os.environ |= {
        "LD_PRELOAD": str(found[0]),
        _FILE: str(file),
        # Read once a second: a look at each reading of the clock takes half a millisecond where threads contend for it.
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        # Times of files stay the machine's: Python compares them with those of compiled modules.
        "NO_FAKE_STAT": "1",
    }
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])


class TimeLapse:
    """The clock of this program and all its children, moved forward by hand."""

    def __init__(self) -> None:
        self._file = Path(os.environ[_FILE])
        self._offset = float(self._file.read_text(encoding="ascii"))

    async def advance(self, until: datetime) -> None:
        """Let it be so late, unless it is later; returns once every process has seen it."""
        ahead = until.timestamp() - time.time()
        if ahead > 0:
            self._offset += ahead
            draft = self._file.with_suffix(".draft")
            draft.write_text(_line(self._offset), encoding="ascii")
            draft.replace(self._file)
            await asyncio.sleep(SEEN_SECONDS)


def _line(offset: float) -> str:
    return f"{offset:+.3f}\n"
