"""Moves of a view's partitions, as a consumer of all of them would make them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from antiphon.features.online.overlay_records import OverlayEvent, ProgressMove, ViewPartition
from antiphon.features.ports import StreamedOverlay


def apply_through(
    overlay: StreamedOverlay, offsets: Mapping[bytes, int], events: Iterable[OverlayEvent] = (), **counted: Any
) -> bool:
    """Write events and move every partition of these views on from where it is; the first counts what is given."""
    read = overlay.read(offsets).progress
    moves = {}
    for view, offset in offsets.items():
        for number, before in enumerate(read[view]):
            after = msgspec.structs.replace(before, offset=offset, **({} if number else counted))
            moves[ViewPartition(view, number)] = ProgressMove(before, after)
    return overlay.apply(moves, events)
