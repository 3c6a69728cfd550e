"""Sealed snapshots: one read-only LMDB file each, written once and never changed.

Invariant: a file without a seal that matches its bytes is never read. Order of writing: build under a temporary
name, fsync, rename, fsync the folder, then the seal by the same steps. A crash leaves garbage, never half a file
that looks whole. Before every reading the open file is held against its size and time of change as they were when its
hash was checked: a page of the map that the file no longer has would end the process (SIGBUS). Under a codec that
seals, every value is sealed under a key of the file's own, which stands sealed in the seal: replacing a seal is
replacing the key that protects the file.

Keys and values are those of ``encoding``.
"""

from __future__ import annotations

import base64
import hashlib
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any

import msgspec

from antiphon.core.codec import Codec, PlainCodec, unpack
from antiphon.core.errors import CorruptionError
from antiphon.core.scope import Scope
from antiphon.features.online.ciphers import PlainValues, SealedValues, ValueCipher
from antiphon.features.online.lmdb import environments
from antiphon.features.online.lmdb.writer import key_context, read_seal
from antiphon.features.online.snapshots.encoding import (
    FORMAT,
    META,
    RecordDecoder,
    base_key,
    block_key,
    decode_block,
    decode_meta,
    plain_kinds,
)
from antiphon.features.online.snapshots.finished import layout_of
from antiphon.features.plan import plan_of
from antiphon.features.ports import StateQuery
from antiphon.features.tiles.entity_state import NOTHING, Block, EntityState
from antiphon.features.tiles.evaluate import ViewEvaluator
from antiphon.features.values import EntityRow

_CACHED_ENTITIES = 4_096


