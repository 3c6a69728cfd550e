"""What an overlay keeps of a streamed event, whichever store holds it."""

from __future__ import annotations

import hashlib

import msgspec

from antiphon.features.values import StreamedEvent

encode_event = msgspec.msgpack.Encoder().encode
decode_event = msgspec.msgpack.Decoder(StreamedEvent).decode
encode_progress = msgspec.msgpack.Encoder().encode


def view_prefix(key: str) -> bytes:
    """The 8 bytes a view's events are kept under; ``key`` is ``view@definition_version``."""
    return hashlib.sha256(key.encode()).digest()[:8]


class OverlayEvent(msgspec.Struct, frozen=True):
    """An event to write, of one view and entity."""

    view: bytes
    entity: bytes
    event: StreamedEvent


class Progress(msgspec.Struct, frozen=True):
    """What the consumer saw of a view's stream beside its values; of one batch, or of everything it has applied.

    Attributes:
        rejected: events without usable entity keys.
        late: events that came after one of a later event time.
        watermark: the greatest event time (microseconds); ``None`` before the first event.
        lateness: by how much the latest one came too late (microseconds of event time).
    """

    rejected: int = 0
    late: int = 0
    watermark: int | None = None
    lateness: int = 0

    def and_then(self, batch: Progress) -> Progress:
        """Both together."""
        known = [each for each in (self.watermark, batch.watermark) if each is not None]
        return Progress(
            self.rejected + batch.rejected,
            self.late + batch.late,
            max(known, default=None),
            max(self.lateness, batch.lateness),
        )


class OverlayCheck(msgspec.Struct, frozen=True):
    """What opening every streamed event found.

    Attributes:
        by_key: events by the data key that seals the overlay's key for them; ``plaintext`` without one.
        unopened: how many do not open, and ``problem`` why the first of them does not.
        damaged: how many of these were changed; the others lack a data key.
    """

    by_key: dict[str, int]
    unopened: int = 0
    problem: str | None = None
    damaged: int = 0


class OverlayReading(msgspec.Struct, frozen=True):
    """One consistent state of an overlay, as far as it was asked for.

    Attributes:
        offsets: view to the log offset the consumer has applied.
        pruned: view to the log offset through which its events are gone.
        progress: view to what was seen of its stream.
        events: (view, entity) to its events after the offset that was asked for, by offset.
        replaying: it was damaged, and what it held is being read again from the log.
        targets: while it is, view to the log offset at which it has what the damaged one held; known once the replay
            of its stream has begun.
    """

    offsets: dict[bytes, int]
    pruned: dict[bytes, int]
    progress: dict[bytes, Progress]
    events: dict[tuple[bytes, bytes], list[StreamedEvent]]
    replaying: bool = False
    targets: dict[bytes, int] = {}

    def lacking(self, view: bytes) -> bool:
        """Tell whether events of a view that was asked for are still to be read again."""
        return self.replaying and (view not in self.targets or self.offsets[view] < self.targets[view])


decode_progress = msgspec.msgpack.Decoder(Progress).decode
