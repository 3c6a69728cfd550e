"""Records of an overlay in any store: streamed events, progress of consumers, and the keys that events are sealed with.

The keys lie in the overlay itself, sealed by the codec.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple
from zlib import crc32

import msgspec

from antiphon.core.codec import Codec, Envelope, PayloadContext, pack, unpack
from antiphon.core.errors import AntiphonError, SealMismatchError
from antiphon.core.scope import Scope
from antiphon.features.online.ciphers import SealedValues, new_file_key
from antiphon.features.values import StreamedEvent

encode_event = msgspec.msgpack.Encoder().encode
decode_event = msgspec.msgpack.Decoder(StreamedEvent).decode
encode_progress = msgspec.msgpack.Encoder().encode

PARTITIONS = 8
"""Partitions of each stream, by a hash of the entity's keys. The number is fixed, because progress is kept by them: so
many workers can share one stream, and what is counted does not depend on how many do."""


def partition_of(keys: Sequence[str]) -> int:
    """The partition of an entity, from 0; every event of it is in this one."""
    return crc32("\0".join(keys).encode("utf-8", "surrogatepass")) % PARTITIONS


class ViewPartition(NamedTuple):
    """One partition of a view's stream: what is consumed, and moves on, by itself."""

    view: bytes
    number: int


def view_prefix(key: str) -> bytes:
    """The 8 bytes a view's events are kept under; ``key`` is ``view@definition_version``."""
    return hashlib.sha256(key.encode()).digest()[:8]


class OverlayEvent(msgspec.Struct, frozen=True):
    """An event to write, of one view and entity."""

    view: bytes
    entity: bytes
    event: StreamedEvent


class StreamProgress(msgspec.Struct, frozen=True, array_like=True):
    """Progress in one partition of a view's stream, or in all of them together (:func:`together`).

    Attributes:
        offset: the log offset through which its events are applied.
        rejected: events without usable entity keys; the first partition counts them.
        late: its events that came after one of a later event time, in whichever partition that was.
        watermark: the greatest event time of any partition through the offset (microseconds); ``None`` before the first
            event.
        lateness: by how much the latest one came too late (microseconds of event time).
    """

    offset: int = 0
    rejected: int = 0
    late: int = 0
    watermark: int | None = None
    lateness: int = 0


UNREAD = (StreamProgress(),) * PARTITIONS
"""Progress of a view of which nothing was consumed."""

decode_progress = msgspec.msgpack.Decoder(StreamProgress).decode
decode_partitions = msgspec.msgpack.Decoder(tuple[StreamProgress, ...]).decode


def together(partitions: Iterable[StreamProgress]) -> StreamProgress:
    """The progress of a view: everything through the offset is applied in every partition."""
    found = list(partitions)
    return StreamProgress(
        min(one.offset for one in found),
        sum(one.rejected for one in found),
        sum(one.late for one in found),
        max((one.watermark for one in found if one.watermark is not None), default=None),
        max(one.lateness for one in found),
    )


class ProgressMove(msgspec.Struct, frozen=True):
    """A move of a partition: its progress as the consumer read it, and after its events."""

    before: StreamProgress
    after: StreamProgress


class OverlayCheck(msgspec.Struct, frozen=True):
    """Result of opening every streamed event.

    Attributes:
        by_key: events by the data key that seals the overlay's key for them; ``plaintext`` without one.
        unopened: how many do not open, and ``problem`` why the first of them does not.
        damaged: how many of these were changed; the others lack a data key.
    """

    by_key: dict[str, int]
    unopened: int = 0
    problem: str | None = None
    damaged: int = 0


class OverlayState(msgspec.Struct, frozen=True):
    """One consistent state of an overlay, as far as it was asked for.

    Attributes:
        progress: view to its progress in each partition of its stream.
        pruned: view to the log offset through which its events are gone.
        events: (view, entity) to its events after the offset that was asked for, by offset.
        replaying: it was damaged, and what it held is being read again from the log.
        targets: while it is, view to the log offset at which it has what the damaged one held; known once the replay
            of its stream has begun.
    """

    progress: dict[bytes, tuple[StreamProgress, ...]]
    pruned: dict[bytes, int]
    events: dict[tuple[bytes, bytes], list[StreamedEvent]]
    replaying: bool = False
    targets: dict[bytes, int] = {}

    @property
    def offsets(self) -> dict[bytes, int]:
        """View to the log offset through which every partition is applied."""
        return {view: min(one.offset for one in partitions) for view, partitions in self.progress.items()}

    def lacking(self, view: bytes) -> bool:
        """Tell whether events of a view that was asked for are still to be read again."""
        return self.replaying and (view not in self.targets or self.offsets[view] < self.targets[view])


_SCHEMA = "overlay/1"
_NUMBER = 8
"""Four bytes that count and four random ones: a transaction that was undone never gives its number to another key."""

_CHECKED, _CHECK_BYTES = b"\xc1", 5
"""A value in plaintext is this byte, a checksum of its key and itself, and itself."""


