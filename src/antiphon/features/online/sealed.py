"""Sealed snapshots: one read-only LMDB file each, written once and never changed.

Invariant: a file without a seal that matches its bytes is never read. Order of writing: build under a temporary
name, fsync, rename, fsync the folder, then the seal by the same steps. A crash leaves garbage, never half a file
that looks whole. Under a codec that seals, every value is sealed under a key of the file's own, which stands sealed
in the seal: replacing a seal is replacing the key that protects the file.

Keys: ``m`` the meta record; ``h`` + entity hash the entity's tiles; ``b`` + entity hash + tile index (8 bytes,
biased by 2⁶³ so that it sorts) the tile's events. Entities are keyed hashes; the clear keys stay in the lake.
"""

from __future__ import annotations

import base64
import hashlib
import os
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from antiphon.catalog.snapshot_facts import SnapshotFacts
from antiphon.core.codec import Codec, PayloadContext, PlainCodec
from antiphon.core.codec import pack as codec_pack
from antiphon.core.codec import unpack as codec_unpack
from antiphon.core.errors import Corrupt
from antiphon.core.scope import Scope
from antiphon.definitions.expression import Kind
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.evaluate import NOTHING, Block, EntityState, Evaluator, TileRow
from antiphon.features.lake.local import fsync_folder
from antiphon.features.online import environments
from antiphon.features.online.ciphers import PlainValues, SealedValues, ValueCipher, new_file_key
from antiphon.features.plan import plan_of
from antiphon.features.tiles import Tile, pack, unpack

FORMAT = 1
_SCHEMA = "online/1"
_BIAS = 2**63
_CACHED_ENTITIES = 4_096


class SnapshotMeta(msgspec.Struct, frozen=True):
    """What a sealed file says about itself; enough to read it without the catalog. Instants in microseconds."""

    format: int
    snapshot: str
    spec: FeatureViewSpec
    as_of: int
    answers_from: int
    """Earliest ``as_of`` it answers exactly."""
    stream_offset: int | None
    kinds: tuple[Kind, ...]
    facts: SnapshotFacts | None = None


class Seal(msgspec.Struct, frozen=True):
    """What stands beside a finished file.

    Attributes:
        key: packed envelope of the file's key, in base64; ``None`` for a file in plaintext.
        otherwise: while a file is being replaced by one of the same content: the seal of the other one. Whichever of
            the two is there is whole.
    """

    snapshot: str
    sha256: str
    bytes: int
    key: str | None = None
    otherwise: Seal | None = None

    @property
    def alternatives(self) -> tuple[Seal, ...]:
        """The seals that a file here may match."""
        return (self,) if self.otherwise is None else (self, self.otherwise)


_encode = msgspec.msgpack.Encoder().encode
_decode_head = msgspec.msgpack.Decoder(tuple[list[Any] | None, dict[int, tuple[int, list[list[Any]]]]]).decode
_decode_block = msgspec.msgpack.Decoder(Block).decode
_decode_meta = msgspec.msgpack.Decoder(SnapshotMeta).decode
_decode_seal = msgspec.json.Decoder(Seal).decode


