"""The journal of one evaluation under way: what was answered, so that a crash does not ask it again.

Invariant: a line is on disk before the next answer is counted, and a torn last line is taken for not written. One
process writes a journal at a time.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from antiphon.core.errors import Conflict, SetupError

_decoder = msgspec.json.Decoder(dict[str, Any])


class Journal:
    """Keys and their records, in a file of JSON lines whose first line says what is being evaluated."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self._descriptor: int | None = descriptor
        self._path = path
        self._writing = threading.Lock()
        self.done: dict[str, Any] = {}

    def write(self, key: str, record: Any) -> None:
        """Keep a record; it is on disk when this returns. Safe from several threads.

        Raises:
            SetupError: the disk is full.
            Conflict: the journal was closed meanwhile.
        """
        plain = msgspec.to_builtins(record)
        self._append({"key": key, "record": plain})
        self.done[key] = plain

    def remove(self) -> None:
        """Forget it: what it held is in the catalog."""
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let another process have it. A write that is under way ends first, and none comes after."""
        with self._writing:
            descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _take(self, subject: dict[str, Any]) -> None:
        assert self._descriptor is not None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Conflict(
                "Another process is at this evaluation.",
                where=self._path.stem,
                next_step="Wait until it has ended, or end it; what it has answered is kept.",
            ) from None
        lines, whole = _read(self._path)
        os.ftruncate(self._descriptor, whole)
        if not lines:
            self._append({"subject": subject})
        elif lines[0].get("subject") != msgspec.to_builtins(subject):
            raise Conflict(
                "There is a journal under this id, and it is of another evaluation.",
                where=self._path.stem,
                next_step="Give each evaluation its own id.",
            )
        self.done = {line["key"]: line["record"] for line in lines if "key" in line}

    def _append(self, line: dict[str, Any]) -> None:
        content = msgspec.json.encode(line) + b"\n"
        with self._writing:
            if self._descriptor is None:
                # The number may name another file by now.
                raise Conflict("The evaluation was ended.", where=self._path.stem)
            before = os.fstat(self._descriptor).st_size
            try:
                if os.write(self._descriptor, content) != len(content):
                    raise OSError("a part of a line was written")
                os.fsync(self._descriptor)
            except OSError as error:
                os.ftruncate(self._descriptor, before)
                raise SetupError(
                    f"The evaluation's journal cannot be written: {error}.",
                    where=str(self._path),
                    next_step="Make room on the disk and run the evaluation again; it goes on where it stopped.",
                ) from error


@contextmanager
def journal(path: Path, subject: dict[str, Any]) -> Iterator[Journal]:
    """Open the journal of an evaluation, with what an earlier attempt left.

    Args:
        subject: what is evaluated; a journal of something else under this name is not taken up.

    Raises:
        Conflict: another process is at this evaluation, or the journal is of something else.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    opened = Journal(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), path)
    try:
        opened._take(subject)
        yield opened
    finally:
        opened.close()


def _read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Whole lines, and how many bytes they take."""
    lines: list[dict[str, Any]] = []
    whole = 0
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            lines.append(_decoder.decode(line))
        except msgspec.DecodeError:
            break
        if not line.endswith(b"\n"):
            lines.pop()
            break
        whole += len(line)
    return lines, whole
