"""Sealed snapshots: one read-only LMDB file each, written once and never changed.

Invariant: a file without a seal that matches its bytes is never read. Order of writing: build under a temporary
name, fsync, rename, fsync the folder, then the seal by the same steps. A crash leaves garbage, never half a file
that looks whole. Under a codec that seals, every value is sealed under a key of the file's own, which stands sealed
in the seal: replacing a seal is replacing the key that protects the file.

Keys and values are those of ``encoding``.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import add
from pathlib import Path
from typing import Any

import msgspec

from antiphon.core.codec import Codec, PayloadContext, PlainCodec
from antiphon.core.codec import pack as codec_pack
from antiphon.core.codec import unpack as codec_unpack
from antiphon.core.errors import Corrupt
from antiphon.core.scope import Scope
from antiphon.features.evaluate import EntityRow, Evaluator
from antiphon.features.lake.local import fsync_folder
from antiphon.features.online import environments
from antiphon.features.online.ciphers import PlainValues, SealedValues, ValueCipher, new_file_key
from antiphon.features.online.encoding import (
    BASE,
    FORMAT,
    META,
    RecordDecoder,
    SnapshotMeta,
    block_key,
    decode_block,
    decode_meta,
    encode_meta,
    plain_kinds,
)
from antiphon.features.online.finished import layout_of
from antiphon.features.online.sorting import SortedRecords
from antiphon.features.plan import plan_of
from antiphon.features.ports import StateQuestion
from antiphon.features.tiles.entity_state import NOTHING, Block, EntityState

_SCHEMA = "online/1"
_CACHED_ENTITIES = 4_096


class Seal(msgspec.Struct, frozen=True):
    """What stands beside a finished file.

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


class SealedWriter:
    """Builds one sealed file. Call :meth:`write`, then :meth:`seal`; :meth:`discard` otherwise."""

    joins = True

    def __init__(
        self, target: Path, meta: SnapshotMeta, records: int, codec: Codec | None = None, scope: Scope | None = None
    ) -> None:
        """
        Args:
            records: about so many will be written.
        """
        self._target = target
        self._cipher: ValueCipher = PlainValues()
        self._key: str | None = None
        if codec is not None and codec.sealing:
            file_key = new_file_key()
            self._cipher = SealedValues(file_key)
            envelope = codec.seal(file_key, key_context(scope or Scope(), target))
            self._key = base64.b64encode(codec_pack(envelope)).decode()
        self._meta = meta
        target.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = target.with_name(f".{target.name}.{os.getpid()}.building")
        self._temporary.unlink(missing_ok=True)
        self._sorted = SortedRecords(target.with_name(f".{target.name}.{os.getpid()}.sorting"), records)

    def write(self, keys: list[bytes], values: list[bytes], rows: list[bytes] | None = None) -> None:
        """Write records, in any order; a key comes once. A row stands before the value, so that one reading finds both.
        Nothing clear is written under a codec that seals."""
        if rows is not None:
            values = list(map(add, rows, values))
        if self._key is not None:
            values = list(map(self._cipher.seal, keys, values))
        self._sorted.add(keys, values)

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
                transaction.put(META, self._cipher.seal(META, encode_meta(self._meta)))
            environment.sync(True)
        finally:
            environment.close()

    def seal(self, instead_of: Seal | None = None) -> Seal:
        """Finish the file and its seal; ``instead_of`` a file of the same content that is there.

        Of two that build one snapshot at once the first stays: a file and its seal are put in place by one at a time.
        """
        try:
            self._stored()
        except BaseException:
            self.discard()
            raise
        with self._temporary.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            os.fsync(stream.fileno())
        seal = Seal(self._meta.snapshot, digest, self._temporary.stat().st_size, self._key, format=self._meta.format)
        with _one_at_a_time(self._target.parent):
            if instead_of is not None:
                before = msgspec.structs.replace(instead_of, otherwise=None)
                write_seal(self._target, msgspec.structs.replace(seal, otherwise=before))
            elif is_sealed(self._target, self._meta.snapshot):
                self.discard()
                return read_seal(self._target)
            else:
                seal_path(self._target).unlink(missing_ok=True)  # What a collection that was cut off left.
            os.replace(self._temporary, self._target)
            fsync_folder(self._target.parent)
            write_seal(self._target, seal)
        return seal

    def discard(self) -> None:
        """Drop an unfinished file."""
        self._sorted.discard()
        self._temporary.unlink(missing_ok=True)


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """The kernel takes the lock back from a process that dies."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def seal_path(file: Path) -> Path:
    """Where a file's seal stands."""
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


def key_context(scope: Scope, file: Path) -> PayloadContext:
    """The place that a file's key is sealed for."""
    return PayloadContext(_SCHEMA, scope, f"{file.parent.name}/{file.stem}")


def is_sealed(file: Path, snapshot: str) -> bool:
    """Whether the file is there with a seal of this snapshot, format and size; its hash is checked when it is
    opened."""
    try:
        size = file.stat().st_size
        wanted = (snapshot, FORMAT, size)
        return any((seal.snapshot, seal.format, seal.bytes) == wanted for seal in read_seal(file).alternatives)
    except (OSError, msgspec.DecodeError):
        return False


