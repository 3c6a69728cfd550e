"""What an overlay keeps of a streamed event, whichever store holds it."""

from __future__ import annotations

import hashlib

import msgspec

from antiphon.features.evaluate import StreamedEvent

encode_event = msgspec.msgpack.Encoder().encode
decode_event = msgspec.msgpack.Decoder(StreamedEvent).decode


def view_prefix(key: str) -> bytes:
    """The 8 bytes a view's events are kept under; ``key`` is ``view@definition_version``."""
    return hashlib.sha256(key.encode()).digest()[:8]


class OverlayEvent(msgspec.Struct, frozen=True):
    """An event to write, of one view and entity."""

    view: bytes
    entity: bytes
    event: StreamedEvent


class OverlayReading(msgspec.Struct, frozen=True):
    """One consistent state of an overlay, as far as it was asked for.

    Attributes:
        offsets: view to the log offset the consumer has applied.
        pruned: view to the log offset through which its events are gone.
        rejected: view to how many events of its stream had no usable entity keys.
        events: (view, entity) to its events after the offset that was asked for, by offset.
    """

    offsets: dict[bytes, int]
    pruned: dict[bytes, int]
    rejected: dict[bytes, int]
    events: dict[tuple[bytes, bytes], list[StreamedEvent]]
