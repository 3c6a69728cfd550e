"""The overlay in Redis or Valkey: measured events that came through the stream, and the consumer's offsets.

Invariants: events and the progress of their partitions change in one MULTI, and partitions only from the progress that
the consumer read, so that of two consumers of one the second is refused; a reading is one MULTI too. An event stands
under its log offset and counts once, however often and by whichever consumer it was written. What is pruned is marked,
within the view's fence, before it is gone, and goes only while it is marked.

Keys, after ``TENANT:ENVIRONMENT:@overlay:``; ``VIEW`` and ``ENTITY`` are hashes in hex:

- ``progress`` a hash of the progress by view (8 bytes) and partition (1 byte)
- ``pruned`` a sorted set of views by offset
- ``fences`` a hash of the fences of prunes by view (``prune_fence``)
- ``events:VIEW:ENTITY`` a sorted set of events by log offset: offset (8 bytes) ‖ value
- ``entities:VIEW`` the set of entities that have events, for pruning
- ``keys`` a hash of the overlay's own keys, sealed by the codec; ``retired`` those that are being replaced: nothing is
  written under them any more, and what was is still read
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any, TypeVar

from antiphon.core.codec import Codec, PlainCodec
from antiphon.core.errors import CorruptionError, UnavailableError, WriteConflictError
from antiphon.core.scope import Scope
from antiphon.features.online.overlay_records import (
    PARTITIONS,
    KeyRecords,
    OverlayCheck,
    OverlayEvent,
    OverlayKeys,
    OverlayState,
    ProgressMove,
    StreamProgress,
    ViewPartition,
    decode_event,
    decode_progress,
    encode_event,
    encode_progress,
    key_place,
)
from antiphon.features.online.prune_fence import PruneFence, decode_fence, encode_fence
from antiphon.features.online.redis.server import RedisServer
from antiphon.features.values import StreamedEvent

_PATIENCE = 10.0
"""Seconds for which a writer starts again while what it watches is changed. Each time another process has got on."""
_Result = TypeVar("_Result")
_PAGE = 500
_OFFSET = 8

_MOVE = """
for n = 1, #ARGV, 3 do
  if (redis.call('HGET', KEYS[1], ARGV[n]) or '') ~= ARGV[n + 1] then return 0 end
end
for n = 1, #ARGV, 3 do redis.call('HSET', KEYS[1], ARGV[n], ARGV[n + 2]) end
return 1
"""
"""Key: progress; arguments, three for each partition: its name, its progress as it was read, and after. All or nothing:
0 when one is not as it was read."""

_PRUNE = """
local said = tonumber(redis.call('ZSCORE', KEYS[3], ARGV[1]) or 0)
if said < tonumber(ARGV[2]) then return -1 end
local gone = redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[2])
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('SREM', KEYS[2], ARGV[3]) end
return gone
"""
"""Keys: an entity's events, entities, pruned; arguments: view, offset, entity. How many went; -1 once they were put
back by somebody else."""

_REPLACE = """
if redis.call('ZREM', KEYS[1], ARGV[2]) == 0 then return 0 end
redis.call('ZADD', KEYS[1], ARGV[1], ARGV[3])
return 1
"""
"""Keys: an entity's events; arguments: offset, member, its replacement. Whether it was still there."""


_UNREAD = StreamProgress()