class SealedSnapshot:
    """A sealed file opened for reading. Safe to share between threads.

    It closes itself when nobody holds it any more, so that a request in flight never loses it.
    """

    def __init__(self, file: Path, snapshot: str, codec: Codec | None = None, scope: Scope | None = None) -> None:
        """Open and check.

        Raises:
            Corrupt: the seal is missing or does not match the bytes, or the file's key does not open.
        """
        self._file = file
        self.seal = self._check(snapshot)
        self._cipher = _cipher_of(self.seal, file, codec, scope or Scope())
        self._environment = environments.acquire(
            file, readonly=True, lock=False, readahead=False, map_size=max(2**20, file.stat().st_size)
        )
        self._sealing = self.seal.key is not None
        self._closing = weakref.finalize(self, environments.release, self._environment)
        with self._environment.begin() as transaction:
            self.meta = decode_meta(self._cipher.open(META, transaction.get(META)))
        if self.meta.format != FORMAT or self.meta.snapshot != snapshot:
            self.close()
            raise self._broken(snapshot, "it is of another format or snapshot")
        self.plan = plan_of(self.meta.spec)
        self._decoder = RecordDecoder(self.plan, self.meta.kinds)
        self.evaluator = Evaluator(self.plan)
        self.plain = plain_kinds(self.plan, self.meta.kinds)
        self._rows = layout_of(self.meta, self.evaluator)
        self._states: OrderedDict[bytes, EntityState] = OrderedDict()

    def finished(self, entities: Sequence[bytes]) -> list[EntityRow | None]:
        """The finished row of each entity, all of one transaction."""
        if self._rows is None:
            return [None] * len(entities)
        with self._environment.begin(buffers=True) as transaction:
            # What is stored is read where it lies, which it does as long as the transaction is open.
            stored = map(transaction.get, entities)
            return self._rows.rows(stored if not self._sealing else self._opening(entities, stored))

    def _opening(self, entities: Sequence[bytes], stored: Iterable[Any]) -> Iterator[bytes | None]:
        opened = self._cipher.open
        for entity, value in zip(entities, stored, strict=True):
            yield None if value is None else opened(entity, bytes(value))

    def states(self, asked: Sequence[StateQuestion]) -> list[EntityState]:
        """What the snapshot knows of entities; :data:`NOTHING` of one it never saw. The tiles' events are read when
        they are needed: a file is near."""
        return [self.state(question.entity) for question in asked]

    def state(self, hashed: bytes) -> EntityState:
        """What the snapshot knows of an entity."""
        found = self._states.get(hashed)
        if found is not None:
            return found
        base = None
        with self._environment.begin() as transaction:
            record = transaction.get(hashed)
            if self.plan.unbounded:
                base = transaction.get(hashed + BASE)
        if record is None and base is None:
            return NOTHING
        if self._sealing:
            record = None if record is None else self._cipher.open(hashed, record)
            base = None if base is None else self._cipher.open(hashed + BASE, base)
        if record is not None and self._rows is not None:
            record = self._rows.after(record) or None
        state = self._decoder.state(record, base, lambda index: self._block(hashed, index))
        self._states[hashed] = state
        if len(self._states) > _CACHED_ENTITIES:
            self._states.popitem(last=False)
        return state

    def _block(self, hashed: bytes, index: int) -> Block:
        key = block_key(hashed, index)
        with self._environment.begin() as transaction:
            stored = transaction.get(key)
        if stored is None:
            raise self._broken(self.meta.snapshot, f"the events of tile {index} are missing")
        return decode_block(self._cipher.open(key, stored))

    @property
    def size(self) -> int:
        """How many values there are."""
        with self._environment.begin() as transaction:
            return int(transaction.stat()["entries"])

    def values(self) -> Iterator[tuple[bytes, bytes]]:
        """Every LMDB key and clear value, in order, to copy the file."""
        with self._environment.begin() as transaction:
            for key, stored in transaction.cursor():
                yield bytes(key), self._cipher.open(bytes(key), stored)

    def close(self) -> None:
        """Close the file now; only when no request can be reading it."""
        self._closing()

    def _check(self, snapshot: str) -> Seal:
        try:
            seals = read_seal(self._file).alternatives
            with self._file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except (OSError, msgspec.DecodeError) as error:
            raise self._broken(snapshot, f"it has no seal ({error})") from error
        for seal in seals:
            if seal.snapshot == snapshot and seal.sha256 == digest:
                return seal
        raise self._broken(snapshot, "its seal does not match its bytes")

    def _broken(self, snapshot: str, why: str) -> Corrupt:
        return Corrupt(
            f"The online file of {snapshot} cannot be used: {why}.",
            where="online store",
            next_step="It is rebuilt from the lake by publishing the view again.",
        )


def _cipher_of(seal: Seal, file: Path, codec: Codec | None, scope: Scope) -> ValueCipher:
    codec = codec or PlainCodec()
    if seal.key is None:
        if not codec.accepts_plain:
            raise Corrupt(
                f"The online file of {seal.snapshot} is not sealed, and this project is encrypted.",
                where="online store",
                next_step="Delete it; it is built again from the lake by publishing the view again.",
            )
        return PlainValues()
    return SealedValues(codec.open(codec_unpack(base64.b64decode(seal.key)), key_context(scope, file)))
