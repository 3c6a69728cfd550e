"""Sealed snapshots: one read-only LMDB file each, written once and never changed.

Invariant: a file without a seal that matches its bytes is never read. Order of writing: build under a temporary
name, fsync, rename, fsync the folder, then the seal by the same steps. A crash leaves garbage, never half a file
that looks whole.

Keys: ``m`` the meta record; ``h`` + entity hash the entity's tiles; ``b`` + entity hash + tile index (8 bytes,
biased by 2⁶³ so that it sorts) the tile's events. Entities are keyed hashes; the clear keys stay in the lake.
"""

from __future__ import annotations

import hashlib
import os
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import Any

import msgspec

from antiphon.core.errors import Corrupt
from antiphon.definitions.expression import Kind
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.evaluate import NOTHING, Block, EntityState, Evaluator, TileRow
from antiphon.features.lake.local import fsync_folder
from antiphon.features.online import environments
from antiphon.features.plan import plan_of
from antiphon.features.tiles import Tile, pack, unpack

FORMAT = 1
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


class Seal(msgspec.Struct, frozen=True):
    """What stands beside a finished file."""

    snapshot: str
    sha256: str
    bytes: int


_encode = msgspec.msgpack.Encoder().encode
_decode_head = msgspec.msgpack.Decoder(tuple[list[Any] | None, dict[int, tuple[int, list[list[Any]]]]]).decode
_decode_block = msgspec.msgpack.Decoder(Block).decode
_decode_meta = msgspec.msgpack.Decoder(SnapshotMeta).decode
_decode_seal = msgspec.json.Decoder(Seal).decode


class SealedWriter:
    """Builds one sealed file. Call :meth:`entity` for each entity, then :meth:`seal`; :meth:`discard` otherwise."""

    def __init__(self, target: Path, meta: SnapshotMeta, size_hint: int) -> None:
        import lmdb

        self._target = target
        self._meta = meta
        target.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = target.with_name(f".{target.name}.{os.getpid()}.building")
        self._temporary.unlink(missing_ok=True)
        # The file grows with what is written; the map is address space only.
        self._environment = lmdb.open(
            str(self._temporary), subdir=False, lock=False, sync=False, map_size=max(2**31, size_hint * 64)
        )
        self._transaction = self._environment.begin(write=True)
        self._transaction.put(b"m", _encode(meta))
        self._pending = 0

    def entity(
        self, hashed: bytes, base: list[Tile] | None, rows: dict[int, TileRow], blocks: dict[int, Block]
    ) -> None:
        """Write one entity's state."""
        head = (
            None if base is None else [pack(tile) for tile in base],
            {index: (row.available, [pack(tile) for tile in row.tiles]) for index, row in rows.items()},
        )
        self._transaction.put(b"h" + hashed, _encode(head))
        for index, block in blocks.items():
            self._transaction.put(b"b" + hashed + (index + _BIAS).to_bytes(8, "big"), _encode(block))
        self._pending += 1 + len(blocks)
        if self._pending > 50_000:
            self._transaction.commit()
            self._transaction = self._environment.begin(write=True)
            self._pending = 0

    def seal(self) -> Seal:
        """Finish the file and its seal."""
        self._transaction.commit()
        self._environment.sync(True)
        self._environment.close()
        with self._temporary.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            os.fsync(stream.fileno())
        seal = Seal(self._meta.snapshot, digest, self._temporary.stat().st_size)
        os.replace(self._temporary, self._target)
        fsync_folder(self._target.parent)
        marker = seal_path(self._target)
        draft = marker.with_name(f".{marker.name}.{os.getpid()}")
        with draft.open("wb") as stream:
            stream.write(msgspec.json.encode(seal))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(draft, marker)
        fsync_folder(self._target.parent)
        return seal

    def discard(self) -> None:
        """Drop an unfinished file."""
        self._transaction.abort()
        self._environment.close()
        self._temporary.unlink(missing_ok=True)


def seal_path(file: Path) -> Path:
    """Where a file's seal stands."""
    return file.with_name(file.name + ".seal")


def is_sealed(file: Path, snapshot: str) -> bool:
    """Whether the file is there with a seal of this snapshot and size; its hash is checked when it is opened."""
    try:
        seal = _decode_seal(seal_path(file).read_bytes())
        return seal.snapshot == snapshot and file.stat().st_size == seal.bytes
    except (OSError, msgspec.DecodeError):
        return False


class SealedSnapshot:
    """A sealed file opened for reading. Safe to share between threads.

    It closes itself when nobody holds it any more, so that a request in flight never loses it.
    """

    def __init__(self, file: Path, snapshot: str) -> None:
        """Open and check.

        Raises:
            Corrupt: the seal is missing or does not match the bytes.
        """
        self._file = file
        self._check(snapshot)
        self._environment = environments.acquire(
            file, readonly=True, lock=False, readahead=False, map_size=max(2**20, file.stat().st_size)
        )
        self._closing = weakref.finalize(self, environments.release, file)
        with self._environment.begin() as transaction:
            self.meta = _decode_meta(transaction.get(b"m"))
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
        base, rows = _decode_head(stored)
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
        with self._environment.begin() as transaction:
            stored = transaction.get(b"b" + hashed + (index + _BIAS).to_bytes(8, "big"))
        if stored is None:
            raise self._broken(self.meta.snapshot, f"the events of tile {index} are missing")
        return _decode_block(stored)

    def close(self) -> None:
        """Close the file now; only when no request can be reading it."""
        self._closing()

    def _check(self, snapshot: str) -> None:
        try:
            seal = _decode_seal(seal_path(self._file).read_bytes())
            with self._file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except (OSError, msgspec.DecodeError) as error:
            raise self._broken(snapshot, f"it has no seal ({error})") from error
        if seal.snapshot != snapshot or seal.sha256 != digest:
            raise self._broken(snapshot, "its seal does not match its bytes")

    def _broken(self, snapshot: str, why: str) -> Corrupt:
        return Corrupt(
            f"The online file of {snapshot} cannot be used: {why}.",
            where="online store",
            next_step="It is rebuilt from the lake by publishing the view again.",
        )
