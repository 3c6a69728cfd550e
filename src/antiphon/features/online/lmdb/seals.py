"""Seals of online files: which bytes a file is to have, beside the file, under a lock for those who change either."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from antiphon.features.lake.local import fsync_folder
from antiphon.features.online.snapshots.encoding import FORMAT


class Seal(msgspec.Struct, frozen=True):
    """The record beside a finished file, which says what it holds.

    Attributes:
        format: of the file; 0 of one older than seals that say it.
        key: packed envelope of the file's key, in base64; ``None`` for a file in plaintext.
        otherwise: while a file is being replaced by one of the same content: the seal of the other one. Whichever of
            the two is there is whole.
    """

    snapshot: str
    sha256: str
    bytes: int
    key: str | None = None
    otherwise: Seal | None = None
    format: int = 0

    @property
    def alternatives(self) -> tuple[Seal, ...]:
        """The seals that a file here may match."""
        return (self,) if self.otherwise is None else (self, self.otherwise)


_decode_seal = msgspec.json.Decoder(Seal).decode


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold the lock under which a folder's files and seals are put in place or taken away.

    The kernel takes it back from a process that dies.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def seal_path(file: Path) -> Path:
    """The file of a file's seal."""
    return file.with_name(file.name + ".seal")


def write_seal(file: Path, seal: Seal) -> None:
    """Put a seal beside a file, whole or not at all."""
    marker = seal_path(file)
    draft = marker.with_name(f".{marker.name}.{os.getpid()}")
    with draft.open("wb") as stream:
        stream.write(msgspec.json.encode(seal))
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(draft, marker)
    fsync_folder(file.parent)


def read_seal(file: Path) -> Seal:
    """The seal beside a file; raises ``OSError`` or ``DecodeError``."""
    return _decode_seal(seal_path(file).read_bytes())


def is_sealed(file: Path, snapshot: str) -> bool:
    """Tell whether the file is there with a seal of this snapshot, format and size.

    Its hash is checked when it is opened.
    """
    try:
        size = file.stat().st_size
        wanted = (snapshot, FORMAT, size)
        return any((seal.snapshot, seal.format, seal.bytes) == wanted for seal in read_seal(file).alternatives)
    except (OSError, msgspec.DecodeError):
        return False


def is_whole(file: Path, snapshot: str) -> bool:
    """Tell whether the file is there with a seal of this snapshot that matches its bytes; all of it is read."""
    if not is_sealed(file, snapshot):
        return False
    try:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return any((seal.snapshot, seal.sha256) == (snapshot, digest) for seal in read_seal(file).alternatives)
    except (OSError, msgspec.DecodeError):
        return False
