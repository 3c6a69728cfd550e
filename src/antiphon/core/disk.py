"""Files: put in place whole, locked, hashed, kept from other users; and errors of a full disk."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from antiphon.core.errors import StorageFullError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a write for which there is no room: disk, quota, longest file."""


LEAST_FREE = 32 << 20
"""Bytes on a disk below which nothing new should be begun: what is under way still has to be written."""


LEAST_FILES = 100
"""Files that a disk must still take."""


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
    """The sentence that says why nothing can be written to a folder; ``None`` while ``least`` bytes are free there, and
    room for more files."""
    try:
        free = shutil.disk_usage(folder).free
        files = os.statvfs(folder)
    except FileNotFoundError:
        return f"The folder {folder.name} is gone. Restore it from a backup, and start again."
    except OSError as error:
        return f"The disk cannot be asked what is free: {error.strerror}."
    if free < least:
        return f"The disk is full: {free / 1e6:.1f} MB are free. Free disk space."
    # Some file systems have as many files as they have room for, and say 0.
    if files.f_files and files.f_favail < LEAST_FILES:
        return f"The disk takes {files.f_favail} more files. Delete files."
    return None


def refusal(folder: Path) -> str | None:
    """The sentence that says why a folder takes no new file; ``None`` while it does, or has no room for one."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b" ")
    except OSError as error:
        if error.errno in (*FULL, errno.ENOENT, errno.EMFILE, errno.ENFILE):
            return None
        return f"The disk takes no new file: {error.strerror}. Look at the kernel's log, and at the folder's mount."
    return None


def put_private(path: Path, content: bytes, *, replace: bool = True) -> None:
    """Put a file that only its owner may read in its place: whole and on disk, or as it was before.

    Args:
        replace: take the place of a file that is there.

    Raises:
        FileExistsError: there is one, and it is not to be replaced. OSError: it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        if replace:
            draft.replace(path)
        else:  # A link fails when the name exists: of several processes the first wins.
            path.hardlink_to(draft)
    finally:
        draft.unlink(missing_ok=True)
        sync_folder(path.parent)  # also where another process was first, whose file is used from now on


@contextmanager
def file_lock(path: Path, *, wait: bool = True) -> Iterator[int | None]:
    """Hold a lock file and yield its descriptor, or ``None`` when it is held and not waited for.

    The kernel takes the lock back from a process that dies.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        held: int | None = descriptor
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held = None
        yield held
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes) -> None:
    """Put a file in place in one step; a crash leaves the old one, and at most a ``.partial`` beside it.

    Of several writers at once the last one's content stays.
    """
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Flush a file that another library wrote."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def file_sha256(path: Path) -> str:
    """SHA-256 hex of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Flush a folder, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_folder(folder: Path) -> None:
    """Remove a folder with everything in it; one that is not there is no error."""
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)
        sync_folder(folder.parent)


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
