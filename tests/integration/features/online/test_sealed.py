"""Features in an encrypted project: the same values, nothing clear on the disk, and keys that change meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tests.integration.features.world import NOON, World, minutes
from tests.unit.governance.encryption.test_sealing import Keys

from antiphon import Entity, Source, col, count, feature_view, last
from antiphon.catalog.features.events import Event
from antiphon.core.codec import Codec, PlainCodec
from antiphon.core.errors import CorruptionError, UnavailableError
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.offline.compute import ComputeLimits, compute
from antiphon.features.online.lmdb.writer import LmdbWriter, read_seal, seal_path, write_seal
from antiphon.features.online.snapshots.encoding import META
from antiphon.governance.encryption.sealing import AesGcmCodec

WORD = b"PLANTEDWORD"
ORDERS = Source.stream("orders", event_time="at", available_at="known", event_id="id")


def spec() -> FeatureViewSpec:
    @feature_view(entity=Entity("shop", ["shop"]), source=ORDERS, owner="test")
    class Noted:
        """The last note of a shop."""

        note = last(col.note, window="2h")
        orders = count(window="2h")

    return Noted.spec()


class Sealed:
    """A world whose codec's key can be rotated."""

    def __init__(self, folder: Path, codec: Codec, keys: Keys) -> None:
        self.keys, self.codec = keys, codec
        self.world = World(folder, spec(), codec=codec)

    def noted(self, identity: str, at: float, shop: str = "one") -> None:
        moment = NOON + minutes(at)
        note = f"{WORD.decode()} {identity}"
        payload = {"id": identity, "shop": shop, "note": note, "at": moment.isoformat(), "known": moment.isoformat()}
        self.world.append("orders", Event(identity, moment, moment, payload))

    def note(self, at: float, shop: str = "one") -> object:
        return self.world.read(NOON + minutes(at), shop=shop).values["noted.note"].value

    def stored(self) -> bytes:
        return b"".join(path.read_bytes() for path in self.world.folder.rglob("*") if path.is_file())


