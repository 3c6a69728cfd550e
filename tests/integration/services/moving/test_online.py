"""Streamed events move between overlays: exactly those that count, with offsets and counts, and never onto others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.harness.partitions import apply_through
from tests.unit.catalog.examples import DEV

from antiphon.core.errors import ConflictError
from antiphon.features.online.lmdb.overlay import LmdbOverlay
from antiphon.features.online.overlay_records import (
    OverlayEvent,
    ProgressMove,
    StreamProgress,
    ViewPartition,
    view_prefix,
)
from antiphon.features.values import StreamedEvent
from antiphon.services.moving.online import MovedOverlay, copy_overlay

KEY = "heat@v1"
VIEW = view_prefix(KEY)


class Overlays:
    """Two overlays of one scope, the source's and the target's."""

    def __init__(self, folder: Path) -> None:
        self.source = LmdbOverlay(folder / "one", DEV)
        self.target = LmdbOverlay(folder / "two", DEV, published=lambda: True)

    def take(self, overlay: LmdbOverlay, first: int, last: int, measure: int = 1) -> None:
        """What a consumer would write of the log between two offsets; each tenth event is rejected."""
        numbers = [number for number in range(first, last + 1) if number % 10]
        events = [
            OverlayEvent(
                VIEW, bytes([number % 3]) * 16, StreamedEvent(number, number, f"e{number}", (measure,), number)
            )
            for number in numbers
        ]
        rejected = last + 1 - first - len(numbers)
        rejected += overlay.read([VIEW]).progress[VIEW][0].rejected
        assert apply_through(overlay, {VIEW: last}, events, rejected=rejected, watermark=last)

    def move(self, publication: int = 1) -> MovedOverlay:
        (moved,) = copy_overlay(self.source, self.target, {VIEW: KEY}, publication)
        return moved

    def close(self) -> None:
        self.source.close()
        self.target.close()


@pytest.fixture
def overlays(tmp_path: Path) -> Iterator[Overlays]:
    made = Overlays(tmp_path)
    yield made
    made.close()


def state(overlay: LmdbOverlay) -> tuple[object, ...]:
    found = overlay.read([VIEW])
    events = sorted(one.event.offset for one in overlay.events(VIEW) if one.event.offset > found.pruned[VIEW])
    return found.offsets[VIEW], found.pruned[VIEW], found.progress[VIEW], found.replaying, events


def test_an_empty_overlay_and_an_old_one_become_what_the_source_is(overlays: Overlays) -> None:
    overlays.take(overlays.source, 1, 30)
    overlays.source.prune(VIEW, 12, 1)
    assert overlays.target.read([VIEW]).replaying
    assert (overlays.move().copied, overlays.move().copied, overlays.move().events) == (16, 0, 16)
    assert state(overlays.target) == state(overlays.source)
    overlays.take(overlays.source, 31, 50)
    overlays.source.prune(VIEW, 35, 2)  # The target has an event that is to go, and lacks some that went.
    overlays.move(2)
    assert state(overlays.target) == state(overlays.source)
    overlays.source.restore(VIEW, 20, [
        OverlayEvent(VIEW, bytes([n % 3]) * 16, StreamedEvent(n, n, f"e{n}", (1,), n)) for n in range(21, 36) if n % 10
    ], 35, 3)  # fmt: skip
    assert overlays.move(3).events == 27
    assert state(overlays.target) == state(overlays.source)


@pytest.mark.parametrize(("last", "measure"), [(30, 2), (31, 1)])
def test_another_projects_events_are_never_taken_for_ones_own(overlays: Overlays, last: int, measure: int) -> None:
    overlays.take(overlays.source, 1, 30)
    overlays.source.prune(VIEW, 5 * (last - 30), 1)
    overlays.take(overlays.target, 1, last, measure)
    before = state(overlays.target)
    with pytest.raises(ConflictError, match="are not this project's"):
        overlays.move()
    assert state(overlays.target) == before


def test_an_overlay_that_is_being_filled_again_does_not_move(overlays: Overlays) -> None:
    overlays.take(overlays.target, 1, 3)
    with pytest.raises(ConflictError, match="is being filled again"):
        copy_overlay(overlays.target, overlays.source, {VIEW: KEY}, 1)


def test_partitions_that_are_not_equally_far_move_as_they_are(overlays: Overlays) -> None:
    overlays.take(overlays.source, 1, 30)
    behind = overlays.source.read([VIEW]).progress[VIEW][5]
    further = ProgressMove(behind, StreamProgress(34, rejected=behind.rejected, watermark=34))
    event = OverlayEvent(VIEW, bytes([1]) * 16, StreamedEvent(34, 34, "e34", (1,), 34))
    assert overlays.source.apply({ViewPartition(VIEW, 5): further}, [event])
    assert (overlays.move().offset, overlays.move().copied) == (30, 0)
    assert state(overlays.target) == state(overlays.source)
