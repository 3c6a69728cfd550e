"""Publishing: one flip for many views, races, rollback, garbage, and definition versions side by side."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from tests.integration.features.online.test_lookup import EWR, departure
from tests.integration.features.world import NOON, World, minutes

from antiphon.catalog.features.publications import Publication, Publications
from antiphon.core.errors import CorruptionError, NotFoundError
from antiphon.definitions.feature_view import FeatureViewSpec


def test_publishing_what_is_current_changes_nothing(world: World) -> None:
    first = world.publish(NOON)
    again = world.publish(NOON)
    assert again == first
    assert len(world.publications.list(world.scope)) == 1


def test_a_snapshot_is_the_same_whatever_the_order_of_its_rows(world: World, tmp_path: Path) -> None:
    from tests.integration.features.desk import history, write

    first = world.materialize("congestion", NOON)
    write(tmp_path / "departures.parquet", history()[::-1])
    second = world.materialize("congestion", NOON)
    assert second.logical_hash == first.logical_hash
    assert second.id == first.id
    assert second.source_hash != first.source_hash
    changed = history()
    changed[-1]["dep_delay"] += 0.01
    changed[3]["dep_delay"] += 0.01
    write(tmp_path / "departures.parquet", changed)
    assert world.materialize("congestion", NOON).logical_hash != first.logical_hash


def test_a_manifest_says_how_it_was_made(world: World) -> None:
    world.append("departures", departure(9001, -5, 3.0))
    manifest = world.materialize("congestion", NOON)
    assert manifest.rows_in == 1_441
    assert manifest.rows_out == 2
    assert manifest.stream_offset == 1
    assert manifest.statistics["departures_2h"].maximum == 2
    assert manifest.statistics["delay_2h"].null_share == 0.0
    for file in manifest.files:
        world.lake.verify(file.path, file.sha256)
    with (world.folder / "lake" / manifest.files[0].path).open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(CorruptionError, match="changed"):
        world.lake.verify(manifest.files[0].path, manifest.files[0].sha256)


def test_a_loser_rebases_and_both_views_are_current(world: World) -> None:
    made = {view: (world.materialize(view, NOON), world.specs[view]) for view in world.specs}
    barrier = threading.Barrier(2)
    published: list[Publication | None] = []

    def publish(view: str) -> None:
        barrier.wait(timeout=20)
        published.append(world.publisher.publish([made[view]], reason="race", principal=view))

    threads = [threading.Thread(target=publish, args=(view,)) for view in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    current = world.publications.current(world.scope)
    assert current is not None
    assert current.number == 2
    assert current.snapshots == {spec.key: manifest.id for manifest, spec in made.values()}


def test_a_publication_whose_publisher_was_killed_is_served_when_it_is_made_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.publish(NOON - minutes(60))
    publications = Publications(world.database, notice=0.001)
    made = [(world.materialize("congestion", NOON), world.specs["congestion"])]
    monkeypatch.setattr(world.catalog, "publications", publications)

    def killed(announced: Publication) -> Publication:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(publications, "serve", killed)
        with pytest.raises(KeyboardInterrupt):
            world.publisher.publish(made, reason="test", principal="tester")
    found = publications.online(world.scope)
    assert found.served is not None
    assert (found.served.number, [one.number for one in found.announced]) == (1, [2])
    world.publisher.publish(made, reason="test", principal="tester")
    found = publications.online(world.scope)
    assert found.served is not None
    assert (found.served.number, found.announced) == (2, ())


def test_an_older_snapshot_never_replaces_a_newer_one(world: World) -> None:
    old = (world.materialize("congestion", NOON - minutes(60)), world.specs["congestion"])
    world.publish(NOON, "congestion")
    current = world.publisher.publish([old], reason="late", principal="slow worker")
    assert current is not None
    assert current.number == 1


def test_readers_never_see_a_mix_while_publications_flip(world: World) -> None:
    first = world.publish(NOON - minutes(60))
    second = world.publish(NOON)
    versions = {n: s.definition_version for n, s in world.specs.items()}
    sets = {frozenset(publication.snapshots.values()): publication.number % 2 for publication in (first, second)}
    stop = threading.Event()
    numbers: list[int] = []
    torn: list[object] = []

    def read() -> None:
        reader = world.new_reader()
        while not stop.is_set():
            vector = reader.read(versions, EWR, NOON)
            seen = frozenset(item.snapshot for item in vector.values.values())
            if sets.get(seen) != vector.publication % 2:
                torn.append((vector.publication, seen))
            if numbers and vector.publication < numbers[-1]:
                torn.append(("went back", numbers[-1], vector.publication))
            numbers.append(vector.publication)

    thread = threading.Thread(target=read)
    thread.start()
    for turn in range(30):
        world.publications.rollback(world.scope, 1 + turn % 2, expected=2 + turn, reason="flip", principal="test")
    stop.set()
    thread.join(timeout=30)
    assert not torn
    assert numbers


def test_rollback_brings_old_values_back_as_a_new_publication(world: World) -> None:
    world.publish(NOON - minutes(60))
    old = world.read(NOON, **EWR)
    world.publish(NOON)
    publication = world.publisher.rollback(1, reason="drift", principal="tester")
    found = world.read(NOON, **EWR)
    assert publication.number == 3
    assert found.publication == 3
    assert found.values == old.values
    with pytest.raises(NotFoundError):
        world.publisher.rollback(99, reason="drift", principal="tester")


def test_rollback_after_garbage_rebuilds_files_and_restores_streamed_events(world: World) -> None:
    world.publish(NOON - minutes(60))
    world.append("departures", departure(9001, -30, 11.0))
    world.consume()
    expected = world.read(NOON, **EWR)
    assert expected.values["congestion.departures_2h"].value == 2
    world.publish(NOON)
    world.clock.advance(timedelta(days=400_000))  # files carry the machine's time; the grace is long over
    collected = world.publisher.collect_garbage(keep=1)
    assert collected.events == 2
    assert len(collected.online) == 4  # two files and their seals
    assert collected.lake == ()
    world.publisher.rollback(1, reason="drift", principal="tester")
    found = world.read(NOON, **EWR)
    assert found.publication == 3
    assert found.values == expected.values


def test_garbage_is_spared_while_it_may_still_be_published(world: World) -> None:
    published = world.publish(NOON).snapshots[world.specs["congestion"].key]
    kept = {file.path for file in world.snapshots.get(world.scope, published).files}
    manifest = world.materialize("congestion", NOON - minutes(5))
    world.clock.advance(timedelta(days=400_000))
    spared = world.publisher.collect_garbage(grace=timedelta(days=500_000))
    assert spared.lake == ()
    collected = world.publisher.collect_garbage()
    assert collected.lake
    assert set(collected.lake) == {file.path for file in manifest.files} - kept
    assert world.read(NOON, **EWR).publication == 1


def test_two_definition_versions_are_served_side_by_side(world: World) -> None:
    spec = world.specs["congestion"]
    feature = msgspec.structs.replace(spec.features["departures_2h"], window=4 * 3_600_000_000)
    changed: FeatureViewSpec = msgspec.structs.replace(
        spec, features={**spec.features, "departures_2h": feature}, definition_version="f" * 16
    )
    world.publish(NOON)
    world.definitions.put(world.scope, changed)
    world.specs["congestion"] = changed
    world.publish(NOON, "congestion")
    new = world.reader.read({"congestion": changed.definition_version}, EWR, NOON)
    old = world.reader.read({"congestion": spec.definition_version}, EWR, NOON)
    assert (old.values["congestion.departures_2h"].value, new.values["congestion.departures_2h"].value) == (1, 3)
    assert old.publication == new.publication == 2


def test_two_tenants_share_nothing(tmp_path: Path) -> None:
    from tests.integration.features.desk import history, specs, write

    from antiphon.core.errors import FeatureUnavailableError
    from antiphon.core.scope import Scope

    write(tmp_path / "departures.parquet", history())
    views = specs(tmp_path / "departures.parquet")
    one = World(tmp_path, *views, scope=Scope("one", "dev"))
    two = World(tmp_path, *views, scope=Scope("two", "dev"))
    try:
        one.publish(NOON)
        one.append("departures", departure(9001, -5, 3.0))
        one.consume()
        with pytest.raises(FeatureUnavailableError):
            two.read(NOON, **EWR)
        two.publish(NOON)
        two.consume()
        assert one.read(NOON, **EWR).values["congestion.departures_2h"].value == 2
        assert two.read(NOON, **EWR).values["congestion.departures_2h"].value == 1
        assert [status.end for status in two.consumer.status(NOON)] == [0]
    finally:
        one.close()
        two.close()


def test_clear_keys_are_not_in_the_online_store(world: World) -> None:
    world.append("departures", departure(9001, 5, 3.0, origin="SECRETPLACE"))
    world.publish(NOON + minutes(30))
    world.append("departures", departure(9002, 40, 3.0, origin="OTHERSECRET"))
    world.consume()
    assert world.read(NOON + minutes(50), origin="OTHERSECRET", dest="SFO").values["congestion.latest"].value == 3.0
    for file in (world.folder / "online").rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert b"SECRETPLACE" not in content
            assert b"OTHERSECRET" not in content


def test_a_snapshot_whose_files_are_gone_is_not_recorded(world: World) -> None:
    """As when a refresh goes on after so long that they were collected."""
    made = world.materialize("congestion", NOON)
    (world.folder / "lake" / made.files[0].path).unlink()
    with pytest.raises(CorruptionError):
        world.publisher.publish([(made, world.specs["congestion"])], reason="test", principal="tester")
    assert world.snapshots.list(world.scope) == []
    assert world.publications.current(world.scope) is None
