"""A sealed snapshot in Redis, of which a whole request is read in one round trip.

Invariants: what has no seal does not exist; every answer of the server comes with the seal as it was at that moment, so
that a snapshot which was collected, lost with the server's memory or sealed anew is noticed by the read itself, and
never taken for an entity without values.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice

import msgspec

from antiphon.core.codec import Codec, unpack
from antiphon.core.errors import CorruptionError
from antiphon.features.online.ciphers import PlainValues, SealedValues, ValueCipher
from antiphon.features.online.redis.layout import (
    LAYOUT,
    SEALED,
    BuildSeal,
    SnapshotKeys,
    decode_seal,
)
from antiphon.features.online.redis.server import RedisServer
from antiphon.features.online.redis.writer import Digest, key_context
from antiphon.features.online.snapshots.encoding import (
    FORMAT,
    META,
    RecordDecoder,
    base_key,
    block_key,
    decode_block,
    decode_meta,
    plain_kinds,
    row_key,
)
from antiphon.features.online.snapshots.finished import layout_of
from antiphon.features.plan import plan_of
from antiphon.features.ports import StateQuery
from antiphon.features.tiles.entity_state import NOTHING, Block, EntityState, edge_tiles, hidden_tiles
from antiphon.features.tiles.evaluate import ViewEvaluator
from antiphon.features.values import EntityRow

_CACHED_ENTITIES = 4_096
_SCAN = 1_000


class _Build(msgspec.Struct, frozen=True):
    """The build that is the snapshot now: its seal as stored, what its keys begin with, the hash of its rows, and its
    cipher."""

    stored: bytes
    seal: BuildSeal
    prefix: str
    rows: str
    cipher: ValueCipher

    def name(self, key: bytes) -> str:
        """Redis key of a record."""
        return self.prefix + key.hex()


class RedisSnapshot:
    """A sealed snapshot opened for reading. Safe to share between threads."""

    def __init__(self, server: RedisServer, place: SnapshotKeys, codec: Codec) -> None:
        """Open.

        Raises:
            CorruptionError: the seal is missing or of something else, or its key does not open.
            UnavailableError: the server does not answer.
        """
        self._server = server
        self._place = place
        self._codec = codec
        with server.answering():
            stored = server.client.get(place.seal)
        self.build = self._built(stored)
        """The build as last read."""
        try:
            self.meta = decode_meta(self.build.cipher.open(META, self.build.seal.meta))
        except msgspec.DecodeError as error:
            raise self._broken("what it says about itself does not decode") from error
        if self.meta.format != FORMAT or self.meta.snapshot != place.snapshot:
            raise self._broken("it is of another format or snapshot")
        self.plan = plan_of(self.meta.spec)
        self._decoder = RecordDecoder(self.plan, self.meta.kinds)
        self.evaluator = ViewEvaluator(self.plan)
        self.plain = plain_kinds(self.plan, self.meta.kinds)
        self._rows = layout_of(self.meta, self.evaluator)
        self._sealing = self.build.seal.key is not None
        self._known: OrderedDict[bytes, EntityState] = OrderedDict()
        self._lock = threading.Lock()

    def finished(self, entities: Sequence[bytes]) -> list[EntityRow | None]:
        """The finished row of each entity; one command tells them and that their build is sealed."""
        if self._rows is None or not entities:
            return [None] * len(entities)
        while True:
            build = self.build
            with self._server.answering():
                sealed, *stored = self._server.client.hmget(build.rows, [SEALED, *entities])
            if sealed is not None:
                break
            with self._server.answering():
                found = self._server.client.get(self._place.seal)
            # It was sealed anew meanwhile (with the same content), or it is gone.
            self.build = self._built(found)
            if found == build.stored:
                raise self._broken("its finished rows are missing")
        if self._sealing:
            opened = build.cipher.open
            stored = [
                None if value is None else opened(row_key(entity), value)
                for entity, value in zip(entities, stored, strict=True)
            ]
        return self._rows.rows(stored)

    def states(self, queries: Sequence[StateQuery]) -> list[EntityState]:
        """States of entities; one round trip for all that was not read before, and one more when tiles hold events that
        were not available yet."""
        edges = {as_of: edge_tiles(self.plan, as_of) for as_of in {query.as_of for query in queries}}
        needed: dict[bytes, set[int]] = {}
        for query in queries:
            tiles = needed.setdefault(query.entity, set())
            tiles |= edges[query.as_of]
            tiles.update(query.patched)
        known = {entity: state for entity in needed if (state := self._known.get(entity)) is not None}
        self._load(known, needed)
        hidden: dict[bytes, set[int]] = {}
        for query in queries:
            rows = known[query.entity].rows
            if rows:
                hidden.setdefault(query.entity, set()).update(hidden_tiles(self.plan, rows, query.as_of))
        self._load(known, hidden)
        return [known[query.entity] for query in queries]

    def _load(self, known: dict[bytes, EntityState], needed: Mapping[bytes, set[int]]) -> None:
        """Read what is missing of entities and of these tiles' events into ``known``."""
        parts: dict[bytes, tuple[bool, list[int]]] = {}
        for entity, tiles in needed.items():
            state = known.get(entity)
            if state is not None:
                tiles = {index for index in tiles if index in state.rows and index not in state.blocks}
            if state is None or tiles:
                parts[entity] = (state is None, sorted(tiles))
        if not parts:
            return
        build, answers = self._fetched(parts)
        for (entity, (with_head, indexes)), answer in zip(parts.items(), answers, strict=True):
            if with_head:
                record, base, *answer = answer
                known[entity] = self._remember(
                    entity,
                    None if record is None else build.cipher.open(entity, record),
                    None if base is None else build.cipher.open(base_key(entity), base),
                )
            state = known[entity]
            for index, stored in zip(indexes, answer, strict=True):
                if index in state.rows:
                    state.blocks[index] = self._opened_block(build, entity, index, stored)

    def _fetched(self, parts: Mapping[bytes, tuple[bool, list[int]]]) -> tuple[_Build, list[list[bytes | None]]]:
        """The stored values, all of one build that was the snapshot when they were read; and that build."""
        while True:
            build = self.build
            names: list[list[str]] = []
            for entity, (with_head, tiles) in parts.items():
                head = [entity, base_key(entity)] if with_head else []
                names.append([build.name(key) for key in (*head, *(block_key(entity, index) for index in tiles))])
            with self._server.answering():
                stored, *found = self._server.client.mget(self._place.seal, *chain.from_iterable(names))
            if stored == build.stored:
                answers = iter(found)
                return build, [list(islice(answers, len(each))) for each in names]
            # It was sealed anew meanwhile (with the same content), or it is gone.
            self.build = self._built(stored)

    def _remember(self, entity: bytes, record: bytes | None, base: bytes | None) -> EntityState:
        state = NOTHING
        if record is not None or base is not None:
            state = self._decoder.state(record, base, lambda index: self._block(entity, index))
        with self._lock:
            self._known[entity] = state
            if len(self._known) > _CACHED_ENTITIES:
                self._known.popitem(last=False)
        return state

    def _block(self, entity: bytes, index: int) -> Block:
        """Events of a tile that was not loaded ahead."""
        build, ((stored,),) = self._fetched({entity: (False, [index])})
        return self._opened_block(build, entity, index, stored)

    def _opened_block(self, build: _Build, entity: bytes, index: int, stored: bytes | None) -> Block:
        if stored is None:
            raise self._broken(f"the events of tile {index} are missing")
        return decode_block(build.cipher.open(block_key(entity, index), stored))

    def values(self) -> Iterator[tuple[bytes, bytes]]:
        """Every key and clear value, to check or copy the snapshot; raises ``CorruptionError`` at the end, when
        something is missing or was changed."""
        build, digest = self.build, Digest()
        yield META, build.cipher.open(META, build.seal.meta)
        for key, stored in self._records(build):
            digest.add([key], [stored])
            yield key, build.cipher.open(key, stored)
        for hashed, stored in self._finished(build):
            key = row_key(hashed)
            digest.add([key], [stored])
            yield key, build.cipher.open(key, stored)
        if (digest.hex, digest.size, digest.values) != (build.seal.digest, build.seal.size, build.seal.values):
            raise self._broken("what is stored does not match its seal")

    def _records(self, build: _Build) -> Iterator[tuple[bytes, bytes]]:
        client, seen = self._server.bulk, {build.rows.encode()}
        for names in self._server.walk(partial(client.scan, match=f"{build.prefix}*", count=_SCAN)):
            fresh = [name for name in names if name not in seen]
            seen.update(fresh)
            with self._server.answering():
                found = client.mget(fresh) if fresh else []
            for name, stored in zip(fresh, found, strict=True):
                # One that is gone is missed by who compares the digest.
                if stored is not None:
                    yield bytes.fromhex(name[len(build.prefix) :].decode()), stored

    def _finished(self, build: _Build) -> Iterator[tuple[bytes, bytes]]:
        """Every finished row as stored."""
        seen = {SEALED}
        for found in self._server.walk(partial(self._server.bulk.hscan, build.rows, count=_SCAN)):
            for hashed, stored in found.items():
                if hashed not in seen:
                    seen.add(hashed)
                    yield hashed, stored

    def _built(self, stored: bytes | None) -> _Build:
        if stored is None:
            raise self._broken("it has no seal")
        try:
            seal = decode_seal(stored)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._broken("its seal does not decode") from error
        if seal.snapshot != self._place.snapshot:
            raise self._broken("its seal is of another snapshot")
        if seal.layout != LAYOUT:
            raise self._broken("an earlier version laid it out otherwise")
        cipher: ValueCipher = PlainValues()
        if seal.key is not None:
            cipher = SealedValues(self._codec.open(unpack(seal.key), key_context(self._place)))
        elif not self._codec.accepts_plain:
            raise self._broken("it is not sealed with a key, and this project is encrypted")
        return _Build(stored, seal, self._place.build(seal.build), self._place.rows(seal.build), cipher)

    def _broken(self, why: str) -> CorruptionError:
        return CorruptionError(
            f"The online snapshot {self._place.snapshot} cannot be used: {why}.",
            where=f"online store {self._server.name}",
            next_step="`antiphon up` builds it again from the lake.",
        )
