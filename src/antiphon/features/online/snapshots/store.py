"""The base of every store of snapshots: hashes of entities, and the snapshots that this process has opened."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

import msgspec

from antiphon.core.codec import Codec, PlainCodec
from antiphon.core.ids import keyed_hashes
from antiphon.core.scope import Scope

Opened = TypeVar("Opened")
_encode = msgspec.json.Encoder().encode


class SnapshotStore(Generic[Opened]):
    """Sealed snapshots of any number of scopes.

    Args:
        key: the store's secret; entities are only known by their hash under it.
        codec: seals each snapshot's own key, under which its values are sealed.
    """

    def __init__(self, key: bytes, codec: Codec | None = None) -> None:
        self._key = key
        self._codec: Codec = codec or PlainCodec()
        self._lock = threading.Lock()
        self._opened: dict[tuple[Scope, str, str], Opened] = {}

    def entity_hash(self, entity: str, keys: Iterable[str | None]) -> bytes:
        """16 bytes that stand for an entity; ``keys`` are the key values as text, in order. Without any value (all are
        null) it is all entities together."""
        return self.entity_hashes(entity, [list(keys)])[0]

    def entity_hashes(self, entity: str, keys: Iterable[Sequence[str | None]]) -> list[bytes]:
        """:meth:`entity_hash` of many."""
        encode = _encode
        # JSON of a name and keys is that of the name, which all have in common, and that of the keys.
        return keyed_hashes(self._key, [encode(values)[1:] for values in keys], encode([entity])[:-1] + b",")

    def forget(self, scope: Scope, keep: Iterable[tuple[str, str]]) -> None:
        """Let go of opened snapshots of a scope that are not among (view, snapshot) of ``keep``; each closes when the
        last request that reads it is done."""
        kept = set(keep)
        with self._lock:
            for key in [key for key in self._opened if key[0] == scope and key[1:] not in kept]:
                del self._opened[key]
