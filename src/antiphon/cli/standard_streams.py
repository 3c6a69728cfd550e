"""Standard streams that are closed before a command starts, or while it writes."""

from __future__ import annotations

import os
import sys

BROKEN_PIPE = 141
"""The exit code of a program whose reader went away: 128 and the number of SIGPIPE, as shells tell it."""


def open_missing() -> None:
    """Put ``/dev/null`` in the place of standard streams that are closed (``>&-``), as the C library asks for: what is
    opened next would otherwise get their numbers, and be written to."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # The lowest number that is free, which is this one.
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)


def reader_gone(error: BaseException | None) -> bool:
    """Tell whether an error is that of a reader that went away (``| head -1``), or comes of one."""
    while error is not None:
        if isinstance(error, BrokenPipeError):
            return True
        error = error.__context__
    return False
