"""The online store on a real Redis: everything that holds of the embedded one, and what only a server can do wrong."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from tests.harness.partitions import apply_through
from tests.integration.features.desk import ORIGIN, flight, history, specs, write
from tests.integration.features.online.test_lookup import (  # noqa: F401  # the same tests, on this module's world
    EWR,
    departure,
    test_a_snapshot_answers_as_of_its_moment,
    test_a_streamed_event_counts_from_when_it_is_available_and_due,
    test_an_entity_first_seen_in_the_stream_is_known,
    test_an_event_already_in_the_snapshot_stays_hidden_until_it_is_available,
    test_an_event_told_by_history_and_log_counts_once,
    test_an_older_moment_is_answered_without_what_came_later,
    test_an_unknown_entity_has_no_values,
    test_events_without_keys_are_counted_and_left_out,
    test_many_entities_and_moments_come_from_one_publication,
    test_redelivery_and_a_second_consumer_change_nothing,
    test_what_cannot_be_read_says_so,
    test_without_the_catalog_the_leased_publication_is_served_and_said_so,
)
from tests.integration.features.publication.test_publish import (  # noqa: F401
    test_a_loser_rebases_and_both_views_are_current,
    test_an_older_snapshot_never_replaces_a_newer_one,
    test_garbage_is_spared_while_it_may_still_be_published,
    test_readers_never_see_a_mix_while_publications_flip,
    test_rollback_brings_old_values_back_as_a_new_publication,
    test_two_definition_versions_are_served_side_by_side,
)
from tests.integration.features.publication.test_rollback import (  # noqa: F401
    test_a_collection_decided_before_a_rollback_takes_no_events_from_it_although_both_are_killed,
)
from tests.integration.features.world import NOON, World, minutes
from tests.servers import RedisProcess, until
from tests.unit.governance.encryption.test_sealing import Keys

from antiphon import Source, col, distinct, feature_view, frequency, quantile, target
from antiphon.core.errors import CorruptionError, InvalidInputError, SetupError, UnavailableError
from antiphon.core.scope import Scope
from antiphon.features.online.overlay_records import OverlayEvent, view_prefix
from antiphon.features.online.redis import writer as redis_writer
from antiphon.features.online.redis.layout import SnapshotKeys, decode_seal, encode_seal
from antiphon.features.online.redis.overlay import RedisOverlay
from antiphon.features.online.redis.server import RedisServer
from antiphon.features.online.redis.store import RedisStore
from antiphon.features.online.redis.writer import Scripts, packed_script
from antiphon.features.online.snapshots.encoding import decode_meta, encode
from antiphon.features.values import StreamedEvent
from antiphon.governance.encryption.sealing import AesGcmCodec

FAR = timedelta(days=400_000)


@pytest.fixture(scope="module")
def process() -> Iterator[RedisProcess]:
    started = RedisProcess(
        "redis-server", "--appendonly", "yes", "--appendfsync", "always", "--enable-debug-command", "yes"
    )
    started.start()
    yield started
    started.remove()


@pytest.fixture
def server(process: RedisProcess) -> Iterator[RedisServer]:
    opened = RedisServer(process.url, timeout=1.0)
    opened.client.flushall()
    yield opened
    opened.close()


def world_on(server: RedisServer, folder: Path) -> World:
    scope = Scope()
    departures = folder / "departures.parquet"
    if not departures.exists():
        write(departures, history())
    return World(folder, *specs(departures), online=RedisStore(server, b"k" * 32), overlay=RedisOverlay(server, scope))


@pytest.fixture
def world(server: RedisServer, tmp_path: Path) -> Iterator[World]:
    made = world_on(server, tmp_path)
    yield made
    made.close()


def test_encodings_and_sketches_are_what_a_file_gives(server: RedisServer, tmp_path: Path) -> None:
    departures = tmp_path / "departures.parquet"
    write(departures, history())
    source = Source.table("flown", path=str(departures), event_time="scheduled", available_at="departed", event_id="id")

    @feature_view(entity=ORIGIN, source=source)
    class Encoded:
        share = frequency(window="7d")
        late = target(col.dep_delay > 15, smoothing=20, window="7d")
        ever = target(col.dep_delay, smoothing=20, window=None, scale="0.01")
        delays = distinct(col.dep_delay, window="3d")
        median = quantile(col.dep_delay, q=0.5, window="3d", scale="0.01")

    near, far = tmp_path / "near", tmp_path / "far"
    near.mkdir()
    far.mkdir()
    file = World(near, Encoded.spec())
    remote = World(far, Encoded.spec(), online=RedisStore(server, b"k" * 32), overlay=RedisOverlay(server, Scope()))
    for one in (file, remote):
        one.publish(NOON)
    for origin in ("EWR", "LGA", "never seen"):
        for at in (-6 * 24 * 60, -12 * 60 + 1, -12 * 60, 0, 11 * 60):
            near_values, far_values = (
                {name: item.value for name, item in one.read(NOON + minutes(at), origin=origin).values.items()}
                for one in (file, remote)
            )
            assert near_values == far_values
            assert near_values["encoded.late"] is not None
    assert file.read(NOON, origin="EWR").values["encoded.share"].value == pytest.approx(0.5, abs=0.01)
    for one in (file, remote):
        one.close()


def departures_2h(world: World, at: float = 0, **keys: str) -> object:
    return world.read(NOON + minutes(at), **{**EWR, **keys}).values["congestion.departures_2h"].value


def keys_of(server: RedisServer) -> set[str]:
    return {key.decode() for key in server.client.scan_iter(count=1_000)}


def sent(server: RedisServer) -> int:
    """How often clients have sent something: reads from their sockets, by the server's own count (a few kilobytes that
    are sent at once are read at once)."""
    return int(server.client.info("stats")["total_reads_processed"])


def test_many_entities_cost_one_round_trip_a_view_and_one_for_the_stream(world: World, server: RedisServer) -> None:
    world.publish(NOON)
    world.append("departures", departure(9001, 5, -3.0))
    world.consume()
    versions = {name: spec.definition_version for name, spec in world.specs.items()}
    keys = [{"origin": f"A{n}", "dest": "SFO"} for n in range(8)] + [EWR, {**EWR, "origin": "LGA"}]
    world.reader.read(versions, {"origin": "JFK", "dest": "LAX"}, NOON)
    before = sent(server)
    cost_of_asking = sent(server) - before
    before = sent(server)
    vectors = world.reader.read_many(versions, keys, NOON + minutes(0.5))
    # One more of each view for the entity of which something streamed in.
    assert sent(server) - before - cost_of_asking <= 1 + 2 * len(versions)
    assert [vector.values["congestion.departures_2h"].value for vector in vectors[8:]] == [1, 1]
    before = sent(server)
    world.reader.read_many(versions, [{"origin": f"B{n}", "dest": "SFO"} for n in range(8)], NOON + minutes(0.5))
    assert sent(server) - before - cost_of_asking <= 1 + len(versions)
    # What a snapshot said once it need not say again.
    before = sent(server)
    assert world.reader.read_many(versions, keys, NOON + minutes(0.5)) == vectors
    assert sent(server) - before - cost_of_asking == 1


def test_keys_say_whose_they_are_and_name_no_entity(world: World, server: RedisServer) -> None:
    world.publish(NOON)
    world.append("departures", departure(9001, 5, -3.0, origin="PLANTED"))
    world.consume()
    found = keys_of(server)
    assert all(key.startswith("default:dev:") for key in found)
    assert not any("EWR" in key or "PLANTED" in key for key in found)
    seals = [key for key in found if key.endswith(":seal")]
    assert len(seals) == 2
    assert not any(key.endswith(":building") for key in found)


def test_rollback_after_garbage_rebuilds_and_restores_streamed_events(world: World, server: RedisServer) -> None:
    world.publish(NOON - minutes(60))
    world.append("departures", departure(9001, -30, 11.0))
    world.consume()
    expected = world.read(NOON, **EWR)
    world.publish(NOON)
    world.clock.advance(FAR)
    collected = world.publisher.collect_garbage(keep=1)
    assert collected.events == 2
    assert len(collected.online) == 2
    assert len([key for key in keys_of(server) if key.endswith(":seal")]) == 2
    world.publisher.rollback(1, reason="drift", principal="tester")
    found = world.read(NOON, **EWR)
    assert (found.publication, found.values) == (3, expected.values)


@pytest.mark.parametrize("harm", ["missing", "other", "garbled"])
def test_a_broken_seal_means_the_publication_before_never_null(world: World, server: RedisServer, harm: str) -> None:
    world.publish(NOON - minutes(60))
    old = world.read(NOON, **EWR)
    second = world.publish(NOON)
    spec = world.specs["congestion"]
    seal = f"default:dev:congestion:{second.snapshots[spec.key]}:seal"
    if harm == "missing":
        server.client.delete(seal)
    elif harm == "other":
        server.client.set(
            seal, server.client.get(f"default:dev:congestion:{old.values['congestion.latest'].snapshot}:seal")
        )
    else:
        server.client.set(seal, b"\xc1 not a seal")
    world.reader = world.new_reader()
    world.online.forget(world.scope, ())
    found = world.read(NOON, **EWR)
    assert found.publication == 1
    assert found.values["congestion.departures_2h"] == old.values["congestion.departures_2h"]
    if harm == "missing":
        world.publish(NOON)  # It is current already; what is missing is built.
        assert world.read(NOON, **EWR).publication == 2


def test_a_snapshot_that_vanishes_under_an_opened_reader_is_noticed(world: World, server: RedisServer) -> None:
    world.publish(NOON - minutes(60))
    world.publish(NOON)
    assert departures_2h(world) == 1
    server.client.flushall()
    # An entity it has not read yet: the server would say that it has no such key.
    with pytest.raises(UnavailableError, match="No publication can be read"):
        departures_2h(world, origin="LGA")
    world.publisher.publish(
        [(world.materialize(v, NOON), world.specs[v]) for v in world.specs], reason="", principal="t"
    )
    assert departures_2h(world, origin="LGA") == 1


def test_a_lost_tile_is_corrupt_and_not_nothing(world: World, server: RedisServer) -> None:
    world.publish(NOON)
    for key in keys_of(server):
        if key.startswith("default:dev:congestion:snap_") and len(key.rpartition(":")[2]) == 2 * (16 + 8):
            server.client.delete(key)
    assert departures_2h(world) == 1, "its finished row needs no tile"
    with pytest.raises(UnavailableError, match="the events of tile"):
        world.read(NOON - minutes(1), view="congestion", origin="EWR")


def test_finished_rows_count_only_as_long_as_their_build_is_sealed(world: World, server: RedisServer) -> None:
    first = world.publish(NOON)
    (rows,) = (key for key in keys_of(server) if key.startswith("default:dev:congestion:") and key.endswith(":rows"))
    assert server.client.hget(rows, "s") == b"1"
    manifest = world.snapshots.get(world.scope, first.snapshots[world.specs["congestion"].key])
    opened = world.online.open(world.scope, "congestion", manifest.id)
    (wanted,) = opened.finished(world.online.entity_hashes("origin", [["EWR"]]))
    assert wanted is not None
    # Sealed anew, it is another build, and a reader that knew the one before goes on with it.
    world.online.reseal(world.scope, "congestion", manifest.id)
    assert not server.client.hexists(rows, "s")
    assert opened.finished(world.online.entity_hashes("origin", [["EWR"]])) == [wanted]
    (again,) = (
        key
        for key in keys_of(server)
        if key.startswith("default:dev:congestion:") and key.endswith(":rows") and key != rows
    )
    server.client.delete(again)
    with pytest.raises(CorruptionError, match="its finished rows are missing"):
        opened.finished(world.online.entity_hashes("origin", [["LGA"]]))
    world.online.collect(world.scope, (), time.time() + 60)
    with pytest.raises(CorruptionError, match="it has no seal"):
        opened.finished(world.online.entity_hashes("origin", [["LGA"]]))


def test_a_snapshot_of_another_format_is_told_and_built_anew(world: World, server: RedisServer) -> None:
    first = world.publish(NOON)
    spec = world.specs["congestion"]
    place = SnapshotKeys(world.scope, "congestion", first.snapshots[spec.key])
    seal = decode_seal(server.client.get(place.seal))
    meta = msgspec.structs.replace(decode_meta(seal.meta), format=2)
    server.client.set(place.seal, encode_seal(msgspec.structs.replace(seal, format=2, meta=encode(meta))))
    world.online.forget(world.scope, ())
    with pytest.raises(CorruptionError, match="of another format"):
        world.online.open(world.scope, "congestion", place.snapshot)
    world.publish(NOON)
    world.reader = world.new_reader()
    assert departures_2h(world) == 1


def test_a_builder_killed_in_the_middle_leaves_nothing_that_is_read(
    server: RedisServer, process: RedisProcess, tmp_path: Path
) -> None:
    others = [flight(n, NOON - minutes(30), 5.0, f"A{n % 40}") for n in range(10_000, 10_080)]
    write(tmp_path / "departures.parquet", history() + others)
    world = world_on(server, tmp_path)
    try:
        world.publish(NOON - minutes(60))
        before = world.read(NOON, **EWR)
        killed = 0
        for batches in (1, 20, 60):
            child = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.features.online.redis_child", process.url, str(tmp_path)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            assert child.stdin is not None
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            evals = int(server.client.info("commandstats").get("cmdstat_eval", {"calls": 0})["calls"])
            child.stdin.write("noon\n")
            child.stdin.flush()
            until(lambda e=evals, b=batches, c=child: _evals(server) >= e + b or c.poll() is not None)
            child.send_signal(signal.SIGKILL)
            child.wait(timeout=30)
            child.stdin.close()
            child.stdout.close()
            current = world.publications.current(world.scope)
            assert current is not None
            if current.number == 1:
                killed += 1
                seen = world.new_reader().read(
                    {name: spec.definition_version for name, spec in world.specs.items()}, EWR, NOON
                )
                assert (seen.publication, seen.values) == (1, before.values)
        assert killed >= 2, "it was never killed in the middle"
        publication = world.publish(NOON)
        for key, snapshot in publication.snapshots.items():
            assert len(list(world.online.values(world.scope, key.partition("@")[0], snapshot))) > 2
        # Once their marks have run out, one collection removes what the killed left.
        for key in keys_of(server):
            if key.endswith(":building"):
                server.client.delete(key)
        world.publisher.collect_garbage()
        builds = {key.rpartition(":")[0] for key in keys_of(server) if ":snap_" in key and not key.endswith(":seal")}
        assert len(builds) == 2 * len(world.publications.list(world.scope)), builds
        assert server.client.hlen("default:dev:@builds") == len(builds)
    finally:
        world.close()


def _evals(server: RedisServer) -> int:
    return int(server.client.info("commandstats").get("cmdstat_eval", {"calls": 0})["calls"])


def test_two_that_build_the_same_snapshot_do_not_mix(world: World, server: RedisServer) -> None:
    manifests = {view: world.materialize(view, NOON) for view in world.specs}
    barrier = threading.Barrier(3)
    built: list[bool] = []

    def build() -> None:
        store = RedisStore(server, b"k" * 32)
        barrier.wait(timeout=20)
        built.extend([store.build(manifest, world.specs[view], world.lake) for view, manifest in manifests.items()])

    threads = [threading.Thread(target=build) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sum(built) == 2, "each of the two views was built once"
    for view, manifest in manifests.items():
        list(world.online.values(world.scope, view, manifest.id))
    kept = [(view, manifest.id) for view, manifest in manifests.items()]
    world.online.collect(world.scope, kept, time.time() + 60)
    builds = {key.rpartition(":")[0] for key in keys_of(server) if ":snap_" in key and not key.endswith(":seal")}
    assert len(builds) == 2


def test_a_build_that_stood_still_too_long_is_not_sealed(
    world: World, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its mark ran out and a collection removed what it had written: what comes after must not be half a snapshot."""
    manifest = world.materialize("congestion", NOON)
    writing = redis_writer.RedisWriter.seal

    def late(writer: redis_writer.RedisWriter, instead_of: bytes = b"") -> bool:
        server.client.delete(*[key for key in keys_of(server) if key.endswith(":building")])
        world.online.collect(world.scope, (), time.time() - 3_600)
        return writing(writer, instead_of)

    monkeypatch.setattr(redis_writer.RedisWriter, "seal", late)
    with pytest.raises(UnavailableError, match="was given up"):
        world.online.build(manifest, world.specs["congestion"], world.lake)
    monkeypatch.undo()
    assert keys_of(server) == set()
    assert world.online.build(manifest, world.specs["congestion"], world.lake)


