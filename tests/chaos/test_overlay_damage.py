"""Overlays of streamed events that are damaged: set aside, read again from the log, and never answered from in between.

The injectors know files and bytes alone.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.harness.partitions import apply_through
from tests.integration.features.world import NOON, World, event, minutes
from tests.unit.governance.encryption.test_sealing import Keys

from antiphon import Entity, Source, count, feature_view
from antiphon.core.errors import AntiphonError, CorruptionError, UnavailableError
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.online.lmdb.overlay import LmdbOverlay
from antiphon.features.online.lmdb.overlay_file import _OverlayEnvironment
from antiphon.features.online.overlay_records import OverlayEvent, view_prefix
from antiphon.features.online.prune_fence import IncludedOffsets
from antiphon.features.publication.healing import Healer, SnapshotHealth
from antiphon.features.publication.publish import included_offsets
from antiphon.features.streaming.consumer import StreamConsumer
from antiphon.features.values import StreamedEvent
from antiphon.governance.encryption.sealing import AesGcmCodec

ORDERS = Source.stream("orders", event_time="at", available_at="known", event_id="id")
RETURNS = Source.stream("returns", event_time="at", available_at="known", event_id="id")
SHOPS = [f"shop-{number}" for number in range(200)]
pytestmark = pytest.mark.chaos


@feature_view(entity=Entity("shop", ["shop"]), source=ORDERS, owner="test")
class Busy:
    """Orders of a shop."""

    orders = count(window="2h")


@feature_view(entity=Entity("shop", ["shop"]), source=RETURNS, owner="test")
class Returned:
    """What a shop gets back."""

    returns = count(window="2h")


class Desk:
    """A view with one published and one streamed event a shop, in processes that can be started again."""

    def __init__(self, folder: Path, *others: FeatureViewSpec) -> None:
        self.world = World(folder, Busy.spec(), *others)
        self.world.append("orders", *(event(f"a-{shop}", NOON - minutes(30), shop=shop) for shop in SHOPS))
        self.world.publish(NOON)
        self.world.consume()
        self.world.append("orders", *(event(f"b-{shop}", NOON + minutes(1), shop=shop) for shop in SHOPS))
        self.world.consume()

    @property
    def file(self) -> Path:
        (found,) = (self.world.folder / "online").rglob("overlay.mdb")
        return found

    def orders(self, shop: str) -> object:
        return self.world.read(NOON + minutes(2), "busy", shop=shop).values["busy.orders"].value

    def damage(self) -> None:
        truncate_all(self.file)
        with pytest.raises(UnavailableError, match="read again"):
            self.orders(SHOPS[0])

    def restart(self) -> None:
        world = self.world
        world.overlay.close()
        world.overlay = world.publisher.overlay = world.new_overlay()
        self.consumer()
        world.reader = world.new_reader()

    def consumer(self) -> None:
        world = self.world
        world.consumer = world.publisher.consumer = StreamConsumer(
            world.scope,
            log=world.log,
            overlay=world.overlay,
            online=world.online,
            views=list(world.specs.values()),
            included=lambda: self.included(),
        )

    def included(self) -> IncludedOffsets:
        return included_offsets(self.world.catalog, 1)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.world.close()


def truncate(file: Path) -> None:
    os.truncate(file, os.path.getsize(file) // 2 // 4096 * 4096)


def truncate_all(file: Path) -> None:
    os.truncate(file, 0)


def shorten(file: Path) -> None:
    os.truncate(file, 5000)


def scribble(file: Path) -> None:
    size = os.path.getsize(file)
    with file.open("r+b") as stream:
        stream.write(b"\xff" * size)


def empty_pages(file: Path) -> None:
    size = os.path.getsize(file)
    with file.open("r+b") as stream:
        stream.seek(8192)
        stream.write(bytes(size - 8192))


def remove(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize("damage", [truncate, truncate_all, shorten, remove, scribble, empty_pages])
def test_a_damaged_overlay_is_set_aside_after_a_start_and_read_again(
    desk: Desk, damage: Callable[[Path], None]
) -> None:
    assert desk.orders(SHOPS[0]) == 2
    desk.world.overlay.close()
    damage(desk.file)
    desk.restart()
    refused = []
    for shop in SHOPS[:20]:
        try:
            assert desk.orders(shop) == 2
        except UnavailableError as error:
            refused.append(error)
    assert len(refused) == 20, "values without what had streamed in must not be told"
    assert {(error.http_status, error.retry_after) for error in refused} == {(503, 1.0)}
    assert not any("/" in str(error) for error in refused)
    read = list[int]()
    log = desk.world.log.read
    desk.world.log.read = lambda *asked, **named: read.append(asked[2]) or log(*asked, **named)  # type: ignore[method-assign,func-returns-value]
    desk.world.consume()
    assert min(read) == len(SHOPS), "what snapshots include is not read again"
    assert [desk.orders(shop) for shop in SHOPS] == [2] * len(SHOPS)
    if damage is not remove:
        assert len(list(desk.file.parent.glob("overlay.mdb.damaged-*"))) == 1


@pytest.mark.parametrize("damage", [truncate, truncate_all, shorten, remove])
def test_damage_under_a_running_process_is_healed_without_a_start(desk: Desk, damage: Callable[[Path], None]) -> None:
    desk.consumer()
    assert desk.orders(SHOPS[0]) == 2
    damage(desk.file)
    with pytest.raises(UnavailableError, match="read again") as told:
        desk.orders(SHOPS[1])
    assert told.value.retry_after is not None
    desk.world.consume()
    assert [desk.orders(shop) for shop in SHOPS] == [2] * len(SHOPS)


def test_two_processes_set_one_overlay_aside_once(desk: Desk) -> None:
    truncate(desk.file)
    for _ in range(2):
        with pytest.raises(UnavailableError):
            desk.orders(SHOPS[0])
    desk.restart()
    assert len(list(desk.file.parent.glob("overlay.mdb.damaged-*"))) == 1


def test_only_the_last_damaged_ones_stay(desk: Desk) -> None:
    for _ in range(5):
        truncate_all(desk.file)
        with pytest.raises(UnavailableError):
            desk.orders(SHOPS[0])
    assert len(list(desk.file.parent.glob("overlay.mdb.damaged-*"))) == 3


def _healer(world: World) -> Healer:
    return Healer(
        world.catalog,
        SnapshotHealth(world.catalog, online=world.online),
        publisher=world.publisher,
        lock=world.folder / "healing.lock",
        rebuild=lambda one, key: None,
        overlay=world.overlay,
    )


def test_a_changed_event_is_found_by_its_checksum(desk: Desk) -> None:
    moment = int((NOON + minutes(1)).timestamp() * 1e6).to_bytes(8, "big")
    content = desk.file.read_bytes()
    assert moment in content
    desk.world.overlay.close()
    with desk.file.open("r+b") as stream:
        stream.write(content.replace(moment, moment[:-1] + bytes((moment[-1] ^ 1,))))
    desk.restart()
    world = desk.world
    _healer(world).heal()
    with pytest.raises(UnavailableError, match="read again"):
        desk.orders(SHOPS[0])
    world.consume()
    assert [desk.orders(shop) for shop in SHOPS] == [2] * len(SHOPS)


def test_a_replay_ends_while_events_keep_coming(desk: Desk) -> None:
    desk.consumer()
    desk.damage()
    for number in range(100):
        desk.world.append("orders", *(event(f"c-{number}-{n}", NOON + minutes(90), shop="else") for n in range(20)))
        assert desk.world.consumer.poll(20) == 20, "each poll has all it takes: the log is never read to its end"
        if not desk.world.overlay.read(()).replaying:
            break
    assert [desk.orders(shop) for shop in SHOPS[:10]] == [2] * 10


def test_a_replay_begins_where_a_rollback_that_came_meanwhile_needs_it(desk: Desk) -> None:
    """The replay decides where it begins; a rollback restores its events and commits; the replay begins."""
    world = desk.world
    world.publish(NOON + minutes(1))
    desk.consumer()
    desk.damage()
    included = desk.included

    def overtaken() -> IncludedOffsets:
        found = included()
        if found.publication == 2:
            world.publisher.rollback(1, reason="drift", principal="test")
        return found

    desk.included = overtaken  # type: ignore[method-assign]
    world.consume()
    assert world.publications.current(world.scope).number == 3  # type: ignore[union-attr]
    assert [desk.orders(shop) for shop in SHOPS] == [2] * len(SHOPS)


def test_a_stream_that_cannot_be_read_holds_back_its_own_views_alone(tmp_path: Path) -> None:
    desk = Desk(tmp_path, Returned.spec())
    world = desk.world
    world.append("returns", *(event(f"r-{shop}", NOON + minutes(1), shop=shop) for shop in SHOPS))
    world.consume()
    desk.consumer()
    desk.damage()
    read = world.log.read

    def broken(scope: Scope, stream: str, *asked: int) -> object:
        if stream == "returns":
            raise CorruptionError("Events are gone from the log.")
        return read(scope, stream, *asked)

    world.log.read = broken  # type: ignore[method-assign,assignment]
    world.consume()
    assert [desk.orders(shop) for shop in SHOPS] == [2] * len(SHOPS)
    with pytest.raises(UnavailableError, match="read again"):
        world.read(NOON + minutes(2), "returned", shop=SHOPS[0])
    world.log.read = read  # type: ignore[method-assign]
    desk.consumer()
    world.consume()
    assert world.read(NOON + minutes(2), "returned", shop=SHOPS[0]).values["returned.returns"].value == 1
    assert not world.overlay.read(()).replaying
    world.close()


def test_a_project_without_streams_has_nothing_to_read_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    overlay = LmdbOverlay(tmp_path / "elsewhere", world.scope, published=lambda: True)
    assert overlay.read(()).replaying
    StreamConsumer(world.scope, log=world.log, overlay=overlay, online=world.online).poll()
    assert not overlay.read(()).replaying
    overlay.close()
    world.close()


def test_an_online_folder_that_was_removed_is_not_answered_from_before_its_events_are_back(desk: Desk) -> None:
    world = desk.world
    world.overlay.close()
    world.online.close()
    shutil.rmtree(world.folder / "online")
    desk.restart()
    _healer(world).heal()
    with pytest.raises(UnavailableError, match="read again"):
        desk.orders(SHOPS[0])
    world.consume()
    assert [desk.orders(shop) for shop in SHOPS] == [2] * len(SHOPS)


def test_a_damaged_overlay_stays_in_place_while_no_new_one_can_be_made(desk: Desk) -> None:
    desk.file.with_name(".overlay.mdb.new").mkdir()
    truncate_all(desk.file)
    with pytest.raises(OSError, match=r"overlay\.mdb\.new"):
        desk.orders(SHOPS[0])
    assert desk.file.exists()


class _GrowingEnvironment(_OverlayEnvironment):
    """An open file that another thread sees grow at the moment at which its size is asked for."""

    file: Path

    @property
    def size(self) -> int:
        os.truncate(self.file, os.path.getsize(self.file) + 4096)
        return os.path.getsize(self.file)

    @size.setter
    def size(self, value: int) -> None:
        pass


def test_an_overlay_that_grows_between_two_looks_is_whole(desk: Desk) -> None:
    opened = desk.world.overlay._file._opened
    opened.__class__ = _GrowingEnvironment
    opened.file = desk.file  # type: ignore[attr-defined]
    assert [desk.orders(shop) for shop in SHOPS[:20]] == [2] * 20
    assert not list(desk.file.parent.glob("overlay.mdb.damaged-*"))


class _LostKeys(Keys):
    def opening_key(self, scope: Scope, key_id: str) -> bytes:
        raise CorruptionError(f"There is no data key {key_id}.")


def test_an_overlay_whose_data_key_is_gone_is_not_damaged(tmp_path: Path) -> None:
    view, entity = view_prefix("busy@1"), b"e" * 16
    written = LmdbOverlay(tmp_path, Scope(), AesGcmCodec(Keys()))
    apply_through(written, {view: 1}, [OverlayEvent(view, entity, StreamedEvent(1, 1, "1", (1,), 1))])
    written.close()
    overlay = LmdbOverlay(tmp_path, Scope(), AesGcmCodec(_LostKeys()))
    with pytest.raises(AntiphonError, match="no data key"):
        overlay.read([view], [(view, entity, 0)])
    found = overlay.check()
    assert (found.unopened, found.damaged) == (1, 0)
    assert not list(tmp_path.rglob("overlay.mdb.damaged-*"))
    overlay.close()


_READER = """
import os, sys
from pathlib import Path
from antiphon.core.scope import Scope
from antiphon.features.online.lmdb.overlay import LmdbOverlay

root, mode = Path(sys.argv[1]), sys.argv[2]
overlay = LmdbOverlay(root, Scope())
if mode == "undefended":
    opened = overlay._file._opened
    overlay._file._current = lambda: opened
os.truncate(next(root.rglob("overlay.mdb")), 0)
try:
    overlay.read([bytes(8)])
    overlay.check()
except Exception as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize(
    ("mode", "ends"), [("defended", (0, "UnavailableError")), ("undefended", (-signal.SIGBUS, ""))]
)
def test_the_look_at_the_size_is_needed(desk: Desk, mode: str, ends: tuple[int, str]) -> None:
    root = desk.world.folder / "online"
    ended = subprocess.run(
        [sys.executable, "-c", _READER, str(root), mode], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout.strip()) == ends, ended.stderr
