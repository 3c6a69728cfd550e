"""The file of an overlay: opened once a process, held against its size, and set aside when it is damaged.

Invariants: before a transaction the file is where it was opened and no shorter, because a page of the map that the file
no longer has would end the process (SIGBUS). A damaged file is renamed by one process, under the folder's lock, and an
empty one takes its place that says so (:data:`REPLAYING`): everything in an overlay is in the log too.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from antiphon.core.clock import SystemClock
from antiphon.core.errors import SealMismatchError, UnavailableError
from antiphon.features.online import lookup_errors
from antiphon.features.online.lmdb import environments
from antiphon.features.online.lmdb.writer import one_at_a_time

REPLAYING = b"r"
"""The key that a new overlay has until what the damaged one held was read again from the log."""

KEPT = 3
"""Damaged files that stay to be looked at; older ones go."""

_MAP_SIZE = 2**34
"""16 GiB of address space; the file is as large as what is in it."""

_HEADS = 2 * 4_096
"""Bytes without which there is no LMDB file: its two meta pages."""

_MAGIC = 0xBEEFC0DE
_log = logging.getLogger("antiphon.features")


class _OverlayEnvironment:
    """An open file; it closes with the last reference to it, so that a transaction under way never loses it."""

    def __init__(self, file: Path) -> None:
        self.environment = environments.acquire(file, map_size=_MAP_SIZE, max_readers=512)
        self.close = weakref.finalize(self, environments.release, self.environment)
        # Slots of readers that were killed would keep old pages alive for ever.
        self.environment.reader_check()
        found = file.stat()
        self.identity = (found.st_dev, found.st_ino)
        self.size = found.st_size


class OverlayFile:
    """One overlay's file. Safe to share between threads."""

    def __init__(self, file: Path, published: Callable[[], bool]) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file = file
        self._published = published
        self._lock = threading.Lock()
        self._opened = self._open()

    @contextmanager
    def transaction(self, *, write: bool = False) -> Iterator[Any]:
        """An LMDB transaction. Damage that shows in it sets the file aside; a data key that is gone does not, because
        the events would not open again either. Raises ``UnavailableError`` when the file is damaged and was set
        aside."""
        damage: tuple[type[Exception], ...] = (*environments.damage(), msgspec.DecodeError, SealMismatchError)
        opened = self._current()
        try:
            with opened.environment.begin(write=write) as transaction:
                yield transaction
        except damage as error:
            self.set_aside(opened, environments.said(error))
            raise lookup_errors.replaying() from error

    def renew(self, why: str) -> None:
        """Set the file aside as damaged."""
        self.set_aside(self._opened, why)

    def close(self) -> None:
        """Close the file."""
        self._opened.close()

    def _current(self) -> _OverlayEnvironment:
        opened = self._opened
        least = opened.size  # Before the look: another thread may see the file grow after it.
        try:
            found = os.stat(self._file)
        except FileNotFoundError:
            return self._reopened(opened)
        if (found.st_dev, found.st_ino) != opened.identity:
            return self._reopened(opened)
        if found.st_size < least:
            self.set_aside(opened, "it is shorter than it was")
            raise lookup_errors.replaying()
        opened.size = max(opened.size, found.st_size)
        return opened

    def _reopened(self, before: _OverlayEnvironment) -> _OverlayEnvironment:
        """Open the file of this name anew: another process has set it aside, or it was deleted."""
        with self._lock:
            if self._opened is before:
                self._opened = self._open()
            return self._opened

    def _open(self) -> _OverlayEnvironment:
        with one_at_a_time(self._file.parent):
            if not self._file.exists():
                self._put(self._draft(replaying=self._published()))
            elif not _covered(self._file):
                self._replace("it is no LMDB file")
            try:
                return _OverlayEnvironment(self._file)
            except UnavailableError as error:
                if not isinstance(error.__cause__, environments.damage()):
                    raise
                self._replace(error.what)
                return _OverlayEnvironment(self._file)

    def set_aside(self, opened: _OverlayEnvironment, why: str) -> None:
        """Put an empty file in the place of this one, unless it was done already."""
        with suppress(FileNotFoundError), one_at_a_time(self._file.parent):
            found = os.stat(self._file)
            if (found.st_dev, found.st_ino) == opened.identity:
                self._replace(why)
        self._reopened(opened)

    def _replace(self, why: str) -> None:
        stamp = SystemClock().now()
        aside = self._file.with_name(f"{self._file.name}.damaged-{stamp:%Y%m%dT%H%M%S.%f}Z")
        draft = self._draft(replaying=True)  # First: without room for it, the damaged one stays where it is.
        os.rename(self._file, aside)
        self._put(draft)
        for older in sorted(self._file.parent.glob(f"{self._file.name}.damaged-*"))[:-KEPT]:
            older.unlink(missing_ok=True)
        _log.error(
            "The overlay of streamed events is damaged (%s); it is set aside as %s and read again from the log.",
            why, aside.name,
        )  # fmt: skip

    def _draft(self, *, replaying: bool) -> Path:
        import lmdb

        draft = self._file.with_name(f".{self._file.name}.new")
        draft.unlink(missing_ok=True)
        with (
            environments.room_needed(self._file.name),
            lmdb.open(str(draft), subdir=False, lock=False, map_size=_MAP_SIZE) as environment,
        ):
            if replaying:
                with environment.begin(write=True) as transaction:
                    transaction.put(REPLAYING, b"")
        return draft

    def _put(self, draft: Path) -> None:
        # A lock file belongs to the file it was made for: who has that one open keeps both.
        self._file.with_name(f"{self._file.name}-lock").unlink(missing_ok=True)
        os.replace(draft, self._file)


def _covered(file: Path) -> bool:
    """Tell whether a file begins like one of LMDB's; if so it is made as long as it says it is.

    The pages that it lacks read as zeros then, which LMDB tells, instead of ending the process. They need not have been
    lost: LMDB leaves out pages at the end that a transaction took and gave back.
    """
    with file.open("r+b") as stream:
        metas = [stream.read(_HEADS // 2) for _ in range(2)]
        found = [meta for meta in metas if len(meta) == _HEADS // 2 and int.from_bytes(meta[16:20], "little") == _MAGIC]
        if len(found) < len(metas):
            return False
        latest = max(found, key=lambda meta: int.from_bytes(meta[144:152], "little"))
        page, last = int.from_bytes(latest[40:44], "little"), int.from_bytes(latest[136:144], "little")
        needed = page * (last + 1)
        if not 0 < needed <= _MAP_SIZE:
            return False
        if os.fstat(stream.fileno()).st_size < needed:
            # Never shortens a file that another process makes longer at this moment.
            os.posix_fallocate(stream.fileno(), 0, needed)
    return True
