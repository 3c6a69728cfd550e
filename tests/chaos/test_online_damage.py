"""Online snapshots that a disk or another hand damages: no answer of another value, no dead process, healed by itself.

The injectors know files and bytes alone, and nothing of seals, hashes or healing.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.integration.features.world import NOON, World, event, minutes

from antiphon import Entity, Source, count, feature_view
from antiphon.core.errors import AntiphonError, UnavailableError
from antiphon.features.online.lmdb.writer import seal_path
from antiphon.features.publication.healing import Healer, SnapshotHealth
from antiphon.services.features.health import notices

ORDERS = Source.stream("orders", event_time="at", available_at="known", event_id="id")
SHOPS = [f"shop-{number}" for number in range(300)]
pytestmark = pytest.mark.chaos


@feature_view(entity=Entity("shop", ["shop"]), source=ORDERS, owner="test")
class Busy:
    """Orders of a shop."""

    orders = count(window="2h")


class Desk:
    """A published view and what heals it."""

    def __init__(self, folder: Path) -> None:
        self.world = World(folder, Busy.spec())
        moment = NOON - minutes(30)
        self.world.append("orders", *(event(shop, moment, shop=shop) for shop in SHOPS))
        self.world.publish(NOON)
        self.refreshed: list[str] = []
        health = SnapshotHealth(self.world.catalog, online=self.world.online)
        self.health = health
        self.healer = Healer(
            self.world.catalog,
            health,
            publisher=self.world.publisher,
            lock=folder / "healing.lock",
            rebuild=lambda one, key: self.refreshed.append(f"{one.view} {key}"),
        )

    @property
    def file(self) -> Path:
        (found,) = [path for path in (self.world.folder / "online").rglob("*.mdb") if path.name != "overlay.mdb"]
        return found

    def orders(self, shop: str) -> object:
        return self.world.read(NOON + minutes(1), shop=shop).values["busy.orders"].value


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.world.close()


def truncate(file: Path) -> None:
    os.truncate(file, os.path.getsize(file) // 2 // 4096 * 4096)


def truncate_all(file: Path) -> None:
    os.truncate(file, 0)


def flip(file: Path) -> None:
    """A few hundred bytes all over, in place."""
    chance = random.Random(20130410)
    with file.open("r+b") as stream:
        for _ in range(400):
            at = chance.randrange(8192, os.path.getsize(file))
            stream.seek(at)
            byte = stream.read(1)
            stream.seek(at)
            stream.write(bytes((byte[0] ^ (1 << chance.randrange(8)),)))


def remove(file: Path) -> None:
    file.unlink()


def remove_all(file: Path) -> None:
    for path in file.parent.iterdir():
        path.unlink()
    file.parent.rmdir()


def scribble(file: Path) -> None:
    """Other content of the same size."""
    size = os.path.getsize(file)
    with file.open("r+b") as stream:
        stream.write(b"\xff" * size)


def flip_middle(file: Path) -> None:
    """Every byte but the first and the last ones, which say what kind of file it is and where its parts are."""
    content = file.read_bytes()
    file.chmod(0o600)
    file.write_bytes(content[:4] + bytes(byte ^ 0xFF for byte in content[4:-8]) + content[-8:])


def lose(file: Path) -> None:
    """The first byte cannot be read (EIO), as of a bad sector."""
    file.unlink()
    file.symlink_to("/proc/self/mem")


DAMAGES = [truncate, truncate_all, flip, remove, remove_all, scribble]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_while_a_file_is_open_is_never_answered_from(desk: Desk, damage: Callable[[Path], None]) -> None:
    assert desk.orders(SHOPS[0]) == 1
    damage(desk.file)
    refused: list[UnavailableError] = []
    for shop in SHOPS[1:40]:
        try:
            found = desk.orders(shop)
        except UnavailableError as error:
            refused.append(error)
        else:
            assert found == 1  # of a file that was only unlinked, which stays open
    assert {(error.http_status, error.retry_after) for error in refused} <= {(503, 1.0)}
    assert not any("/" in error.what for error in refused)
    desk.healer.heal()
    assert desk.health.damaged() == []
    assert [desk.orders(shop) for shop in SHOPS[1:40]] == [1] * 39


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_healed_after_a_start(desk: Desk, damage: Callable[[Path], None]) -> None:
    damage(desk.file)
    desk.world.online.close()
    desk.world.reader = desk.world.new_reader()
    with pytest.raises(UnavailableError, match="built again") as told:
        desk.orders(SHOPS[0])
    assert told.value.retry_after is not None
    assert [one.view for one in desk.health.damaged()] == ["busy"]
    assert "busy" in (desk.healer.heal() or "")
    assert [desk.orders(shop) for shop in SHOPS] == [1] * len(SHOPS)
    assert desk.healer.heal() is None


def test_silent_damage_of_a_file_that_nobody_reads_is_found_by_the_healer(desk: Desk) -> None:
    flip(desk.file)
    assert desk.health.damaged() == []
    assert [one.view for one in desk.health.unreadable()] == ["busy"]
    assert desk.healer.heal() is not None
    assert desk.health.unreadable() == []


def test_a_publication_before_stands_in_while_the_current_one_is_healed(desk: Desk) -> None:
    desk.world.append("orders", event("another", NOON + minutes(1), shop=SHOPS[0]))
    first = desk.file
    desk.world.publish(NOON + minutes(2))
    (second,) = [path for path in first.parent.glob("*.mdb") if path != first]
    truncate(second)
    vector = desk.world.read(NOON + minutes(3), shop=SHOPS[1])
    assert (vector.publication, vector.values["busy.orders"].value) == (1, 1)
    desk.healer.heal()
    assert desk.world.read(NOON + minutes(3), shop=SHOPS[1]).publication == 2


def test_a_lake_that_cannot_give_a_snapshot_back_has_its_source_read_again_once(desk: Desk) -> None:
    remove(desk.file)
    for path in (desk.world.folder / "lake").rglob("*.parquet"):
        path.unlink()
    for _ in range(5):
        assert desk.healer.heal() is None
        desk.world.clock.advance(timedelta(seconds=70))
    assert {one.split(":")[0] for one in desk.refreshed} == {"busy heal"}
    assert len(set(desk.refreshed)) == 1, "a key an hour, so that one refresh runs"


@pytest.mark.parametrize("damage", [flip_middle, lose])
def test_a_lake_that_cannot_be_read_has_its_source_read_again(desk: Desk, damage: Callable[[Path], None]) -> None:
    remove(desk.file)
    for path in (desk.world.folder / "lake").rglob("*.parquet"):
        damage(path)
    assert desk.healer.heal() is None
    assert [one.split(":")[0] for one in desk.refreshed] == ["busy heal"]


def test_a_file_that_cannot_be_written_is_tried_again_and_no_source_is_read(desk: Desk) -> None:
    in_its_way = desk.file.with_name(f".{desk.file.name}.{os.getpid()}.building")
    remove(desk.file)
    in_its_way.mkdir()
    assert desk.healer.heal() is None
    assert desk.refreshed == []
    in_its_way.rmdir()
    desk.world.clock.advance(timedelta(seconds=70))
    assert "busy" in (desk.healer.heal() or "")


def test_a_file_that_a_disk_does_not_give_back_is_damaged(desk: Desk) -> None:
    assert desk.orders(SHOPS[0]) == 1
    opened = desk.world.online.open(desk.world.scope, "busy", desk.file.stem)
    folder = os.open(desk.file.parent, os.O_RDONLY)
    os.dup2(folder, opened._stream.fileno())  # Reading a folder is an OSError, as reading a bad sector is.
    os.close(folder)
    desk.health.condemn()
    anew = desk.world.online.open(desk.world.scope, "busy", desk.file.stem)
    assert anew is not opened, "what is under its name is whole, and is opened anew"


def test_a_second_reader_lets_go_of_a_file_that_the_first_one_condemned(desk: Desk) -> None:
    first, second = desk.world.reader, desk.world.new_reader()
    busy = {"busy": desk.world.specs["busy"].definition_version}
    for reader in (first, second):
        assert reader.read(busy, {"shop": SHOPS[0]}, NOON + minutes(1)).values["busy.orders"].value == 1
    flip(desk.file)
    with pytest.raises(UnavailableError):
        first.read(busy, {"shop": SHOPS[1]}, NOON + minutes(1))
    desk.healer.heal()
    with pytest.raises(UnavailableError):
        second.read(busy, {"shop": SHOPS[1]}, NOON + minutes(1))
    assert second.read(busy, {"shop": SHOPS[3]}, NOON + minutes(1)).values["busy.orders"].value == 1


def test_a_defect_does_not_have_the_file_read_at_each_request(desk: Desk) -> None:
    asked = list[str]()
    condemn = desk.world.online.condemn
    desk.world.online.condemn = lambda *named: asked.append(named[1]) or condemn(*named)  # type: ignore[method-assign,func-returns-value]
    assert desk.orders(SHOPS[0]) == 1
    (rows,) = desk.world.reader._snapshots.values()
    opened = rows.opened

    def defective(entities: object) -> object:
        raise ZeroDivisionError

    opened.finished = defective  # type: ignore[method-assign,assignment]
    for shop in SHOPS[1:10]:
        with pytest.raises(ZeroDivisionError):
            desk.orders(shop)
    assert asked == ["busy"]
    desk.world.clock.advance(timedelta(seconds=61))
    with pytest.raises(ZeroDivisionError):
        desk.orders(SHOPS[10])
    assert asked == ["busy"] * 2


def test_a_file_that_is_spared_from_collection_is_not_read_again(desk: Desk) -> None:
    world = desk.world
    opened = world.online.open(world.scope, "busy", desk.file.stem)
    day = 86_400
    for path in (desk.file, seal_path(desk.file)):
        os.utime(path, (NOON.timestamp() - day, NOON.timestamp() - day))
    stamp = desk.file.stat().st_mtime_ns
    manifest = world.snapshots.get(world.scope, desk.file.stem)
    assert world.online.build(manifest, world.specs["busy"], world.lake) is False
    assert desk.file.stat().st_mtime_ns == stamp, "an open file would be hashed anew by every process"
    assert world.online.collect(world.scope, (), older_than=NOON.timestamp()) == []
    assert opened.whole
    os.utime(seal_path(desk.file), (NOON.timestamp() - day, NOON.timestamp() - day))
    assert len(world.online.collect(world.scope, (), older_than=NOON.timestamp())) == 2


def test_two_healers_build_once(desk: Desk, tmp_path: Path) -> None:
    import fcntl

    remove(desk.file)
    with (tmp_path / "healing.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert desk.healer.heal() is None
        assert desk.health.damaged() != []
    assert desk.healer.heal() is not None


_READER = """
import os, sys
from pathlib import Path
from antiphon.features.online.lmdb.snapshot import LmdbSnapshot