class KeyRecords:
    """The keys of an overlay inside a transaction, place to packed envelope: as they were when one was first asked for,
    and those written since.

    Args:
        load: reads every key.
        write: stores one.
        retired: reads a key that is being replaced: it opens, and nothing is sealed with it any more.
    """

    def __init__(
        self,
        load: Callable[[], Mapping[bytes, bytes]],
        write: Callable[[bytes, bytes], object],
        retired: Callable[[bytes], bytes | None] = lambda place: None,
    ) -> None:
        self._load = load
        self._write = write
        self._retired = retired
        self.known: dict[bytes, bytes] | None = None
        """The keys, once one was asked for."""

    @property
    def held(self) -> dict[bytes, bytes]:
        """Every key but retired ones."""
        if self.known is None:
            self.known = dict(self._load())
        return self.known

    @property
    def latest(self) -> bytes | None:
        """The place of the newest key."""
        return max(self.held, default=None)

    def put(self, place: bytes, envelope: bytes) -> None:
        """Write one."""
        self._write(place, envelope)
        self.held[place] = envelope

    def envelope(self, place: bytes) -> Envelope:
        """The envelope at a place, of a retired key too; raises ``SealMismatchError`` when there is none."""
        packed = self.held.get(place) or self._retired(place)
        if packed is None:
            raise _broken()
        return unpack(packed)


class OverlayKeys:
    """Safe to share between threads; a process that sees a new number reads its key once."""

    def __init__(self, codec: Codec, scope: Scope) -> None:
        self._codec = codec
        self._scope = scope
        self._ciphers: dict[bytes, SealedValues] = {}
        self._current: tuple[bytes, str | None] | None = None
        self._lock = threading.Lock()

    def seal(self, records: KeyRecords, key: bytes, value: bytes) -> bytes:
        """Seal a value, inside a write transaction."""
        if not self._codec.sealing:
            return _CHECKED + crc32(value, crc32(key)).to_bytes(4, "big") + value
        current = self._current
        if current is None or current[1] != self._codec.current_key(self._scope) or current[0] not in records.held:
            current = self._latest(records)
        return current[0][1:] + self._cipher(records, current[0]).seal(key, value)

    def open(self, records: KeyRecords, key: bytes, stored: bytes) -> bytes:
        """The value.

        Raises:
            SealMismatchError: it was changed, or moved from another key, or is not sealed.
            CorruptionError: its key does not open, because the data key is gone.
        """
        if stored[:1] == _CHECKED and self._codec.accepts_plain:
            value = stored[_CHECK_BYTES:]
            if crc32(value, crc32(key)).to_bytes(4, "big") != stored[1:_CHECK_BYTES]:
                raise _broken()
            return value
        place = key_place(stored)
        if place is None:
            raise _broken()
        return self._cipher(records, place).open(key, stored[_NUMBER:])

    def check(self, records: KeyRecords, found: Iterable[tuple[bytes, bytes]]) -> OverlayCheck:
        """Open everything, by the name and what is stored; what does not open ends nothing."""
        by_key: Counter[str] = Counter()
        unopened, damaged, problem = 0, 0, None
        for key, stored in found:
            try:
                place = key_place(stored)
                by_key["plaintext" if place is None else records.envelope(place).key_id or "plaintext"] += 1
                decode_event(self.open(records, key, stored))
            except (AntiphonError, msgspec.DecodeError) as error:
                unopened += 1
                damaged += isinstance(error, (SealMismatchError, msgspec.DecodeError))
                problem = problem or (error.what if isinstance(error, AntiphonError) else str(error))
        return OverlayCheck(dict(by_key), unopened, problem, damaged)

    def current(self, records: KeyRecords) -> bool:
        """Tell whether every key is sealed by the current data key, and nothing can be unsealed."""
        if self._codec.accepts_plain:
            return False
        current = self._codec.current_key(self._scope)
        return all(records.envelope(place).key_id == current for place in records.held)

    def begin(self, records: KeyRecords) -> None:
        """Make a new key, for everything written from now on."""
        if not self._codec.sealing:
            self._current = None
            return
        number = int.from_bytes((records.latest or b"")[1:5], "big") + 1
        place = b"k" + number.to_bytes(4, "big") + os.urandom(_NUMBER - 4)
        file_key = new_file_key()
        envelope = self._codec.seal(file_key, self._context(place))
        records.put(place, pack(envelope))
        self._current = (place, envelope.key_id)

    def _latest(self, records: KeyRecords) -> tuple[bytes, str | None]:
        latest = records.latest
        self._current = None if latest is None else (latest, records.envelope(latest).key_id)
        if self._current is None or self._current[1] != self._codec.current_key(self._scope):
            self.begin(records)
        assert self._current is not None
        return self._current

    def _cipher(self, records: KeyRecords, place: bytes) -> SealedValues:
        with self._lock:
            found = self._ciphers.get(place)
            if found is None:
                found = SealedValues(self._codec.open(records.envelope(place), self._context(place)))
                self._ciphers[place] = found
            return found

    def _context(self, place: bytes) -> PayloadContext:
        return PayloadContext(_SCHEMA, self._scope, place.hex())


def key_place(stored: bytes) -> bytes | None:
    """Place of the key that a stored value is sealed with; ``None`` for a value in plaintext."""
    return b"k" + stored[:_NUMBER] if stored[:1] == b"\0" else None


def _broken() -> SealMismatchError:
    return SealMismatchError(
        "An event of the overlay is not sealed with a key that the overlay holds.",
        where="online store",
        next_step="Delete the overlay while nothing runs: it is filled again from the event log.",
    )
