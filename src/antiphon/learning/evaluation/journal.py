"""The journal of one evaluation under way: what was answered, so that a crash does not ask it again.

Invariant: a line is on disk before the next answer is counted, and a torn last line is taken for not written. One
process writes a journal at a time.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from antiphon.core.codec import Codec, PayloadContext, PlainCodec, pack, unpack
from antiphon.core.errors import ConflictError, SetupError, WriteConflictError
from antiphon.core.scope import Scope

_SCHEMA = "journal/1"
_decoder = msgspec.json.Decoder(dict[str, Any])


class Journal:
    """Keys and their records, in a file of JSON lines whose first line says what is being evaluated."""

    def __init__(self, descriptor: int, path: Path, codec: Codec, scope: Scope) -> None:
        self._codec = codec
        self._context = PayloadContext(_SCHEMA, scope, path.stem)
        self._descriptor: int | None = descriptor
        self._path = path
        self._writing = threading.Lock()
        self.done: dict[str, Any] = {}

    def write(self, key: str, record: Any) -> None:
        """Keep a record; it is on disk when this returns. Safe from several threads.

        Raises:
            SetupError: the disk is full.
            ConflictError: the journal was closed meanwhile.
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
            raise WriteConflictError(
                "Another process is at this evaluation.",
                where=self._path.stem,
                next_step="Wait until it has ended, or end it; what it has answered is kept.",
            ) from None
        lines, whole = self._read()
        os.ftruncate(self._descriptor, whole)
        if not lines:
            self._append({"subject": subject})
        elif lines[0].get("subject") != msgspec.to_builtins(subject):
            raise ConflictError(
                "There is a journal under this id, and it is of another evaluation.",
                where=self._path.stem,
                next_step="Give each evaluation its own id.",
            )
        self.done = {line["key"]: line["record"] for line in lines if "key" in line}

    def _append(self, line: dict[str, Any]) -> None:
        content = self._line(msgspec.json.encode(line))
        with self._writing:
            if self._descriptor is None:
                # The number may name another file by now.
                raise ConflictError("The evaluation was ended.", where=self._path.stem)
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

    def _line(self, content: bytes) -> bytes:
        # A line in plaintext stays JSON, for people; a sealed one is an envelope in base64.
        if self._codec.sealing:
            content = base64.b64encode(pack(self._codec.seal(content, self._context)))
        return content + b"\n"

    def _read(self) -> tuple[list[dict[str, Any]], int]:
        """Whole lines, and how many bytes they take."""
        lines: list[dict[str, Any]] = []
        whole = 0
        for line in self._path.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            try:
                content = line
                if self._codec.sealing:
                    content = self._codec.open(unpack(base64.b64decode(line[:-1], validate=True)), self._context)
                lines.append(_decoder.decode(content))
            except (msgspec.DecodeError, binascii.Error):
                break
            whole += len(line)
        return lines, whole


@contextmanager
def journal(
    path: Path, subject: dict[str, Any], codec: Codec | None = None, scope: Scope | None = None
) -> Iterator[Journal]:
    """Open the journal of an evaluation, with what an earlier attempt left.

    Args:
        subject: what is evaluated; a journal of something else under this name is not taken up.
        codec, scope: seal its lines.

    Raises:
        ConflictError: another process is at this evaluation, or the journal is of something else.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    opened = Journal(
        os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), path, codec or PlainCodec(), scope or Scope()
    )
    try:
        opened._take(subject)
        yield opened
    finally:
        opened.close()