file, damage, mode = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
opened = LmdbSnapshot(file, file.stem)
if mode == "undefended":
    opened._require_whole = lambda: None
entities = [key for key, _ in opened.values() if len(key) == 16]
before = opened.finished(entities)
if damage == "truncated":
    os.truncate(file, 0)
else:
    content = file.read_bytes()
    with file.open("r+b") as stream:
        stream.write(content[:8192] + content[8192:].replace(entities[0], os.urandom(16)))
try:
    print("as before" if opened.finished(entities) == before else "other values")
except Exception as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize(
    ("damage", "mode", "ends"),
    [
        ("truncated", "defended", (0, "CorruptionError")),
        ("truncated", "undefended", (-signal.SIGBUS, "")),
        ("changed", "defended", (0, "CorruptionError")),
        ("changed", "undefended", (0, "other values")),
    ],
)
def test_the_look_at_size_and_hash_is_needed(desk: Desk, damage: str, mode: str, ends: tuple[int, str]) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _READER, str(desk.file), damage, mode],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout.strip()) == ends, ended.stderr


def test_no_message_of_damage_names_a_path(desk: Desk) -> None:
    remove_all(desk.file)
    with pytest.raises(AntiphonError) as told:
        desk.orders(SHOPS[0])
    assert "/" not in told.value.what


def test_what_is_damaged_is_told_with_its_view_and_since_when(desk: Desk) -> None:
    assert notices(desk.health, desk.world.overlay) == {}
    remove(desk.file)
    (told,) = notices(desk.health, desk.world.overlay).values()
    assert "1 online snapshots" in told
    assert "busy" not in told, "it is read without a key"
    first = desk.health.damaged()[0].since
    desk.world.clock.advance(timedelta(minutes=5))
    assert desk.health.damaged()[0].since == first
    truncate_all(desk.world.folder / "online" / "default" / "dev" / "overlay.mdb")
    with pytest.raises(UnavailableError):
        desk.world.overlay.read(())
    assert set(notices(desk.health, desk.world.overlay)) == {"features", "streams"}
