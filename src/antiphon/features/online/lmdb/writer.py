"""Seals of online files: which bytes a file is to have, beside the file, under a lock for those who change either."""

from __future__ import annotations

import base64
import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from operator import add
from pathlib import Path

import msgspec

from antiphon.core.codec import Codec, PayloadContext, PlainCodec
from antiphon.core.disk import file_sha256, put_private, sync_file, sync_folder
from antiphon.core.scope import Scope
from antiphon.features.online.ciphers import new_cipher
from antiphon.features.online.lmdb.environments import room_needed
from antiphon.features.online.snapshots.encoding import FORMAT, META, SnapshotMeta, encode
from antiphon.features.online.snapshots.sorting import SortedRecords

_SCHEMA = "online/1"


class FileSeal(msgspec.Struct, frozen=True):
    """The record beside a finished file, which says what it holds.

    Attributes:
        format: of the file.
        key: packed envelope of the file's key, in base64; ``None`` for a file in plaintext.
        otherwise: while a file is being replaced by one of the same content: the seal of the other one. Whichever of
            the two is there is whole.
    """

    snapshot: str
    sha256: str
    bytes: int
    key: str | None = None
    otherwise: FileSeal | None = None
    format: int = 0

    @property
    def alternatives(self) -> tuple[FileSeal, ...]:
        """The seals that a file here may match."""
        return (self,) if self.otherwise is None else (self, self.otherwise)


_decode_seal = msgspec.json.Decoder(FileSeal).decode


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


def write_seal(file: Path, seal: FileSeal) -> None:
    """Put a seal beside a file, whole or not at all."""
    put_private(seal_path(file), msgspec.json.encode(seal))


def read_seal(file: Path) -> FileSeal:
    """The seal beside a file; raises ``OSError`` or ``DecodeError``."""
    return _decode_seal(seal_path(file).read_bytes())


def is_sealed(file: Path, snapshot: str) -> bool:
    """Tell whether the file is there with a seal of this snapshot, format and size.

    Its hash is checked when it is opened.
    """
    try:
        size = file.stat().st_size
        expected = (snapshot, FORMAT, size)
        return any((seal.snapshot, seal.format, seal.bytes) == expected for seal in read_seal(file).alternatives)
    except (OSError, msgspec.DecodeError):
        return False


def is_whole(file: Path, snapshot: str) -> bool:
    """Tell whether the file is there with a seal of this snapshot that matches its bytes; all of it is read."""
    if not is_sealed(file, snapshot):
        return False
    try:
        digest = file_sha256(file)
        return any((seal.snapshot, seal.sha256) == (snapshot, digest) for seal in read_seal(file).alternatives)
    except (OSError, msgspec.DecodeError):
        return False


class LmdbWriter:
    """Builds one sealed file. Call :meth:`write`, then :meth:`seal`; :meth:`discard` otherwise. Writing raises
    ``UnavailableError`` when the disk is full or fails, or takes no files."""

    joins = True

    def __init__(
        self, target: Path, meta: SnapshotMeta, records: int, codec: Codec | None = None, scope: Scope | None = None
    ) -> None:
        """
        Args:
            records: about so many will be written.
        """
        self._target = target
        self._cipher, sealed = new_cipher(codec or PlainCodec(), key_context(scope or Scope(), target))
        self._key = None if sealed is None else base64.b64encode(sealed).decode()
        self._meta = meta
        self._temporary = target.with_name(f".{target.name}.{os.getpid()}.building")
        with self._room():
            target.parent.mkdir(parents=True, exist_ok=True)
            self._temporary.unlink(missing_ok=True)
        self._sorted = SortedRecords(target.with_name(f".{target.name}.{os.getpid()}.sorting"), records)

    def write(self, keys: list[bytes], values: list[bytes], rows: list[bytes] | None = None) -> None:
        """Write records, in any order; a key comes once. A row stands before the value, so that one reading finds both.
        Nothing clear is written under a codec that seals."""
        if rows is not None:
            values = list(map(add, rows, values))
        if self._key is not None:
            values = list(map(self._cipher.seal, keys, values))
        with self._room():
            self._sorted.add(keys, values)

    def _room(self) -> AbstractContextManager[None]:
        return room_needed(f"The online file of {self._meta.snapshot}")

    def _stored(self) -> None:
        """All records into the file, in the order of their keys: every page is written once and full."""
        import lmdb

        self._sorted.finish()
        # The file grows with what is written; the map is address space only.
        size = max(2**30, 4 * self._sorted.size + 256 * self._sorted.records)
        environment = lmdb.open(str(self._temporary), subdir=False, lock=False, sync=False, map_size=size)
        try:
            for records in self._sorted:
                with environment.begin(write=True) as transaction, transaction.cursor() as cursor:
                    cursor.putmulti(records, append=True)
            with environment.begin(write=True) as transaction:
                transaction.put(META, self._cipher.seal(META, encode(self._meta)))
            environment.sync(True)
        finally:
            environment.close()

    def seal(self, instead_of: FileSeal | None = None) -> FileSeal:
        """Finish the file and its seal; ``instead_of`` a file of the same content that is there.

        Of two that build one snapshot at once the first stays: a file and its seal are put in place by one at a time.
        """
        with self._room():
            try:
                self._stored()
            except BaseException:
                self.discard()
                raise
            return self._put_in_place(instead_of)

    def _put_in_place(self, instead_of: FileSeal | None) -> FileSeal:
        digest = file_sha256(self._temporary)
        sync_file(self._temporary)
        seal = FileSeal(
            self._meta.snapshot, digest, self._temporary.stat().st_size, self._key, format=self._meta.format
        )
        with one_at_a_time(self._target.parent):
            if instead_of is not None:
                before = msgspec.structs.replace(instead_of, otherwise=None)
                write_seal(self._target, msgspec.structs.replace(seal, otherwise=before))
            elif is_sealed(self._target, self._meta.snapshot):
                self.discard()
                return read_seal(self._target)
            else:
                seal_path(self._target).unlink(missing_ok=True)  # What a collection that was cut off left.
            os.replace(self._temporary, self._target)
            sync_folder(self._target.parent)
            write_seal(self._target, seal)
        return seal

    def discard(self) -> None:
        """Drop an unfinished file."""
        self._sorted.discard()
        self._temporary.unlink(missing_ok=True)


def key_context(scope: Scope, file: Path) -> PayloadContext:
    """The place that a file's key is sealed for."""
    return PayloadContext(_SCHEMA, scope, f"{file.parent.name}/{file.stem}")
