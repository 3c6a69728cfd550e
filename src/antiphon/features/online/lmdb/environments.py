"""Open LMDB environments of this process. LMDB must not open one file twice in a process, so they are shared.

A file is known by its inode: one that was replaced under its name is another file.

Invariant: giving an environment back never waits. Finalizers do it, and the garbage collector may run one anywhere, in
the midst of :func:`acquire` of the same thread too.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from antiphon.core import disk
from antiphon.core.errors import UnavailableError

_lock = threading.Lock()
_open: dict[tuple[int, int], tuple[Any, int]] = {}
_given_back: SimpleQueue[Any] = SimpleQueue()
"""Environments to close, whose ``put`` may be called from within itself; the lock's holder looks again after it."""


def acquire(path: Path, **options: Any) -> Any:
    """The environment of a file, opened with these options unless it is open already; release it after use. Raises
    ``UnavailableError`` when it cannot be opened."""
    import lmdb

    try:
        with _lock:
            _close_unused()
            environment, users = _open.get(_identity(path), (None, 0))
            if environment is None:
                environment = lmdb.open(str(path.resolve()), subdir=False, max_dbs=0, **options)
            # Asked again: opening makes a file that was not there.
            _open[_identity(path)] = (environment, users + 1)
            return environment
    except lmdb.Error as error:
        raise UnavailableError(
            f"The online file {path.name} cannot be opened: {said(error)}.",
            where="online store",
            next_step="Check the folder's permissions and disk space.",
        ) from error
    finally:
        _close_where_free()


@contextmanager
def room_needed(name: str, next_step: str = "Free disk space and try again.") -> Iterator[None]:
    """Writes of an online file inside the block that find no room come out as ours; nothing else is read there, for its
    errors would be told as the file's. Raises ``UnavailableError`` when the disk is full or fails, or takes no files.
    """
    import lmdb

    try:
        with disk.room_needed("online store", next_step):
            yield
    except OSError as error:
        raise UnavailableError(
            f"{name} cannot be written: {error.strerror}.", where="online store",
            next_step="Check the folder's permissions and its file system.",
        ) from error  # fmt: skip
    except lmdb.Error as error:
        # Of a disk without room, as of one that fails, LMDB hands on what the system said.
        full = isinstance(error, lmdb.MapFullError)
        what = f"{name} is full." if full else f"{name} cannot be written: {said(error)}."
        raise UnavailableError(what, where="online store", next_step=next_step) from error


def damage() -> tuple[type[Exception], ...]:
    """The errors that LMDB raises when a file is damaged, rather than out of reach."""
    import lmdb

    return (lmdb.InvalidError, lmdb.CorruptedError, lmdb.VersionMismatchError, lmdb.PageNotFoundError, lmdb.PanicError)


def said(error: Exception) -> str:
    """LMDB's own words without the path before them, which is nothing to a client."""
    return str(error).rpartition("/")[2]


def release(environment: Any) -> None:
    """Give an environment back; it is closed after its last user, here or by the one that holds the lock now."""
    _given_back.put(environment)
    _close_where_free()


def _close_where_free() -> None:
    while not _given_back.empty() and _lock.acquire(blocking=False):
        try:
            _close_unused()
        finally:
            _lock.release()


def _close_unused() -> None:
    """Closes what was given back by its last user; needs the lock."""
    while not _given_back.empty():
        environment = _given_back.get()
        place, users = next((place, users) for place, (known, users) in _open.items() if known is environment)
        if users > 1:
            _open[place] = (environment, users - 1)
        else:
            del _open[place]
            environment.close()


def _identity(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return found.st_dev, found.st_ino
