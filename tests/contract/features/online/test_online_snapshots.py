"""Sealed snapshots: what every online store must do, in plaintext and encrypted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.integration.features.desk import history, specs, write
from tests.integration.features.world import NOON, minutes
from tests.servers import RedisProcess
from tests.unit.governance.encryption.test_sealing import Keys

from antiphon.catalog.features.snapshots import SnapshotManifest
from antiphon.core.clock import ManualClock, microseconds
from antiphon.core.codec import Codec, PlainCodec
from antiphon.core.errors import CorruptionError
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.lake.local import LocalLake
from antiphon.features.offline.materialize import Materialization, materialize
from antiphon.features.online.lmdb.store import LmdbStore
from antiphon.features.online.redis.server import RedisServer
from antiphon.features.online.redis.store import RedisStore
from antiphon.features.ports import StateQuery
from antiphon.governance.encryption.sealing import AesGcmCodec

SCOPE, OTHER = Scope("one", "dev"), Scope("two", "dev")
KEY = b"k" * 32


Store = Any
"""One of the stores under test: both an ``OnlineSnapshots`` and a ``SealedValuesStore``."""


class Made(msgspec.Struct):
    lake: LocalLake
    spec: FeatureViewSpec
    manifests: dict[Scope, SnapshotManifest]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """One view materialized in two scopes."""
    folder = tmp_path_factory.mktemp("made")
    write(folder / "departures.parquet", history())
    spec = specs(folder / "departures.parquet")[1]
    lake = LocalLake(folder / "lake")
    manifests = {
        scope: materialize(
            Materialization(scope=scope, spec=spec, as_of=NOON), lake=lake, log=None, clock=ManualClock(NOON)
        )
        for scope in (SCOPE, OTHER)
    }
    return Made(lake, spec, manifests)


@pytest.fixture(
    params=["lmdb plain", "lmdb sealed", "redis-server plain", "redis-server sealed", "valkey-server sealed"]
)
def kind(request: pytest.FixtureRequest) -> list[str]:
    """Which server, and whether values are encrypted."""
    return str(request.param).split()


@pytest.fixture
def codec(kind: list[str]) -> Codec:
    return AesGcmCodec(Keys()) if kind[1] == "sealed" else PlainCodec()


@pytest.fixture
def opening(
    kind: list[str], tmp_path: Path, codec: Codec, servers: dict[str, RedisProcess]
) -> Iterator[Callable[[], Store]]:
    """Opens the same store again and again, as processes do."""
    opened: list[Any] = []
    if kind[0] == "lmdb":

        def again() -> Store:
            opened.append(LmdbStore(tmp_path / "online", KEY, codec))
            return opened[-1]
    else:
        server = RedisServer(servers[kind[0]].url)
        server.client.flushall()

        def again() -> Store:
            opened.append(RedisStore(server, KEY, codec))
            return opened[-1]

    yield again
    for store in opened:
        store.close()


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, RedisProcess]]:
    started: dict[str, RedisProcess] = {}

    class Starting(dict[str, RedisProcess]):
        def __missing__(self, name: str) -> RedisProcess:
            self[name] = started[name] = RedisProcess(name)
            self[name].start()
            return self[name]

    yield Starting()
    for process in started.values():
        process.remove()


@pytest.fixture
def store(opening: Callable[[], Store]) -> Store:
    return opening()


def build(store: Store, made: Made, scope: Scope = SCOPE) -> tuple[str, str]:
    manifest = made.manifests[scope]
    assert store.build(manifest, made.spec, made.lake)
    return manifest.view, manifest.id


def flights(store: Store, made: Made, *routes: tuple[str, str], at: float = 0, scope: Scope = SCOPE) -> list[object]:
    """``route_history.flights`` of routes as of minutes after noon."""
    manifest = made.manifests[scope]
    snapshot = store.open(scope, manifest.view, manifest.id)
    as_of = microseconds(NOON + minutes(at))
    asked = [StateQuery(store.entity_hash("route", route), as_of) for route in routes]
    states = snapshot.states(asked)
    place = snapshot.evaluator.names.index("flights")
    return [snapshot.evaluator.row(state, (), as_of).values[place] for state in states]


EWR, LGA, NOWHERE = ("EWR", "SFO"), ("LGA", "SFO"), ("JFK", "SFO")


def test_what_was_built_is_read_by_another_process(opening: Callable[[], Store], made: Made) -> None:
    build(opening(), made)
    expected = [28 * 24 - 1, 28 * 24 - 1, 0]
    assert flights(opening(), made, EWR, LGA, NOWHERE) == expected
    # Window edges at other moments need events of other tiles; some of those are not available yet.
    reader = opening()
    assert flights(reader, made, EWR, at=60 * 24 * 14 + 17) == [14 * 24 - 1]
    assert flights(reader, made, EWR, NOWHERE, LGA) == [expected[0], 0, expected[1]]
    assert flights(reader, made, EWR, at=-60 * 24 * 3 - 30) == flights(opening(), made, EWR, at=-60 * 24 * 3 - 30)


def test_a_damaged_snapshot_is_condemned_and_built_again(
    opening: Callable[[], Store], made: Made, kind: list[str], tmp_path: Path, servers: dict[str, RedisProcess]
) -> None:
    view, snapshot = build(opening(), made)
    reader = opening()
    assert flights(reader, made, EWR) == [28 * 24 - 1]
    assert reader.whole(SCOPE, view, snapshot)
    assert not reader.condemn(SCOPE, view, snapshot), "a whole one stays"
    if kind[0] == "lmdb":
        (file,) = (tmp_path / "online").rglob("*.mdb")
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(bytes(content))
    else:
        client = RedisServer(servers[kind[0]].url).client
        (rows,) = [key for key in client.keys("*") if key.endswith(b":rows")]
        field = next(name for name in client.hkeys(rows) if len(name) == 16)
        client.hset(rows, field, b"other")
    assert reader.sealed(SCOPE, view, snapshot), "nothing shows until it is read"
    assert not reader.whole(SCOPE, view, snapshot)
    assert reader.condemn(SCOPE, view, snapshot)
    assert not reader.sealed(SCOPE, view, snapshot)
    with pytest.raises(CorruptionError):
        reader.open(SCOPE, view, snapshot)
    build(opening(), made)
    assert flights(reader, made, EWR) == [28 * 24 - 1]
    assert reader.whole(SCOPE, view, snapshot)


def test_every_store_answers_alike(made: Made, store: Store, tmp_path: Path) -> None:
    reference = LmdbStore(tmp_path / "reference", KEY)
    build(reference, made)
    build(store, made)
    moments = [-9_999.5, -601.25, -30, 0, 0.001, 13, 59.5, 61, 60 * 24 * 29, 60 * 24 * 40]
    assert [flights(store, made, EWR, LGA, at=at) for at in moments] == [
        flights(reference, made, EWR, LGA, at=at) for at in moments
    ]
    reference.close()


def test_finished_rows_are_what_states_give(store: Store, made: Made) -> None:
    view, snapshot = build(store, made)
    hashes = store.entity_hashes("route", [EWR, NOWHERE, LGA])
    assert hashes == [store.entity_hash("route", route) for route in (EWR, NOWHERE, LGA)]

    def check() -> None:
        opened = store.open(SCOPE, view, snapshot)
        assert opened.finished([]) == []
        as_of = microseconds(NOON)
        states = opened.states([StateQuery(hashed, as_of) for hashed in hashes])
        for row, state in zip(opened.finished(hashes), states, strict=True):
            wanted = opened.evaluator.row(state, (), as_of)
            assert (row.values, row.event_times, row.since) == (wanted.values, wanted.event_times, as_of)
            assert as_of < row.until

    check()
    store.reseal(SCOPE, view, snapshot)
    check()
    store.forget(SCOPE, ())
    check()


def test_building_again_changes_nothing(store: Store, made: Made) -> None:
    view, snapshot = build(store, made)
    before = dict(store.values(SCOPE, view, snapshot))
    assert not store.build(made.manifests[SCOPE], made.spec, made.lake)
    assert dict(store.values(SCOPE, view, snapshot)) == before
    assert list(store.files(SCOPE)) == [(view, snapshot)]


def test_scopes_do_not_meet(store: Store, made: Made) -> None:
    build(store, made)
    manifest = made.manifests[SCOPE]
    with pytest.raises(CorruptionError):
        store.open(OTHER, manifest.view, manifest.id)
    assert list(store.files(OTHER)) == []
    build(store, made, OTHER)
    assert store.collect(OTHER, (), time.time() + 60)
    assert flights(store, made, EWR) == [28 * 24 - 1]


def test_erasing_a_tenant_takes_all_of_it_and_nothing_of_another(opening: Callable[[], Store], made: Made) -> None:
    store = opening()
    build(store, made)
    build(store, made, OTHER)
    assert store.erase(OTHER.tenant) > 0
    assert store.scopes() == [SCOPE]
    assert list(opening().files(OTHER)) == []
    assert flights(opening(), made, EWR) == [28 * 24 - 1]
    assert store.erase(OTHER.tenant) == 0, "once more changes nothing"


def test_a_snapshot_that_is_not_there_is_corrupt_and_never_null(store: Store, made: Made) -> None:
    manifest = made.manifests[SCOPE]
    with pytest.raises(CorruptionError, match=r"cannot be used|no seal"):
        store.open(SCOPE, manifest.view, manifest.id)
    with pytest.raises(CorruptionError):
        list(store.values(SCOPE, manifest.view, manifest.id))
    with pytest.raises(CorruptionError):
        store.key_of(SCOPE, manifest.view, manifest.id)


def test_a_build_that_breaks_off_leaves_nothing_that_is_read(store: Store, made: Made) -> None:
    manifest = made.manifests[SCOPE]
    # The first file is read while the entities are written: what is there before it ends is half a snapshot.
    broken = msgspec.structs.replace(manifest, files=(manifest.files[0], manifest.files[2], manifest.files[2]))
    with pytest.raises(Exception, match=r"tile|Binder|column"):
        store.build(broken, made.spec, made.lake)
    with pytest.raises(CorruptionError):
        store.open(SCOPE, manifest.view, manifest.id)
    store.collect(SCOPE, (), time.time() + 60)
    build(store, made)
    assert flights(store, made, EWR) == [28 * 24 - 1]


def test_collecting_spares_what_is_kept_and_what_is_young(opening: Callable[[], Store], made: Made) -> None:
    store = opening()
    view, snapshot = build(store, made)
    assert store.collect(SCOPE, [(view, snapshot)], time.time() + 60) == []
    assert store.collect(SCOPE, (), time.time() - 60) == []
    assert flights(opening(), made, EWR) == [28 * 24 - 1]
    assert store.collect(SCOPE, (), time.time() + 60)
    with pytest.raises(CorruptionError):
        opening().open(SCOPE, view, snapshot)
    assert store.collect(SCOPE, (), time.time() + 60) == []
    build(store, made)
    assert flights(opening(), made, EWR) == [28 * 24 - 1]


def test_what_is_built_again_counts_as_young(store: Store, made: Made) -> None:
    build(store, made)
    built = time.time()
    deadline = time.monotonic() + 10
    while time.time() < built + 1.1:  # the coarsest clock among the stores counts seconds
        assert time.monotonic() < deadline
        store.build(made.manifests[SCOPE], made.spec, made.lake)
    store.build(made.manifests[SCOPE], made.spec, made.lake)
    assert store.collect(SCOPE, (), built + 0.05) == []


def test_sealing_anew_changes_no_value_and_disturbs_no_reader(store: Store, made: Made, codec: Codec) -> None:
    view, snapshot = build(store, made)
    held = store.open(SCOPE, view, snapshot)
    before = dict(store.values(SCOPE, view, snapshot))
    assert store.key_of(SCOPE, view, snapshot) == codec.current_key(SCOPE)
    if isinstance(codec, AesGcmCodec):
        codec._keys.current = "k2"
    store.reseal(SCOPE, view, snapshot)
    assert store.key_of(SCOPE, view, snapshot) == codec.current_key(SCOPE)
    assert dict(store.values(SCOPE, view, snapshot)) == before
    store.collect(SCOPE, [(view, snapshot)], time.time() + 60)
    as_of = microseconds(NOON)
    (state,) = held.states([StateQuery(store.entity_hash("route", EWR), as_of)])
    assert held.evaluator.row(state, (), as_of).values[held.evaluator.names.index("flights")] == 28 * 24 - 1


def test_clear_keys_do_not_show(store: Store, made: Made, codec: Codec) -> None:
    view, snapshot = build(store, made)
    keys = list(store.values(SCOPE, view, snapshot))
    assert len(keys) > 50
    assert not any(b"SFO" in key or b"SFO" in value for key, value in keys)