class RedisOverlay:
    """The overlay of one scope. Any number of processes read and write."""

    def __init__(self, server: RedisServer, scope: Scope, codec: Codec | None = None) -> None:
        self._server = server
        self._prefix = f"{scope.tenant}:{scope.environment}:@overlay:"
        self._sealing = (codec or PlainCodec()).sealing
        self._keys = OverlayKeys(codec or PlainCodec(), scope)
        self._progress, self._pruned = self._prefix + "progress", self._prefix + "pruned"
        self._fences = self._prefix + "fences"
        self._held, self._retired = self._prefix + "keys", self._prefix + "retired"

    def read(self, views: Iterable[bytes], queries: Iterable[tuple[bytes, bytes, int]] = ()) -> OverlayState:
        """Progress of views, and of each (view, entity, offset) the events after that offset, in one transaction."""
        listed, listed_queries = list(dict.fromkeys(views)), list(queries)
        try:
            return self._read(listed, listed_queries)
        except CorruptionError:
            if not self._sealing:
                raise
            # The keys may have been replaced between the events and the keys.
            return self._read(listed, listed_queries)

    def _read(self, views: list[bytes], queries: list[tuple[bytes, bytes, int]]) -> OverlayState:
        reading = OverlayState({}, {}, {})
        if not views:
            return reading
        with self._server.answering():
            pipeline = self._server.client.pipeline(transaction=True)
            pipeline.hmget(self._progress, [_name(view, number) for view in views for number in range(PARTITIONS)])
            pipeline.zmscore(self._pruned, views)
            for view, entity, after in queries:
                pipeline.zrangebyscore(self._events(view, entity), f"({after}", "+inf")
            progress, pruned, *found = pipeline.execute()
            for place, view in enumerate(views):
                stored = progress[place * PARTITIONS : (place + 1) * PARTITIONS]
                reading.progress[view] = tuple(_UNREAD if one is None else decode_progress(one) for one in stored)
                reading.pruned[view] = int(pruned[place] or 0)
            records = self._records(self._server.client)
            for (view, entity, _), members in zip(queries, found, strict=True):
                reading.events[view, entity] = list(self._opened(records, view, entity, members))
        return reading

    def _opened(
        self, records: KeyRecords, view: bytes, entity: bytes, members: Sequence[bytes]
    ) -> Iterator[StreamedEvent]:
        """The events of members by offset, each offset once: one that was written again may be sealed differently."""
        last = b""
        for member in members:
            offset = member[:_OFFSET]
            if offset != last:
                last = offset
                yield decode_event(self._keys.open(records, _sealed_for(view, entity, offset), member[_OFFSET:]))

    def apply(self, moves: Mapping[ViewPartition, ProgressMove], events: Iterable[OverlayEvent]) -> bool:
        """Write events and move their partitions, all or none; ``False`` when another consumer moved one of them: the
        events are written then, as that one has written them or will."""
        self._server.require_keeping()
        arguments: list[bytes] = []
        for moved, move in moves.items():
            before = b"" if move.before == _UNREAD else encode_progress(move.before)
            arguments += [_name(*moved), before, encode_progress(move.after)]
        done = self._write(list(events), lambda pipeline: pipeline.eval(_MOVE, 1, self._progress, *arguments))
        return bool(done and done[-1])

    def restore(self, view: bytes, through: int, events: Iterable[OverlayEvent], pruned: int, publication: int) -> bool:
        """Put the events with ``through < offset ≤ pruned`` back for a publication, unless more was pruned since."""
        fence = PruneFence()

        def no_more_pruned(pipeline: Any) -> bool:
            nonlocal fence
            pipeline.watch(self._pruned, self._fences)
            fence = decode_fence(pipeline.hget(self._fences, view)).restored(through, publication)
            return bool((pipeline.zscore(self._pruned, view) or 0) <= pruned)

        def lower(pipeline: Any) -> None:
            pipeline.zadd(self._pruned, {view: through}, lt=True, xx=True)
            pipeline.hset(self._fences, view, encode_fence(fence))

        return self._write(list(events), lower, no_more_pruned) is not None

    def _write(
        self,
        events: Sequence[OverlayEvent],
        also: Callable[[Any], None],
        provided: Callable[[Any], bool] = lambda pipeline: True,
    ) -> list[Any] | None:
        """Events and ``also`` in one step, with what each command answered, or nothing (``None``) unless what is
        ``provided`` holds until then."""

        def attempt(pipeline: Any) -> list[Any] | None:
            records = self._records(self._server.bulk)
            by_entity: dict[tuple[bytes, bytes], dict[bytes, int]] = {}
            for item in events:
                offset = item.event.offset.to_bytes(_OFFSET, "big")
                name = _sealed_for(item.view, item.entity, offset)
                member = offset + self._keys.seal(records, name, encode_event(item.event))
                by_entity.setdefault((item.view, item.entity), {})[member] = item.event.offset
            if self._sealing:
                # Whoever replaces the keys takes them away first; what they sealed must not come after.
                pipeline.watch(self._held)
                if records.known and None in pipeline.hmget(self._held, list(records.known)):
                    raise WriteConflictError("The overlay's keys were replaced meanwhile.", where="online store")
            if not provided(pipeline):
                return None
            pipeline.multi()
            for (view, entity), members in by_entity.items():
                pipeline.zadd(self._events(view, entity), members)
                pipeline.sadd(self._entities(view), entity.hex())
            also(pipeline)
            return list(pipeline.execute())

        return self._repeated(attempt)

    def _repeated(self, attempt: Callable[[Any], _Result]) -> _Result:
        """Attempt a transaction, given its pipeline, until nothing that it watches is changed by another process."""
        end = monotonic() + _PATIENCE
        while monotonic() < end:
            with (
                suppress(WriteConflictError),
                self._server.answering(),
                self._server.bulk.pipeline(transaction=True) as pipeline,
            ):
                return attempt(pipeline)
        raise UnavailableError(
            "The overlay's keys or fences are changed all the time.",
            where="online store",
            next_step="Try again in a moment.",
        )

    def prune(self, view: bytes, through: int, decided: int) -> int:
        """Drop a view's events with ``offset ≤ through``, as far as its fence lets; return their number."""
        client = self._server.bulk
        dropped: int = 0
        through = self._repeated(partial(self._marked, view, through, decided))
        for entities in self._pages(view):
            with self._server.answering():
                pipeline = client.pipeline(transaction=False)
                for entity in entities:
                    keys = (self._events(view, bytes.fromhex(entity)), self._entities(view), self._pruned)
                    pipeline.eval(_PRUNE, 3, *keys, view, through, entity)
                gone: list[int] = pipeline.execute()
            dropped += sum(number for number in gone if number > 0)
            if -1 in gone:
                return dropped
        return dropped

    def _marked(self, view: bytes, through: int, decided: int, pipeline: Any) -> int:
        """Mark events as pruned as far as the fence lets; return the offset through which they are to be dropped."""
        pipeline.watch(self._fences)
        fence = decode_fence(pipeline.hget(self._fences, view))
        through = fence.limit(through, decided)
        pipeline.multi()
        pipeline.hset(self._fences, view, encode_fence(fence.pruned(through, decided)))
        pipeline.zadd(self._pruned, {view: through}, gt=True)
        pipeline.execute()
        return through

    def replay_through(self, targets: Mapping[bytes, int]) -> None:
        """As :meth:`caught_up`."""

    def caught_up(self) -> None:
        """A server holds all of it or nothing; nothing of it is ever set aside."""

    def reseal(self) -> int:
        """Write every event anew under a new key and drop the old keys, unless all are under the data key that seals
        now; returns how many events were written. Whoever writes meanwhile starts again, under the new key."""
        client = self._server.bulk
        resealed = 0
        with self._server.answering():
            records = self._records(client)
            replacing = not self._keys.current(records)
            old = list(records.held) if replacing else []
            unfinished = bool(client.exists(self._retired))
            if replacing:
                self._keys.begin(records)
        if replacing:
            resealed += self._pass(leaving=set(records.held) - set(old))
        if old:
            with self._server.answering(), client.pipeline(transaction=True) as pipeline:
                # From here on nobody can write under an old key: its name is gone from what writers watch.
                pipeline.hset(self._retired, mapping={place: records.held[place] for place in old})
                pipeline.hdel(self._held, *old)
                pipeline.execute()
        if old or unfinished:
            # What was written under them while the first pass went on, or left by one that was cut off.
            with self._server.answering():
                now = set(self._records(client).held)
            resealed += self._pass(leaving=now)
            with self._server.answering():
                client.delete(self._retired)
        return resealed

    def _pass(self, leaving: set[bytes]) -> int:
        """Seal events anew, but for those under the keys at ``leaving``."""
        with self._server.answering():
            views = self._views()
        return sum(
            self._resealed(view, bytes.fromhex(entity), leaving)
            for view in views
            for entities in self._pages(view)
            for entity in entities
        )

    def _resealed(self, view: bytes, entity: bytes, leaving: set[bytes]) -> int:
        client, key = self._server.bulk, self._events(view, entity)
        with self._server.answering():
            records = self._records(client)
            pipeline = client.pipeline(transaction=False)
            for member in client.zrange(key, 0, -1):
                offset, stored = member[:_OFFSET], member[_OFFSET:]
                if key_place(stored) in leaving:
                    continue
                place = _sealed_for(view, entity, offset)
                value = self._keys.seal(records, place, self._keys.open(records, place, stored))
                pipeline.eval(_REPLACE, 1, key, int.from_bytes(offset, "big"), member, offset + value)
            replaced: list[int] = pipeline.execute()
            return sum(replaced)

    def events(self, view: bytes) -> Iterator[OverlayEvent]:
        """Every event of a view, entity by entity."""
        client = self._server.bulk
        with self._server.answering():
            records = self._records(client)
            for entities in self._pages(view):
                for entity in map(bytes.fromhex, entities):
                    members = client.zrange(self._events(view, entity), 0, -1)
                    for event in self._opened(records, view, entity, members):
                        yield OverlayEvent(view, entity, event)

    def check(self) -> OverlayCheck:
        """Open every event, a page of entities at a time; what does not open is counted."""
        client = self._server.bulk

        def stored() -> Iterator[tuple[bytes, bytes]]:
            for view in self._views():
                for entities in self._pages(view):
                    for entity in map(bytes.fromhex, entities):
                        for member in client.zrange(self._events(view, entity), 0, -1):
                            yield _sealed_for(view, entity, member[:_OFFSET]), member[_OFFSET:]

        with self._server.answering():
            return self._keys.check(self._records(client), stored())

    def _views(self) -> list[bytes]:
        """Every view that was consumed for."""
        return sorted({name[:-1] for name in self._server.bulk.hkeys(self._progress)})

    def _pages(self, view: bytes) -> Iterator[list[str]]:
        for found in self._server.walk(partial(self._server.bulk.sscan, self._entities(view), count=_PAGE)):
            if found:
                yield [entity.decode() for entity in found]

    def _records(self, client: Any) -> KeyRecords:
        return KeyRecords(
            partial(client.hgetall, self._held), partial(client.hset, self._held), partial(client.hget, self._retired)
        )

    def _events(self, view: bytes, entity: bytes) -> str:
        return f"{self._prefix}events:{view.hex()}:{entity.hex()}"

    def _entities(self, view: bytes) -> str:
        return f"{self._prefix}entities:{view.hex()}"

    def close(self) -> None:
        """Do nothing: the server's owner closes its connections."""


def _sealed_for(view: bytes, entity: bytes, offset: bytes) -> bytes:
    """The name a value is sealed under, the same as in the embedded overlay."""
    return b"e" + view + entity + offset


def _name(view: bytes, number: int) -> bytes:
    """The name of a partition's progress."""
    return view + bytes([number])
