"""The overlay of streamed events: what every one must do, in plaintext and encrypted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.harness.partitions import apply_through
from tests.servers import RedisProcess
from tests.unit.governance.encryption.test_sealing import Keys

from antiphon.core.codec import Codec, PlainCodec
from antiphon.core.scope import Scope
from antiphon.features.online.lmdb.overlay import LmdbOverlay
from antiphon.features.online.overlay_records import (
    PARTITIONS,
    UNREAD,
    OverlayCheck,
    OverlayEvent,
    ProgressMove,
    StreamProgress,
    ViewPartition,
    view_prefix,
)
from antiphon.features.online.redis.overlay import RedisOverlay
from antiphon.features.online.redis.server import RedisServer
from antiphon.features.ports import StreamedOverlay
from antiphon.features.values import StreamedEvent
from antiphon.governance.encryption.sealing import AesGcmCodec

SCOPE, OTHER = Scope("one", "dev"), Scope("two", "dev")
VIEW, SECOND = view_prefix("congestion@1"), view_prefix("routes@1")
EWR, LGA = b"e" * 16, b"l" * 16


def written(offset: int, entity: bytes = EWR, view: bytes = VIEW) -> OverlayEvent:
    return OverlayEvent(
        view, entity, StreamedEvent(offset * 10, offset * 10 + 1, f"{offset:024x}", (offset, None), offset)
    )


@pytest.fixture(
    params=["lmdb plain", "lmdb sealed", "redis-server plain", "redis-server sealed", "valkey-server sealed"]
)
def kind(request: pytest.FixtureRequest) -> list[str]:
    """Which server, and whether values are encrypted."""
    return str(request.param).split()


@pytest.fixture
def codec(kind: list[str]) -> Codec:
    return AesGcmCodec(Keys()) if kind[1] == "sealed" else PlainCodec()


@pytest.fixture(scope="module")
def process() -> Iterator[Callable[[str], RedisProcess]]:
    started: dict[str, RedisProcess] = {}

    def of(name: str) -> RedisProcess:
        if name not in started:
            started[name] = RedisProcess(name)
            started[name].start()
        return started[name]

    yield of
    for server in started.values():
        server.remove()


@pytest.fixture
def opening(
    kind: list[str], tmp_path: Path, codec: Codec, process: Callable[[str], RedisProcess]
) -> Iterator[Callable[..., StreamedOverlay]]:
    opened: list[Any] = []
    if kind[0] == "lmdb":

        def again(scope: Scope = SCOPE) -> StreamedOverlay:
            opened.append(LmdbOverlay(tmp_path, scope, codec))
            return opened[-1]
    else:
        server = RedisServer(process(kind[0]).url)
        server.client.flushall()

        def again(scope: Scope = SCOPE) -> StreamedOverlay:
            opened.append(RedisOverlay(server, scope, codec))
            return opened[-1]

    yield again
    for overlay in opened:
        overlay.close()


@pytest.fixture
def overlay(opening: Callable[..., StreamedOverlay]) -> StreamedOverlay:
    return opening()


def offsets(overlay: StreamedOverlay, entity: bytes = EWR, after: int = 0, view: bytes = VIEW) -> list[int]:
    return [event.offset for event in overlay.read([view], [(view, entity, after)]).events[view, entity]]


def test_an_empty_overlay_knows_nothing(overlay: StreamedOverlay) -> None:
    reading = overlay.read([VIEW, SECOND], [(VIEW, EWR, 0)])
    assert (reading.offsets, reading.pruned) == ({VIEW: 0, SECOND: 0},) * 2
    assert reading.progress == {VIEW: UNREAD, SECOND: UNREAD}
    assert reading.events == {(VIEW, EWR): []}


def test_events_and_offset_are_read_by_another_process(opening: Callable[..., StreamedOverlay]) -> None:
    events = [written(1), written(2, LGA), written(3), written(300), written(2, view=SECOND)]
    assert apply_through(opening(), {VIEW: 300, SECOND: 2}, events)
    reading = opening().read([VIEW, SECOND], [(VIEW, EWR, 0), (VIEW, LGA, 0), (VIEW, EWR, 3), (SECOND, EWR, 1)])
    assert reading.offsets == {VIEW: 300, SECOND: 2}
    assert reading.progress == {VIEW: (StreamProgress(300),) * PARTITIONS, SECOND: (StreamProgress(2),) * PARTITIONS}
    assert reading.events[VIEW, LGA] == [written(2).event]
    assert reading.events[SECOND, EWR] == [written(2).event]
    # The same (view, entity) asked twice: the later question stands.
    assert reading.events[VIEW, EWR] == [written(300).event]
    assert opening().read([VIEW], [(VIEW, EWR, 0)]).events[VIEW, EWR] == [
        written(1).event, written(3).event, written(300).event,
    ]  # fmt: skip


def test_every_event_of_a_view_is_listed_once(opening: Callable[..., StreamedOverlay]) -> None:
    events = [written(1), written(2, LGA), written(300)]
    for _ in range(2):  # Delivered again.
        apply_through(opening(), {VIEW: 300, SECOND: 2}, [*events, written(2, view=SECOND)])
    listed = sorted(opening().events(VIEW), key=lambda one: one.event.offset)
    assert listed == events
    assert [one.event.offset for one in opening().events(SECOND)] == [2]
    assert list(opening(OTHER).events(VIEW)) == []


def test_a_partition_moves_only_from_where_it_was_read(opening: Callable[..., StreamedOverlay]) -> None:
    """What is counted with its events is counted once, whichever of two consumers comes late or sends them again."""
    moment = 1_365_595_200_000_001
    first = ProgressMove(StreamProgress(), StreamProgress(5, rejected=1, late=2, watermark=moment, lateness=7))
    partition, other = ViewPartition(VIEW, 3), ViewPartition(VIEW, 4)
    assert opening().apply({partition: first}, [written(4), written(5)])
    assert not opening().apply({partition: first}, [written(4), written(5)]), "sent again"
    further = ProgressMove(StreamProgress(), StreamProgress(6, rejected=1, late=3, watermark=moment, lateness=7))
    assert not opening().apply({partition: further}, [written(4), written(5)]), "by one that has not read the move"
    assert opening().read([VIEW]).progress[VIEW] == (*UNREAD[:3], first.after, *UNREAD[4:])
    assert opening().read([VIEW]).offsets == {VIEW: 0}
    assert not opening().apply({other: first, partition: further}, []), "all or none"
    assert opening().read([VIEW]).progress[VIEW][4] == StreamProgress()
    back = ProgressMove(first.after, StreamProgress(4, watermark=-5))
    beside = ProgressMove(StreamProgress(), StreamProgress(8))
    assert opening().apply({partition: back, other: beside, ViewPartition(SECOND, 0): beside}, [])
    assert opening().read([VIEW]).progress[VIEW] == (*UNREAD[:3], back.after, beside.after, *UNREAD[5:])
    assert opening().read([SECOND]).progress[SECOND] == (beside.after, *UNREAD[1:])
    assert offsets(opening()) == [4, 5]


def test_of_consumers_at_once_one_moves_a_partition_and_those_of_others_do_not_wait(
    opening: Callable[..., StreamedOverlay],
) -> None:
    """Three threads take turns at one partition each and all at a last one, until everything was moved 40 times."""
    wrong: list[BaseException] = []

    def consume(own: int) -> None:
        overlay = opening()
        try:
            for _ in range(1_000):
                progress = overlay.read([VIEW]).progress[VIEW]
                moved = False
                for number in (own, 7):
                    before = progress[number]
                    if before.offset < 40:
                        moved = True
                        after = StreamProgress(before.offset + 1, rejected=before.rejected + 1)
                        overlay.apply({ViewPartition(VIEW, number): ProgressMove(before, after)}, [])
                if not moved:
                    return
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=consume, args=(own,)) for own in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not wrong
    done = StreamProgress(40, rejected=40)
    assert opening().read([VIEW]).progress[VIEW] == (done, done, done, *UNREAD[3:7], done)


def test_scopes_do_not_meet(opening: Callable[..., StreamedOverlay]) -> None:
    apply_through(opening(), {VIEW: 5}, [written(5)])
    assert offsets(opening(OTHER)) == []
    assert opening(OTHER).read([VIEW]).offsets == {VIEW: 0}
    assert opening(OTHER).prune(VIEW, 10, 1) == 0
    assert offsets(opening()) == [5]


def test_pruned_events_are_gone_said_to_be_and_can_come_back(overlay: StreamedOverlay) -> None:
    apply_through(overlay, {VIEW: 9}, [written(n, EWR if n % 2 else LGA) for n in range(1, 10)])
    apply_through(overlay, {SECOND: 3}, [written(3, view=SECOND)])
    assert overlay.prune(VIEW, 6, 1) == 6
    assert overlay.prune(VIEW, 6, 1) == 0
    assert (offsets(overlay), offsets(overlay, LGA)) == ([7, 9], [8])
    assert offsets(overlay, view=SECOND) == [3]
    assert overlay.read([VIEW, SECOND]).pruned == {VIEW: 6, SECOND: 0}
    assert overlay.prune(VIEW, 2, 1) == 0
    assert overlay.read([VIEW]).pruned == {VIEW: 6}
    back = [written(5), written(6, LGA)]
    assert not overlay.restore(VIEW, 4, back, 5, 2), "6 was pruned since"
    assert overlay.read([VIEW]).pruned == {VIEW: 6}
    assert (offsets(overlay), offsets(overlay, LGA)) == ([7, 9], [8])
    assert overlay.restore(VIEW, 4, back, 6, 2)
    assert overlay.read([VIEW]).pruned == {VIEW: 4}
    assert overlay.restore(VIEW, 5, [], 6, 2), "more was put back already"
    assert overlay.read([VIEW]).pruned == {VIEW: 4}
    assert (offsets(overlay), offsets(overlay, LGA)) == ([5, 7, 9], [6, 8])
    assert overlay.read([VIEW]).offsets == {VIEW: 9}
    assert overlay.prune(VIEW, 100, 2) == 5
    assert offsets(overlay) == offsets(overlay, LGA) == []


def test_what_was_never_pruned_is_not_marked_by_a_restore(overlay: StreamedOverlay) -> None:
    apply_through(overlay, {VIEW: 9}, [written(9)])
    assert overlay.restore(VIEW, 4, [], 0, 2)
    assert overlay.read([VIEW]).pruned == {VIEW: 0}
    assert offsets(overlay) == [9]


def filled(opening: Callable[..., StreamedOverlay]) -> StreamedOverlay:
    """An overlay with events 1 to 9 of one view and 1 of another."""
    overlay = opening()
    apply_through(overlay, {VIEW: 9, SECOND: 1}, [*(written(n) for n in range(1, 10)), written(1, view=SECOND)])
    return overlay


def test_a_prune_decided_before_a_publication_leaves_what_that_publication_needs(
    opening: Callable[..., StreamedOverlay],
) -> None:
    overlay = filled(opening)
    assert overlay.prune(VIEW, 6, 2) == 6
    assert overlay.restore(VIEW, 4, [written(5), written(6)], 6, 3)
    collector = opening()
    assert collector.prune(VIEW, 6, 2) == 0
    assert (offsets(overlay), overlay.read([VIEW]).pruned) == ([5, 6, 7, 8, 9], {VIEW: 4})
    assert collector.prune(SECOND, 1, 2) == 1, "a fence is of one view"
    assert collector.prune(VIEW, 6, 3) == 2, "decided with the publication known"
    assert overlay.read([VIEW]).pruned == {VIEW: 6}


def test_events_that_were_there_are_kept_from_an_earlier_decision_as_well(
    opening: Callable[..., StreamedOverlay],
) -> None:
    overlay = filled(opening)
    assert overlay.restore(VIEW, 4, [], 0, 3)
    assert opening().prune(VIEW, 6, 2) == 4
    assert (offsets(overlay), overlay.read([VIEW]).pruned) == ([5, 6, 7, 8, 9], {VIEW: 4})


def test_a_fence_stays_for_earlier_decisions_after_a_later_one(opening: Callable[..., StreamedOverlay]) -> None:
    """Two collectors: one has stood still since before the rollback, one decides after it."""
    overlay = filled(opening)
    assert overlay.restore(VIEW, 2, [], 0, 3)
    assert overlay.prune(VIEW, 3, 4) == 3
    assert opening().prune(VIEW, 9, 2) == 0
    assert offsets(overlay) == [4, 5, 6, 7, 8, 9]


def test_of_two_rollbacks_each_finds_its_events(opening: Callable[..., StreamedOverlay]) -> None:
    """The second one is killed before it commits; the first one's publication is current."""
    overlay = filled(opening)
    assert overlay.restore(VIEW, 2, [], 0, 3)
    assert opening().restore(VIEW, 5, [], 0, 4)
    assert overlay.prune(VIEW, 9, 2) == 2
    assert overlay.prune(VIEW, 9, 3) == 0
    assert offsets(overlay) == [3, 4, 5, 6, 7, 8, 9]
    assert overlay.prune(VIEW, 9, 4) == 7


