"""The overlay: measured events that came through the stream, one small mutable LMDB per scope.

Invariants: events and the progress of their partitions change in one transaction, and only from the progress that the
consumer read, so redelivery changes nothing, nothing is skipped, and of two consumers of a partition one is refused; an
event stands under its log offset, so a reading on top of a snapshot that includes the log through O takes exactly the
events after O, whichever snapshot that is.

Keys: ``o`` + view: progress in each partition of its stream (:class:`StreamProgress`);
``p`` + view: offset through which events were pruned; ``f`` + view: the fence of its prunes (``prune_fence``);
``e`` + view + entity hash + offset (8 bytes): event; ``r``: the overlay is being filled again
(``overlay_file``), and ``r`` + view: the offset at which the view is. ``view`` is 8 bytes of the
hash of ``view@definition_version``. Under a codec that seals there is also ``k`` + number (8 bytes): a key of the
overlay's own, sealed by the codec, and an event is the number of its key followed by the sealed value. A new key is
begun when the scope's data key is rotated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from antiphon.core.codec import Codec, PlainCodec
from antiphon.core.scope import Scope
from antiphon.features.online.lmdb import environments
from antiphon.features.online.lmdb.overlay_file import REPLAYING, OverlayFile
from antiphon.features.online.overlay_records import (
    UNREAD,
    KeyRecords,
    OverlayCheck,
    OverlayEvent,
    OverlayKeys,
    OverlayState,
    ProgressMove,
    StreamProgress,
    ViewPartition,
    decode_event,
    decode_partitions,
    encode_event,
    encode_progress,
)
from antiphon.features.online.prune_fence import decode_fence, encode_fence
from antiphon.features.values import StreamedEvent

FILE_NAME = "overlay.mdb"
_ROOM = ("The overlay of streamed events", "Refresh the views, or free disk space.")
"""The name of the file when there is no room for events, and the next step then."""


class LmdbOverlay:
    """The overlay of one scope, for processes of one machine: one writes at a time, any number read."""

    def __init__(
        self,
        root: Path,
        scope: Scope,
        codec: Codec | None = None,
        *,
        published: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        Args:
            published: tells whether features of the scope were published, asked when there is no file: streamed events
                may have been in the one before, so a new one is filled from the log before it is answered from.
        """
        self._keys = OverlayKeys(codec or PlainCodec(), scope)
        self._file = OverlayFile(root / scope.tenant / scope.environment / FILE_NAME, published)

    def read(self, views: Iterable[bytes], queries: Iterable[tuple[bytes, bytes, int]] = ()) -> OverlayState:
        """Progress of views, and of each (view, entity, offset) the events after that offset, in one transaction."""
        with self._file.transaction() as transaction:
            reading = OverlayState({}, {}, {}, replaying=transaction.get(REPLAYING) is not None)
            for view in views:
                reading.progress[view] = _progress(transaction, view)
                reading.pruned[view] = _number(transaction.get(b"p" + view))
                if reading.replaying and (target := transaction.get(REPLAYING + view)) is not None:
                    reading.targets[view] = _number(target)
            cursor, records = transaction.cursor(), _keys_in(transaction)
            for view, entity, after in queries:
                reading.events[view, entity] = self._events(cursor, records, b"e" + view + entity, after)
        return reading

    def _events(self, cursor: Any, records: KeyRecords, prefix: bytes, after: int) -> list[StreamedEvent]:
        found: list[StreamedEvent] = []
        if not cursor.set_range(prefix + (after + 1).to_bytes(8, "big")):
            return found
        opened = self._keys.open
        for key, value in cursor:
            if not key.startswith(prefix):
                break
            found.append(decode_event(opened(records, key, value)))
        return found

    def apply(self, moves: Mapping[ViewPartition, ProgressMove], events: Iterable[OverlayEvent]) -> bool:
        """Write events and move their partitions, all or nothing; ``False`` when another consumer moved one of them."""
        with environments.room_needed(*_ROOM), self._file.transaction(write=True) as transaction:
            progress = {view: list(_progress(transaction, view)) for view in {moved.view for moved in moves}}
            if any(progress[moved.view][moved.number] != move.before for moved, move in moves.items()):
                return False
            self._put(transaction, events)
            for moved, move in moves.items():
                progress[moved.view][moved.number] = move.after
            for view, partitions in progress.items():
                transaction.put(b"o" + view, encode_progress(partitions))
        return True

    def prune(self, view: bytes, through: int, decided: int) -> int:
        """Drop a view's events with ``offset ≤ through``, as far as its fence lets; return their number."""
        dropped = 0
        with self._file.transaction(write=True) as transaction:
            fence = decode_fence(transaction.get(b"f" + view))
            through = fence.limit(through, decided)
            transaction.put(b"f" + view, encode_fence(fence.pruned(through, decided)))
            prefix = b"e" + view
            cursor = transaction.cursor()
            found = cursor.set_range(prefix)
            while found and cursor.key().startswith(prefix):
                if int.from_bytes(cursor.key()[-8:], "big") <= through:
                    found = cursor.delete()
                    dropped += 1
                else:
                    found = cursor.next()
            if through > _number(transaction.get(b"p" + view)):
                transaction.put(b"p" + view, through.to_bytes(8, "big"))
        return dropped

    def restore(self, view: bytes, through: int, events: Iterable[OverlayEvent], pruned: int, publication: int) -> bool:
        """Put the events with ``through < offset ≤ pruned`` back for a publication, unless more was pruned since."""
        with environments.room_needed(*_ROOM), self._file.transaction(write=True) as transaction:
            now = _number(transaction.get(b"p" + view))
            if now > pruned:
                return False
            self._put(transaction, events)
            if through < now:
                transaction.put(b"p" + view, through.to_bytes(8, "big"))
            fence = decode_fence(transaction.get(b"f" + view)).restored(through, publication)
            transaction.put(b"f" + view, encode_fence(fence))
        return True

    def replay_through(self, targets: Mapping[bytes, int]) -> None:
        """Record, while the overlay is filled again, the log offsets at which views have what it held before."""
        with self._file.transaction(write=True) as transaction:
            if transaction.get(REPLAYING) is not None:
                for view, offset in targets.items():
                    transaction.put(REPLAYING + view, offset.to_bytes(8, "big"), overwrite=False)

    def caught_up(self) -> None:
        """End the replay: everything that a damaged overlay held was read again."""
        with self._file.transaction(write=True) as transaction:
            for key in [key for key, _ in _beginning(transaction, REPLAYING)]:
                transaction.delete(key)

    def renew(self, why: str) -> None:
        """Set the overlay aside as damaged, and begin an empty one."""
        self._file.renew(why)

    def reseal(self) -> int:
        """Write every event anew under a new key and drop the old keys, unless all are under the data key that seals
        now; returns how many events were written."""
        with self._file.transaction(write=True) as transaction:
            records = _keys_in(transaction)
            if self._keys.current(records):
                return 0
            old = list(records.held)
            self._keys.begin(records)
            resealed = 0
            cursor = transaction.cursor()
            found = cursor.set_range(b"e")
            while found and cursor.key().startswith(b"e"):
                key = bytes(cursor.key())
                value = self._keys.open(records, key, cursor.value())
                transaction.put(key, self._keys.seal(records, key, value))
                resealed += 1
                found = cursor.set_range(key + b"\0")
            for number in old:
                transaction.delete(number)
        return resealed

    def events(self, view: bytes) -> Iterator[OverlayEvent]:
        """Every event of a view, of one state of the file."""
        with self._file.transaction() as transaction:
            records, start = _keys_in(transaction), len(b"e" + view)
            for key, value in _beginning(transaction, b"e" + view):
                yield OverlayEvent(view, key[start:-8], decode_event(self._keys.open(records, key, value)))

    def check(self) -> OverlayCheck:
        """Open every event, of one state of the file; what does not open is counted."""
        with self._file.transaction() as transaction:
            return self._keys.check(_keys_in(transaction), _beginning(transaction, b"e"))

    def _put(self, transaction: Any, events: Iterable[OverlayEvent]) -> None:
        records = _keys_in(transaction)
        written: dict[bytes, bytes] = {}
        for item in events:
            key = b"e" + item.view + item.entity + item.event.offset.to_bytes(8, "big")
            written[key] = self._keys.seal(records, key, encode_event(item.event))
        if written:
            # In order of keys, so that a burst of one entity's events touches its page once.
            with transaction.cursor() as cursor:
                cursor.putmulti(sorted(written.items()))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _number(stored: bytes | None) -> int:
    return 0 if stored is None else int.from_bytes(stored, "big")


def _progress(transaction: Any, view: bytes) -> tuple[StreamProgress, ...]:
    stored = transaction.get(b"o" + view)
    return UNREAD if stored is None else decode_partitions(stored)


def _beginning(transaction: Any, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The records whose keys begin with a prefix, in order."""
    cursor = transaction.cursor()
    if cursor.set_range(prefix):
        for key, value in cursor:
            if not key.startswith(prefix):
                return
            yield key, value


def _keys_in(transaction: Any) -> KeyRecords:
    return KeyRecords(lambda: dict(_beginning(transaction, b"k")), transaction.put)
