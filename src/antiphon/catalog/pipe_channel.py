"""Rings between the processes of one machine that share a catalog in a file: a named pipe for each that listens.

Invariants:
- A pipe is seen by others only while its owner holds the reading end, or after its owner has died: it is made under
  a hidden name and renamed. Opening it without waiting tells which, so that whoever rings removes what the dead left.
- Nothing waits: a pipe that is full holds rings enough, and its owner takes them for a ring of everything.

A pipe, and no socket: its path may be of any length, and it is never bound and not yet listening.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import stat
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from sqlalchemy.engine import Connection

_SUFFIX = ".pipe"
_SEPARATOR = ","
_EVERYTHING = "*"

_LONGEST = 400
"""Bytes of one message: fewer than every system writes to a pipe in one piece (POSIX: 512)."""

_PILED_UP = 1_024
"""More bytes than this at once were not read for a while: the pipe may have been full, and rings lost."""

_log = logging.getLogger(__name__)


class PipeChannel:
    """The pipes in one folder, which appears with the first listener."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own: tuple[Path, int] | None = None
        self._thread: threading.Thread | None = None

    def notify(self, connection: Connection, names: Collection[str]) -> None:
        """Do nothing: SQLite has no notifications."""

    def committed(self, names: Collection[str]) -> None:
        """Write to every pipe but this process's own."""
        try:
            found = [entry for entry in os.listdir(self._folder) if entry.endswith(_SUFFIX) and entry[0] != "."]
        except OSError:
            return
        message = message_of(names)
        own = self._own
        for entry in found:
            if own is None or entry != own[0].name:
                _write(self._folder / entry, message)

    def open(self, deliver: Callable[[Collection[str] | None], None]) -> None:
        """Make this process's pipe and read it in a thread. Where that cannot be done it is logged: polls go on."""
        name = f"{os.getpid()}-{secrets.token_hex(4)}{_SUFFIX}"
        hidden, path = self._folder / f".{name}", self._folder / name
        opened: list[int] = []
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.mkfifo(hidden, 0o600)
            opened.append(os.open(hidden, os.O_RDONLY | os.O_NONBLOCK))
            opened.append(os.open(hidden, os.O_WRONLY | os.O_NONBLOCK))  # While it is open, a read never meets the end.
            os.rename(hidden, path)
        except OSError as error:
            for descriptor in opened:
                os.close(descriptor)
            with suppress(OSError):
                hidden.unlink()
            _log.warning("No doorbell in %s (%s): new work is found by polling.", self._folder, error.strerror)
            return
        reading, writing = opened
        os.set_blocking(reading, True)
        self._own = (path, writing)
        self._thread = threading.Thread(target=self._read, args=(reading, path, deliver), name="doorbell", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Remove this process's pipe."""
        own, self._own = self._own, None
        thread, self._thread = self._thread, None
        if own is None or thread is None:
            return
        path, writing = own
        with suppress(OSError):
            path.unlink()
        os.set_blocking(writing, True)
        os.write(writing, b"\n")
        if thread is not threading.current_thread():
            thread.join()
        os.close(writing)

    def _read(self, reading: int, path: Path, deliver: Callable[[Collection[str] | None], None]) -> None:
        try:
            while content := os.read(reading, 65_536):
                own = self._own
                if own is None or own[0] != path:
                    return
                deliver(names_of(content))
        finally:
            os.close(reading)


def message_of(names: Collection[str]) -> bytes:
    """One message: names, or a sign for all of them when they are many."""
    message = (_SEPARATOR.join(sorted(names)) + "\n").encode()
    return message if len(message) <= _LONGEST else f"{_EVERYTHING}\n".encode()


def names_of(content: bytes) -> Collection[str] | None:
    """The names in what was read at once; ``None`` when it may be any."""
    names = {name for line in content.decode(errors="replace").split("\n") for name in line.split(_SEPARATOR) if name}
    return None if len(content) > _PILED_UP or _EVERYTHING in names else names


def _write(path: Path, message: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ENXIO:  # Nobody reads it, and nobody ever will.
            with suppress(OSError):
                path.unlink()
        return
    try:
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            os.write(descriptor, message)
    except OSError:
        pass  # Full: its owner has rings enough to read. Or gone this moment.
    finally:
        os.close(descriptor)
