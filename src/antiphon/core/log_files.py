"""Files that a process writes into for as long as it lives: logs and traces. Each is set aside at a size.

Invariant: what one such file and those set aside before it take is at most ``max_bytes`` × ``files``, plus one record.
They are readable by their owner alone.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec


class RotationBounds(msgspec.Struct, frozen=True):
    """The size at which a file is set aside, and the number of files with those set aside."""

    max_bytes: int = 20_000_000
    files: int = 4


def _opened(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with suppress(PermissionError):  # one that was made with wider rights
        os.fchmod(descriptor, 0o600)
    return descriptor


class BoundedFile:
    """A text stream at the end of a file; at ``max_bytes`` the file becomes ``PATH.1``, and that ``PATH.2``, and so on.

    Descriptors of this process that lead to the same file (standard output and error, which libraries in C write to)
    lead to the new one afterwards. One process writes; the size is the file's own, whichever of them wrote.

    Raises:
        OSError: the file cannot be made.
    """

    def __init__(self, path: Path, bounds: RotationBounds, open_file: Callable[[Path], int] = _opened) -> None:
        self._path, self._bounds, self._open = path, bounds, open_file
        self._lock = threading.Lock()
        self._file = open_file(path)

    def write(self, text: str) -> int:
        """Write a record; it is in one file as a whole. A disk that is full loses it."""
        content = text.encode("utf-8", "backslashreplace")
        with self._lock, suppress(OSError):
            if os.fstat(self._file).st_size >= self._bounds.max_bytes:
                with suppress(OSError):  # no descriptor, no room: the old file grows on, and nothing of it is lost
                    self._turn()
            left = memoryview(content)
            while left:
                left = left[os.write(self._file, left) :]
        return len(text)

    def flush(self) -> None:
        """Does nothing: no record is buffered."""

    def close(self) -> None:
        os.close(self._file)

    def _turn(self) -> None:
        old = os.fstat(self._file)
        # Before anything is renamed: where the new file cannot be made, those set aside stay as they are.
        waiting = self._path.with_name(f"{self._path.name}.new")
        new = self._open(waiting)
        try:
            set_aside(self._path, self._bounds)
            waiting.replace(self._path)
            for descriptor in (1, 2):
                with suppress(OSError):
                    if os.path.samestat(os.fstat(descriptor), old):
                        os.dup2(new, descriptor)
            os.dup2(new, self._file, inheritable=False)
        finally:
            os.close(new)


def set_aside(path: Path, bounds: RotationBounds) -> None:
    """Move a file, if there is one, out of the way: it becomes the first of those set aside; the last of them goes."""
    if not path.exists():
        return
    for number in range(bounds.files - 1, 0, -1):
        newer = path if number == 1 else path.with_name(f"{path.name}.{number - 1}")
        with suppress(FileNotFoundError):
            newer.replace(path.with_name(f"{path.name}.{number}"))
    if bounds.files == 1:
        path.unlink(missing_ok=True)


def is_standard_error(path: Path) -> bool:
    """Tell whether this process's standard error leads into the file."""
    try:
        return os.path.samestat(os.fstat(sys.__stderr__.fileno() if sys.__stderr__ is not None else 2), path.stat())
    except (OSError, ValueError):
        return False