@pytest.fixture(params=["sealed", "clear"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sealed]:
    keys = Keys()
    made = Sealed(tmp_path, AesGcmCodec(keys) if request.param == "sealed" else PlainCodec(), keys)
    yield made
    made.world.close()


def test_published_and_streamed_values_are_read_and_do_not_show(world: Sealed) -> None:
    world.noted("a", -30)
    world.world.publish(NOON)
    world.world.consume()
    assert world.note(1) == f"{WORD.decode()} a"
    world.noted("b", 2)
    world.world.consume()
    assert world.note(3) == f"{WORD.decode()} b"
    assert (WORD in world.stored()) == (not world.codec.sealing)


def test_after_a_rotation_everything_is_read_and_can_be_sealed_anew_while_it_is(tmp_path: Path) -> None:
    keys = Keys()
    world = Sealed(tmp_path, AesGcmCodec(keys), keys)
    world.noted("a", -30)
    world.world.publish(NOON)
    world.world.consume()
    world.noted("b", 2)
    world.world.consume()
    assert world.note(3) == f"{WORD.decode()} b"
    world.keys.current = "k2"
    world.noted("c", 4)
    world.world.consume()
    assert world.note(5) == f"{WORD.decode()} c"

    scope, online = world.world.scope, world.world.online
    held = online.open(scope, "noted", next(iter(online.files(scope)))[1])
    for relative in list(world.world.lake.files(scope)):
        world.world.lake.reseal(relative)
    for view, snapshot in list(online.files(scope)):
        online.reseal(scope, view, snapshot)
    assert world.world.overlay.reseal() == 3
    # Whoever has the old file open goes on; whoever opens it now gets the new one.
    assert any(WORD in value for _, value in held.values())
    online.forget(scope, ())
    del world.keys.keys[scope, "k1"]
    world.world.reader = world.world.new_reader()
    assert world.note(5) == f"{WORD.decode()} c"
    for relative in world.world.lake.files(scope):
        world.world.lake.verify(relative, Path(relative).stem)
    world.world.close()


def test_a_file_of_another_format_is_told_and_built_anew(world: Sealed) -> None:
    world.noted("a", -30)
    publication = world.world.publish(NOON)
    scope, online = world.world.scope, world.world.online
    snapshot = publication.snapshots[world.world.specs["noted"].key]
    file = online.file(scope, "noted", snapshot)
    opened = online.open(scope, "noted", snapshot)
    writer = LmdbWriter(file, msgspec.structs.replace(opened.meta, format=2), 1, world.codec, scope)
    writer.seal(instead_of=opened.seal)
    online.forget(scope, ())
    with pytest.raises(CorruptionError, match="another format"):
        online.open(scope, "noted", snapshot)
    assert not online.sealed(scope, "noted", snapshot)
    world.world.publish(NOON)
    world.world.reader = world.world.new_reader()
    assert world.note(1) == f"{WORD.decode()} a"


def test_of_two_that_build_one_snapshot_at_once_the_first_stays(world: Sealed) -> None:
    world.noted("a", -30)
    publication = world.world.publish(NOON)
    scope, online = world.world.scope, world.world.online
    snapshot = publication.snapshots[world.world.specs["noted"].key]
    file, opened = online.file(scope, "noted", snapshot), online.open(scope, "noted", snapshot)
    records = [one for one in opened.values() if one[0] != META]
    file.unlink()  # The seal is left, as by a collection that was cut off.
    writers = [LmdbWriter(file, opened.meta, len(records), world.codec, scope) for _ in range(2)]
    for number, writer in enumerate(writers):
        writer._temporary = file.with_name(f".{file.name}.{number}.building")  # As if in two processes.
        writer.write([key for key, _ in records], [value for _, value in records])
        writer._stored()
    for writer in writers:
        writer._stored = lambda: None  # type: ignore[method-assign]
    first = writers[0].seal()
    assert writers[1].seal() == first == read_seal(file)
    online.forget(scope, ())
    assert world.note(1) == f"{WORD.decode()} a"
    assert [one.name for one in file.parent.iterdir() if one.name.startswith(".")] == []


@pytest.mark.parametrize("there", ["old", "new"])
def test_a_crash_between_a_new_file_and_its_seal_leaves_one_that_opens(tmp_path: Path, there: str) -> None:
    keys = Keys()
    world = Sealed(tmp_path, AesGcmCodec(keys), keys)
    world.noted("a", -30)
    world.world.publish(NOON)
    scope, online = world.world.scope, world.world.online
    ((view, snapshot),) = online.files(scope)
    file = online.file(scope, view, snapshot)
    old_bytes, old_seal = file.read_bytes(), read_seal(file)
    online.reseal(scope, view, snapshot)
    new_bytes, new_seal = file.read_bytes(), read_seal(file)
    assert old_bytes != new_bytes
    assert old_seal.key != new_seal.key
    both = type(new_seal)(*[getattr(new_seal, name) for name in ("snapshot", "sha256", "bytes", "key")], old_seal)
    write_seal(file, both)
    draft = file.with_suffix(".draft")
    draft.write_bytes(old_bytes if there == "old" else new_bytes)
    os.replace(draft, file)
    assert world.note(1) == f"{WORD.decode()} a"
    # Without the second seal the old file would not open any more.
    write_seal(file, new_seal)
    online.forget(scope, ())
    if there == "old":
        with pytest.raises(CorruptionError):
            online.open(scope, view, snapshot)
    assert seal_path(file).exists()
    world.world.close()


def test_a_file_or_value_from_another_place_does_not_open(tmp_path: Path) -> None:
    keys = Keys()
    world = Sealed(tmp_path, AesGcmCodec(keys), keys)
    world.noted("a", -30)
    world.noted("b", -20, shop="two")
    world.world.publish(NOON)
    first, second = list(world.world.lake.files(world.world.scope))[:2]
    world.world.lake.path(second).write_bytes(world.world.lake.path(first).read_bytes())
    with pytest.raises(CorruptionError):
        world.world.lake.open(second)
    world.world.close()


def test_what_does_not_fit_into_memory_never_spills_where_it_would_be_clear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = "CREATE TABLE large AS SELECT 'PLANTEDWORD' || i AS s FROM range(3000000) AS t(i) ORDER BY hash(i)"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnavailableError, match="out of memory"), compute(ComputeLimits(memory=40)) as connection:
        connection.execute(many)
    assert list(tmp_path.iterdir()) == []
