"""Errors of a full disk, and deletion of files that several processes may delete."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from antiphon.core.errors import StorageFullError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a write for which there is no room: disk, quota, longest file."""


LEAST_FREE = 32 << 20
"""Bytes on a disk below which nothing new should be begun: what is under way still has to be written."""


@contextmanager
def room_needed(where: str, next_step: str = "Free disk space and try again.") -> Iterator[None]:
    """Writes inside the block that find no room come out as ours.

    Raises:
        StorageFullError: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise StorageFullError(f"The disk is full: {error.strerror}.", where=where, next_step=next_step) from error


def shortage(folder: Path, least: int = LEAST_FREE) -> str | None:
    """The sentence that says why nothing can be written to a folder; ``None`` while ``least`` bytes are free there."""
    try:
        free = shutil.disk_usage(folder).free
    except FileNotFoundError:
        return f"The folder {folder.name} is gone. Restore it from a backup, and start again."
    except OSError as error:
        return f"The disk cannot be asked what is free: {error.strerror}."
    return None if free >= least else f"The disk is full: {free / 1e6:.1f} MB are free. Free disk space."


def delete_older(path: Path, older_than: float) -> bool:
    """Delete a file that was last changed before ``older_than`` (seconds since 1970); whether it was deleted here.
    Somebody else may be about the same and be faster."""
    try:
        if path.stat().st_mtime >= older_than:
            return False
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def make_private() -> None:
    """From now on this process makes files and folders that no other user can read. An entry point calls it first."""
    os.umask(0o077)


def restrict(folder: Path) -> int:
    """Take what a folder holds, and the folder, from every user but its owner; how many files and folders that changed.

    Links are not followed. What belongs to another user stays as it is.
    """
    changed = 0
    for place, folders, files in os.walk(folder):
        for path in (Path(place), *(Path(place, name) for name in (*files, *folders))):
            with suppress(FileNotFoundError, PermissionError):
                found = path.lstat()
                if not stat.S_ISLNK(found.st_mode) and found.st_mode & 0o077:
                    path.chmod(stat.S_IMODE(found.st_mode) & 0o700)
                    changed += 1
    return changed


def writable_by_others(root: Path, definitions: str) -> list[Path]:
    """Of a project's folder, its settings and its definitions, which are a program: those another user may change."""
    found = []
    for path in (root, root / "antiphon.toml", root / definitions):
        with suppress(FileNotFoundError):
            mode = path.stat().st_mode
            if mode & 0o022 and not mode & stat.S_ISVTX:
                found.append(path)
    return found


def open_to_others(folder: Path) -> bool:
    """Tells whether another user may look into a folder."""
    try:
        return bool(folder.stat().st_mode & 0o077)
    except FileNotFoundError:
        return False