class LmdbSnapshot:
    """A sealed file opened for reading. Safe to share between threads.

    It closes itself when nobody holds it any more, so that a request in flight never loses it.
    """

    def __init__(self, file: Path, snapshot: str, codec: Codec | None = None, scope: Scope | None = None) -> None:
        """Open and check; raises ``CorruptionError`` when the seal is missing or does not match the bytes, or the
        file's key does not open."""
        self._snapshot = snapshot
        codec, scope = codec or PlainCodec(), scope or Scope()
        try:
            seals = read_seal(file).alternatives
        except (OSError, msgspec.DecodeError) as error:
            raise self._broken(f"it has no seal ({type(error).__name__})") from error
        try:
            # Of the file that was checked, whatever comes to stand under its name.
            self._stream = file.open("rb")
        except OSError as error:
            raise self._broken(f"it cannot be opened ({error.strerror})") from error
        self._hashing = threading.Lock()
        try:
            try:
                self._stamp, digest = self._hashed()
            except OSError as error:
                raise self._broken(f"it cannot be read ({error.strerror})") from error
            matching = [seal for seal in seals if (seal.snapshot, seal.sha256) == (snapshot, digest)]
            if not matching:
                raise self._broken("its seal does not match its bytes")
            self.seal = matching[0]
            self._sealing = self.seal.key is not None
            self._cipher: ValueCipher = PlainValues()
            if self.seal.key is not None:
                sealed = unpack(base64.b64decode(self.seal.key))
                self._cipher = SealedValues(codec.open(sealed, key_context(scope, file)))
            elif not codec.accepts_plain:
                raise CorruptionError(
                    f"The online file of {snapshot} is not sealed, and this project is encrypted.",
                    where="online store",
                    next_step="Delete it; `antiphon up` builds it again from the lake.",
                )
            self._environment = environments.acquire(
                file, readonly=True, lock=False, readahead=False, map_size=max(2**20, self.seal.bytes)
            )
            self._closing = weakref.finalize(self, _let_go, self._environment, self._stream)
        except BaseException:
            self._stream.close()
            raise
        if not os.path.samestat(file.stat(), os.fstat(self._stream.fileno())):
            self.close()
            raise self._broken("it was replaced while it was opened")
        with self._environment.begin() as transaction:
            self.meta = decode_meta(self._cipher.open(META, transaction.get(META)))
        if self.meta.format != FORMAT or self.meta.snapshot != snapshot:
            self.close()
            raise self._broken("it is of another format or snapshot")
        self.plan = plan_of(self.meta.spec)
        self._decoder = RecordDecoder(self.plan, self.meta.kinds)
        self.evaluator = ViewEvaluator(self.plan)
        self.plain = plain_kinds(self.plan, self.meta.kinds)
        self._rows = layout_of(self.meta, self.evaluator)
        self._states: OrderedDict[bytes, EntityState] = OrderedDict()

    def finished(self, entities: Sequence[bytes]) -> list[EntityRow | None]:
        """The finished row of each entity, all of one transaction."""
        if self._rows is None:
            return [None] * len(entities)
        self._require_whole()
        with self._environment.begin(buffers=True) as transaction:
            # What is stored is read where it lies, which it does as long as the transaction is open.
            stored: Iterable[Any] = map(transaction.get, entities)
            if self._sealing:
                opened = self._cipher.open
                both = zip(entities, stored, strict=True)
                stored = (None if value is None else opened(entity, bytes(value)) for entity, value in both)
            return self._rows.rows(stored)

    def states(self, queries: Sequence[StateQuery]) -> list[EntityState]:
        """States of entities; :data:`NOTHING` for an unknown one. Events of tiles are loaded when they are needed: the
        file is local."""
        return [self.state(query.entity) for query in queries]

    def state(self, hashed: bytes) -> EntityState:
        """State of an entity."""
        found = self._states.get(hashed)
        if found is not None:
            return found
        base = None
        self._require_whole()
        with self._environment.begin() as transaction:
            record = transaction.get(hashed)
            if self.plan.unbounded:
                base = transaction.get(base_key(hashed))
        if record is None and base is None:
            return NOTHING
        if self._sealing:
            record = None if record is None else self._cipher.open(hashed, record)
            base = None if base is None else self._cipher.open(base_key(hashed), base)
        if record is not None and self._rows is not None:
            record = self._rows.after(record) or None
        state = self._decoder.state(record, base, lambda index: self._block(hashed, index))
        self._states[hashed] = state
        if len(self._states) > _CACHED_ENTITIES:
            self._states.popitem(last=False)
        return state

    def _block(self, hashed: bytes, index: int) -> Block:
        key = block_key(hashed, index)
        self._require_whole()
        with self._environment.begin() as transaction:
            stored = transaction.get(key)
        if stored is None:
            raise self._broken(f"the events of tile {index} are missing")
        return decode_block(self._cipher.open(key, stored))

    @property
    def size(self) -> int:
        """Number of values."""
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

    @property
    def whole(self) -> bool:
        """The open file still has the bytes that its seal names; all of it is read."""
        return self._matches(anew=True)

    def _matches(self, *, anew: bool) -> bool:
        """Read all of the file against its seal; unless ``anew``, a reading of this state of it by another thread
        counts."""
        with self._hashing:
            if not anew and self._state() == self._stamp:
                return True
            try:
                stamp, digest = self._hashed()
            except OSError:
                return False  # A disk that does not give the bytes back has lost them.
            if digest == self.seal.sha256:
                self._stamp = stamp
                return True
            return False

    def _state(self) -> tuple[int, int]:
        found = os.fstat(self._stream.fileno())
        return found.st_size, found.st_mtime_ns

    def _require_whole(self) -> None:
        found = self._state()
        if found == self._stamp:
            return
        # Its time may change without its bytes: a backup that was put back, or an earlier version that spared it.
        if found[0] != self.seal.bytes or not self._matches(anew=False):
            raise self._broken("it was changed while it was open")

    def _hashed(self) -> tuple[tuple[int, int], str]:
        """Size and time of change from before the bytes were read, and their hash."""
        found = self._state()
        self._stream.seek(0)
        return found, hashlib.file_digest(self._stream, "sha256").hexdigest()

    def _broken(self, why: str) -> CorruptionError:
        return CorruptionError(
            f"The online file of {self._snapshot} cannot be used: {why}.",
            where="online store",
            next_step="`antiphon up` builds it again from the lake.",
        )


def _let_go(environment: Any, stream: BufferedReader) -> None:
    environments.release(environment)
    stream.close()