def test_a_server_that_is_away_is_said_and_one_that_comes_back_is_used(process: RedisProcess, tmp_path: Path) -> None:
    server = RedisServer(process.url, timeout=0.3)
    server.client.flushall()
    world = world_on(server, tmp_path)
    try:
        world.publish(NOON)
        world.append("departures", departure(9001, 5, -3.0))
        world.consume()
        assert departures_2h(world, 10) == 2
        process.pause()
        with pytest.raises(UnavailableError, match="does not answer") as hung:
            departures_2h(world, 10)
        assert hung.value.http_status == 503
        assert "doctor" in str(hung.value.next_step)
        started = time.monotonic()
        with pytest.raises(UnavailableError, match="a moment ago"):
            departures_2h(world, 10)
        assert time.monotonic() - started < 0.25, "the next request waits for a timeout too"
        process.signal(signal.SIGCONT)
        until(lambda: _reads(world))
        process.kill()
        with pytest.raises(UnavailableError, match="does not answer"):
            departures_2h(world, 10, origin="LGA")
        world.append("departures", departure(9002, 6, -3.0))
        with pytest.raises(UnavailableError):
            world.consume()
        process.start()
        until(lambda: _reads(world))
        world.consume()
        assert departures_2h(world, 10) == 3
        assert departures_2h(world, 10, origin="LGA") == 1
    finally:
        world.close()
        server.close()


