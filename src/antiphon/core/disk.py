"""A disk that is full, told as what it is; and files that several processes may delete."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from antiphon.core.errors import Unavailable

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a write for which there is no room: disk, quota, longest file."""


@contextmanager
def room_needed(where: str, next_step: str = "Free disk space and try again.") -> Iterator[None]:
    """Writes inside the block that find no room come out as ours.

    Raises:
        Unavailable: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise Unavailable(f"The disk is full: {error.strerror}.", where=where, next_step=next_step) from error


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