class SealedWriter:
    """Builds one sealed file. Call :meth:`entity` for each entity, then :meth:`seal`; :meth:`discard` otherwise."""

    def __init__(
        self, target: Path, meta: SnapshotMeta, size_hint: int, codec: Codec | None = None, scope: Scope | None = None
    ) -> None:
        import lmdb

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
        # The file grows with what is written; the map is address space only.
        self._environment = lmdb.open(
            str(self._temporary), subdir=False, lock=False, sync=False, map_size=max(2**31, size_hint * 64)
        )
        self._transaction = self._environment.begin(write=True)
        self._pending = 0
        self._put(b"m", _encode(meta))

    def entity(
        self, hashed: bytes, base: list[Tile] | None, rows: dict[int, TileRow], blocks: dict[int, Block]
    ) -> None:
        """Write one entity's state."""
        head = (
            None if base is None else [pack(tile) for tile in base],
            {index: (row.available, [pack(tile) for tile in row.tiles]) for index, row in rows.items()},
        )
        self._put(b"h" + hashed, _encode(head))
        for index, block in blocks.items():
            self._put(b"b" + hashed + (index + _BIAS).to_bytes(8, "big"), _encode(block))

    def copy(self, key: bytes, value: bytes) -> None:
        """Write one value of another file of the same snapshot."""
        self._put(key, value)

    def _put(self, key: bytes, value: bytes) -> None:
        self._transaction.put(key, self._cipher.seal(key, value))
        self._pending += 1
        if self._pending > 50_000:
            self._transaction.commit()
            self._transaction = self._environment.begin(write=True)
            self._pending = 0

    def seal(self, instead_of: Seal | None = None) -> Seal:
        """Finish the file and its seal; ``instead_of`` a file of the same content that is there."""
        self._transaction.commit()
        self._environment.sync(True)
        self._environment.close()
        with self._temporary.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            os.fsync(stream.fileno())
        seal = Seal(self._meta.snapshot, digest, self._temporary.stat().st_size, self._key)
        if instead_of is not None:
            before = msgspec.structs.replace(instead_of, otherwise=None)
            write_seal(self._target, msgspec.structs.replace(seal, otherwise=before))
        os.replace(self._temporary, self._target)
        fsync_folder(self._target.parent)
        write_seal(self._target, seal)
        return seal

    def discard(self) -> None:
        """Drop an unfinished file."""
        self._transaction.abort()
        self._environment.close()
        self._temporary.unlink(missing_ok=True)


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
    """Whether the file is there with a seal of this snapshot and size; its hash is checked when it is opened."""
    try:
        size = file.stat().st_size
        return any(seal.snapshot == snapshot and seal.bytes == size for seal in read_seal(file).alternatives)
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
        self._closing = weakref.finalize(self, environments.release, self._environment)
        with self._environment.begin() as transaction:
            self.meta = _decode_meta(self._cipher.open(b"m", transaction.get(b"m")))
        if self.meta.format != FORMAT or self.meta.snapshot != snapshot:
            self.close()
            raise self._broken(snapshot, "it is of another format or snapshot")
        self.plan = plan_of(self.meta.spec)
        self.evaluator = Evaluator(self.plan)
        self.plain = tuple(
            (index, self.meta.kinds[index])
            for index, measure in enumerate(self.plan.measures)
            if measure.mode == "plain" and self.meta.kinds[index] not in ("null", "unknown")
        )
        self._states: OrderedDict[bytes, EntityState] = OrderedDict()

    def state(self, hashed: bytes) -> EntityState:
        """What the snapshot knows of an entity; :data:`NOTHING` when it never saw it."""
        found = self._states.get(hashed)
        if found is not None:
            return found
        with self._environment.begin() as transaction:
            stored = transaction.get(b"h" + hashed)
        if stored is None:
            return NOTHING
        base, rows = _decode_head(self._cipher.open(b"h" + hashed, stored))
        state = EntityState(
            None if base is None else [unpack(tile) for tile in base],
            {index: TileRow(row[0], [unpack(tile) for tile in row[1]]) for index, row in rows.items()},
            lambda index: self._block(hashed, index),
        )
        self._states[hashed] = state
        if len(self._states) > _CACHED_ENTITIES:
            self._states.popitem(last=False)
        return state

    def _block(self, hashed: bytes, index: int) -> Block:
        key = b"b" + hashed + (index + _BIAS).to_bytes(8, "big")
        with self._environment.begin() as transaction:
            stored = transaction.get(key)
        if stored is None:
            raise self._broken(self.meta.snapshot, f"the events of tile {index} are missing")
        return _decode_block(self._cipher.open(key, stored))

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
