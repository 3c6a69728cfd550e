"""A disk that is full, told as what it is."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

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