def _reads(world: World) -> bool:
    try:
        return departures_2h(world, 10) == 2
    except UnavailableError:
        return False


def test_readers_never_see_null_or_a_mix_while_the_server_restarts(process: RedisProcess, tmp_path: Path) -> None:
    server = RedisServer(process.url, timeout=1.0)
    server.client.flushall()
    world = world_on(server, tmp_path)
    try:
        world.publish(NOON)
        stop = threading.Event()
        wrong: list[object] = []
        counts = {"read": 0, "away": 0}

        def read() -> None:
            while not stop.is_set():
                world.online.forget(world.scope, ())  # nothing is answered from memory
                try:
                    values = world.new_reader().read(versions, EWR, NOON).values
                except UnavailableError:
                    counts["away"] += 1
                    continue
                counts["read"] += 1
                seen = (values["congestion.departures_2h"].value, values["route_history.flights"].value)
                if seen != (1, 28 * 24 - 1):
                    wrong.append(seen)

        versions = {name: spec.definition_version for name, spec in world.specs.items()}
        threads = [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(3):
            at = dict(counts)
            until(lambda at=at: counts["read"] > at["read"] + 3)
            process.kill()
            until(lambda at=at: counts["away"] > at["away"])
            process.start()
        at = dict(counts)
        until(lambda: counts["read"] > at["read"] + 3)
        stop.set()
        for thread in threads:
            thread.join(timeout=30)
        assert not wrong
    finally:
        world.close()
        server.close()


def test_a_full_server_publishes_nothing_and_keeps_what_was(world: World, server: RedisServer) -> None:
    world.publish(NOON - minutes(60))
    before = world.read(NOON, **EWR)
    used = int(server.client.info("memory")["used_memory"])
    server.client.config_set("maxmemory", used + 1_000)
    try:
        with pytest.raises(UnavailableError, match="is full") as full:
            world.publish(NOON)
        assert "maxmemory" in str(full.value.next_step)
        world.append("departures", departure(9001, 5, -3.0))
        # What was begun is taken away again, and what the server uses falls by itself as well: now nothing fits.
        server.client.config_set("maxmemory", 1)
        with pytest.raises(UnavailableError, match="is full"):
            world.consume()
        assert world.read(NOON, **EWR) == before
    finally:
        server.client.config_set("maxmemory", 0)
    world.consume()
    assert world.publish(NOON).number == 2
    assert departures_2h(world, 10) == 2


def test_a_snapshot_of_another_layout_is_refused(world: World, server: RedisServer) -> None:
    """Its records would be missed where they are not, and an entity would look as if it had no values."""
    world.publish(NOON)
    for key in keys_of(server):
        if key.endswith(":seal"):
            seal = decode_seal(server.client.get(key))
            server.client.set(key, encode_seal(msgspec.structs.replace(seal, layout=1)))
    with pytest.raises(UnavailableError, match="No publication can be read"):
        world.read(NOON, **EWR)


def test_a_script_that_fails_leaves_no_answer_behind(server: RedisServer) -> None:
    scripts = Scripts(server, 4)
    told = [
        packed_script(script, [b"mark"], b"1", b"t:", [b"name"], [b"v"])
        for script in ("return 1", "return redis.error_reply('no')", "return 7", "return 0")
    ]
    assert all(map(scripts.send, told[:3]))
    with pytest.raises(UnavailableError, match="refused a command"), server.answering():
        scripts.finish()
    pool = server.bulk.connection_pool
    assert not pool._in_use_connections
    assert [server.bulk.get("nothing") for _ in range(3)] == [None] * 3
    assert scripts.send(told[3])
    assert not scripts.finish()


def test_a_server_that_evicts_is_refused(world: World, server: RedisServer) -> None:
    server.client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(SetupError, match="evicts any key"):
            world.publish(NOON)
        with pytest.raises(SetupError, match="evicts"):
            server.describe()
        assert keys_of(server) == set()
    finally:
        server.client.config_set("maxmemory-policy", "noeviction")


def test_errors_of_the_server_do_not_show_values(world: World, server: RedisServer) -> None:
    world.publish(NOON)
    world.append("departures", departure(9001, 5, -3.0))
    for key in list(keys_of(server)):
        if ":@overlay:" in key:
            server.client.delete(key)
    server.client.set("default:dev:@overlay:progress", "of another kind")
    with pytest.raises(UnavailableError, match="refused a command") as refused:
        world.consume()
    assert "WRONGTYPE" in str(refused.value)
    assert "HMGET" not in str(refused.value)


def test_a_password_is_asked_for_by_name_and_never_in_the_url() -> None:
    for url in ("redis://:secret@127.0.0.1/0", "redis://user:secret@127.0.0.1/0", "redis://h/0?password=secret"):
        with pytest.raises(InvalidInputError, match="holds a password") as held:
            RedisServer(url)
        assert "secret" not in str(held.value)
    with pytest.raises(InvalidInputError, match="no scheme"):
        RedisServer("http://127.0.0.1")


def test_who_has_no_password_is_told_what_to_set(tmp_path: Path) -> None:
    process = RedisProcess("redis-server", "--requirepass", "hunter2")
    process.start()
    try:
        for password in (None, "wrong"):
            refused = RedisServer(process.url, password)
            with pytest.raises(SetupError, match="refuses access") as error:
                RedisStore(refused, b"k").sealed(Scope(), "congestion", "snap_1")
            assert "online_password_variable" in str(error.value)
            refused.close()
        allowed = RedisServer(process.url, "hunter2")
        assert not RedisStore(allowed, b"k").sealed(Scope(), "congestion", "snap_1")
        assert allowed.describe().startswith("Redis ")
        allowed.close()
    finally:
        process.remove()


def test_two_tenants_share_nothing(server: RedisServer, tmp_path: Path) -> None:
    write(tmp_path / "departures.parquet", history())
    views = specs(tmp_path / "departures.parquet")
    scopes = (Scope("one", "dev"), Scope("two", "dev"))
    one, two = (
        World(tmp_path, *views, scope=scope, online=RedisStore(server, b"k" * 32), overlay=RedisOverlay(server, scope))
        for scope in scopes
    )
    try:
        one.publish(NOON)
        two.publish(NOON)
        one.append("departures", departure(9001, -5, 3.0))
        one.consume()
        two.consume()
        assert (departures_2h(one), departures_2h(two)) == (2, 1)
        assert RedisStore(server, b"k" * 32).scopes() == list(scopes)
        two.online.collect(two.scope, (), time.time() + 60)
        assert departures_2h(one) == 2
        assert ORIGIN.name == "origin"
    finally:
        one.close()
        two.close()


def test_what_is_written_under_an_old_key_between_two_passes_is_sealed_anew_too(server: RedisServer) -> None:
    """A writer that does not know yet that its key is being replaced: nothing of it is lost with that key."""
    view, entity = view_prefix("congestion@1"), b"e" * 16

    def written(offset: int) -> OverlayEvent:
        return OverlayEvent(view, entity, StreamedEvent(offset, offset, f"{offset:024x}", (offset,), offset))

    keys, behind = Keys(), Keys()
    behind.keys = keys.keys
    stale = RedisOverlay(server, Scope(), AesGcmCodec(behind))
    apply_through(stale, {view: 1}, [written(1)])
    keys.current = "k2"
    resealing = RedisOverlay(server, Scope(), AesGcmCodec(keys))
    passes = resealing._pass
    number = 0

    def pass_and_write(leaving: set[bytes]) -> int:
        nonlocal number
        resealed = passes(leaving)
        number += 1
        if number == 1:
            apply_through(stale, {view: 2}, [written(2)])
        return resealed

    resealing._pass = pass_and_write  # type: ignore[method-assign]
    assert resealing.reseal() == 2
    assert number == 2
    del keys.keys[Scope(), "k1"]
    reading = RedisOverlay(server, Scope(), AesGcmCodec(keys)).read([view], [(view, entity, 0)])
    assert [event.offset for event in reading.events[view, entity]] == [1, 2]
    assert not server.client.exists("default:dev:@overlay:retired")


def test_a_resealing_that_was_cut_off_is_finished_by_the_next(server: RedisServer) -> None:
    view, entity = view_prefix("congestion@1"), b"e" * 16
    keys = Keys()
    overlay = RedisOverlay(server, Scope(), AesGcmCodec(keys))
    event = OverlayEvent(view, entity, StreamedEvent(1, 1, "0", (1,), 1))
    apply_through(overlay, {view: 1}, [event])
    keys.current = "k2"
    cut = RedisOverlay(server, Scope(), AesGcmCodec(keys))

    def cut_off(leaving: set[bytes]) -> int:
        if server.client.exists("default:dev:@overlay:retired"):
            raise KeyboardInterrupt
        return 0

    cut._pass = cut_off  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        cut.reseal()
    fresh = RedisOverlay(server, Scope(), AesGcmCodec(keys))
    assert len(fresh.read([view], [(view, entity, 0)]).events[view, entity]) == 1, "readable half-way"
    assert fresh.reseal() == 1
    del keys.keys[Scope(), "k1"]
    reading = RedisOverlay(server, Scope(), AesGcmCodec(keys)).read([view], [(view, entity, 0)])
    assert len(reading.events[view, entity]) == 1
