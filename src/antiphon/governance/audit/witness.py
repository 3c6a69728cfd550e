"""The witness file: every checkpoint that was signed, where whoever changes the catalog does not reach.

Invariants: a checkpoint is appended only with a proof that the last witnessed one of its origin is its beginning, so
the file never holds two histories written by this process; it is on disk before anybody is told of it.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from antiphon.core.disk import sync_folder
from antiphon.core.errors import CorruptionError, InvalidInputError, SetupError
from antiphon.governance.audit.checkpoint import Checkpoint, parse
from antiphon.governance.audit.merkle import consistent

LOCK_SECONDS = 10.0
"""Time that a process waits for the lock."""

TAIL_BYTES = 64 * 1024
"""The end of the file, where the last checkpoint is looked for first."""


class WitnessContent(msgspec.Struct, frozen=True):
    """Content of a witness file: checkpoints in their order; other blocks, by their first line's number.

    ``torn``: bytes at the end that are no whole checkpoint, as a loss of power leaves them. ``open``: the last one is
    whole and the empty line after it is missing.
    """

    checkpoints: tuple[Checkpoint, ...]
    problems: tuple[str, ...] = ()
    torn: int = 0
    open: bool = False

    def of(self, origin: str) -> tuple[Checkpoint, ...]:
        """Those of one log."""
        return tuple(one for one in self.checkpoints if one.origin == origin)


class Witness:
    """One witness file. Processes take turns by a lock on it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> WitnessContent:
        """Read the whole file; a missing file is empty.

        Raises:
            SetupError: it cannot be read.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return WitnessContent(())
        except OSError as error:
            raise _unusable(self.path, error) from error
        return read_witness(content)

    @contextmanager
    def turn(self) -> Iterator[LockedWitness]:
        """The file to oneself.

        Raises:
            SetupError: it cannot be made or locked.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                _lock(descriptor, self.path)
                yield LockedWitness(self.path, descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise _unusable(self.path, error) from error


class LockedWitness:
    """The witness file under an exclusive lock."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._end = _tail(path)

    def last(self, origin: str) -> Checkpoint | None:
        """The newest witnessed checkpoint of a log."""
        found = self._end.of(origin) or Witness(self._path).read().of(origin)
        return found[-1] if found else None

    def append(self, checkpoint: Checkpoint, proof: Sequence[bytes]) -> bool:
        """Witness a checkpoint; ``proof`` is the consistency from the last witnessed one. On disk when this returns;
        ``False`` when this very size and root are witnessed already.

        Raises:
            CorruptionError: the last witnessed checkpoint is not the beginning of this one.
            SetupError: the file cannot be written.
        """
        last = self.last(checkpoint.origin)
        if last is not None:
            if not consistent(last.size, last.root, checkpoint.size, checkpoint.root, proof):
                raise forked(last, checkpoint.size)
            if last.size == checkpoint.size:
                return False
        before = os.fstat(self._descriptor).st_size
        if self._end.torn:
            # Only what is no whole checkpoint is cut off: nobody was ever told of it.
            before -= self._end.torn
            os.ftruncate(self._descriptor, before)
        block = (b"\n" if self._end.open else b"") + checkpoint.note.encode() + b"\n"
        try:
            if os.write(self._descriptor, block) != len(block):
                raise OSError("a part of a checkpoint was written")
            os.fsync(self._descriptor)
            if before == 0:
                sync_folder(self._path.parent)
        except OSError:
            os.ftruncate(self._descriptor, before)
            raise
        self._end = WitnessContent((*self._end.checkpoints, checkpoint))
        return True


def _lock(descriptor: int, path: Path) -> None:
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise SetupError(
                    f"Another process holds the witness file for more than {LOCK_SECONDS:.0f} s.",
                    where=str(path),
                    next_step="Look for it; the next checkpoint is tried again.",
                ) from None
            time.sleep(0.02)


def read_witness(content: bytes) -> WitnessContent:
    """Checkpoints of a witness file, or of a file with a single one: blocks, each with an empty line after it."""
    found: list[Checkpoint] = []
    problems: list[str] = []
    whole = line = 0
    is_open = False
    while whole < len(content):
        # A block is body, empty line, signatures; an empty line ends it.
        middle = content.find(b"\n\n", whole)
        end = content.find(b"\n\n", middle + 2) if middle >= 0 else -1
        is_open = end < 0
        block = content[whole:] if is_open else content[whole : end + 1]
        try:
            found.append(parse(block.decode()))
        except (InvalidInputError, UnicodeDecodeError):
            if is_open:
                return WitnessContent(tuple(found), tuple(problems), len(block))
            problems.append(f"line {line + 1} of the witness file begins no checkpoint")
        line += block.count(b"\n") + 1
        whole += len(block) + 1
    return WitnessContent(tuple(found), tuple(problems), 0, is_open)


def _tail(path: Path) -> WitnessContent:
    """Read the end of the file: its whole checkpoints."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        start = max(0, size - TAIL_BYTES)
        file.seek(start)
        content = file.read()
    if start:
        # An empty line after a line of signatures ends a block.
        first = re.search(rb"\n\xe2\x80\x94 [^\n]+\n\n", content)
        content = content[first.end() :] if first is not None else b""
    return read_witness(content)


def forked(last: Checkpoint, size: int) -> CorruptionError:
    """The log is not the continuation of what was witnessed."""
    what = f"was cut to {size} records" if size < last.size else f"of {size} records does not continue"
    return CorruptionError(
        f"The audit log {last.origin} {what}; a checkpoint of {last.size} records is witnessed.",
        where="audit",
        next_step="No checkpoint is signed any more. Run `antiphon audit verify`, and look for who restored or changed "
        "the catalog.",
    )


def _unusable(path: Path, error: OSError) -> SetupError:
    return SetupError(
        f"The witness file cannot be used: {error.strerror or error}.",
        where=str(path),
        next_step="Check its folder, its permissions and the space on its disk, or set [audit].witness.",
    )