def test_prunes_and_restores_at_once_leave_what_the_last_publication_needs(
    opening: Callable[..., StreamedOverlay],
) -> None:
    """Whichever comes first, a collector that decided before a rollback takes nothing that it needs."""
    overlay = filled(opening)
    for publication in range(3, 23):
        begin = threading.Barrier(2)

        def collect(decided: int = publication - 1, begin: threading.Barrier = begin) -> None:
            begin.wait(timeout=30)
            opening().prune(VIEW, 6, decided)

        thread = threading.Thread(target=collect)
        thread.start()
        begin.wait(timeout=30)
        restored = False
        for _ in range(10):
            pruned = overlay.read([VIEW]).pruned[VIEW]
            if overlay.restore(VIEW, 4, [written(n) for n in range(5, pruned + 1)], pruned, publication):
                restored = True
                break
        thread.join(timeout=30)
        assert restored
        assert offsets(overlay)[-5:] == [5, 6, 7, 8, 9]
        assert overlay.read([VIEW]).pruned[VIEW] <= 4


def test_a_reading_is_one_state(opening: Callable[..., StreamedOverlay]) -> None:
    """While batches of two entities are written, no reading has one without the other or without its offset."""
    reads, stop = threading.Event(), threading.Event()
    torn: list[object] = []
    seen = 0

    def read() -> None:
        nonlocal seen
        reader = opening()
        while not stop.is_set():
            reading = reader.read([VIEW], [(VIEW, EWR, 0), (VIEW, LGA, 0)])
            last = reading.offsets[VIEW]
            found = [len(reading.events[VIEW, entity]) for entity in (EWR, LGA)]
            if found != [last // 2, last // 2]:
                torn.append((last, found))
            seen += 1
            reads.set()

    thread = threading.Thread(target=read)
    thread.start()
    writer = opening()
    assert reads.wait(30), "the reader reads before anything is written"
    for turn in range(100):
        apply_through(writer, {VIEW: 2 * turn + 2}, [written(2 * turn + 1, LGA), written(2 * turn + 2, EWR)])
    stop.set()
    thread.join(timeout=30)
    assert not torn
    assert seen > 3


def test_sealing_anew_keeps_every_event(opening: Callable[..., StreamedOverlay], codec: Codec) -> None:
    overlay = opening()
    apply_through(overlay, {VIEW: 3}, [written(1), written(2, LGA), written(3)])
    if isinstance(codec, AesGcmCodec):
        assert overlay.reseal() == 0
        codec._keys.current = "k2"
        assert overlay.reseal() == 3
        codec._keys.keys.pop((SCOPE, "k1"))
    assert offsets(opening()) == [1, 3]
    apply_through(overlay, {VIEW: 4}, [written(4)])
    assert offsets(opening()) == [1, 3, 4]
    assert offsets(overlay, LGA) == [2]


def test_checking_opens_every_event_and_counts_those_that_do_not(
    opening: Callable[..., StreamedOverlay], codec: Codec
) -> None:
    sealed = isinstance(codec, AesGcmCodec)
    assert opening().check() == OverlayCheck({})
    apply_through(opening(), {VIEW: 3}, [written(1), written(2, LGA), written(3)])
    assert opening().check() == OverlayCheck({"k1" if sealed else "plaintext": 3})
    if isinstance(codec, AesGcmCodec):
        codec._keys.keys.pop((SCOPE, "k1"))
        codec._subkeys.clear()
        found = opening().check()
        assert (found.by_key, found.unopened) == ({"k1": 3}, 3)
        assert found.problem


def test_events_are_written_while_keys_are_replaced(opening: Callable[..., StreamedOverlay], codec: Codec) -> None:
    if not isinstance(codec, AesGcmCodec):
        pytest.skip("nothing to replace in plaintext")
    writer = opening()
    apply_through(writer, {VIEW: 1}, [written(1)])
    stop = threading.Event()
    wrong: list[BaseException] = []
    at = 1

    def write() -> None:
        nonlocal at
        try:
            while not stop.is_set():
                apply_through(writer, {VIEW: at + 1}, [written(at + 1)])
                at += 1
        except BaseException as error:
            wrong.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    resealing = opening()
    for turn in range(2, 8):
        codec._keys.current = f"k{turn}"
        assert resealing.reseal() > 0
    stop.set()
    thread.join(timeout=30)
    assert not wrong
    for turn in range(1, 7):
        codec._keys.keys.pop((SCOPE, f"k{turn}"), None)
    assert offsets(opening()) == list(range(1, at + 1))
