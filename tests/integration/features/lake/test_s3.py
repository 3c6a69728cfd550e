"""The lake on a real S3-compatible server: features end to end, and what only a store far away can do wrong."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.harness.ports import free_port
from tests.integration.features.desk import history, specs, write
from tests.integration.features.online.test_lookup import EWR
from tests.integration.features.publication.test_publish import (  # noqa: F401  # the same tests, on this module's world
    test_garbage_is_spared_while_it_may_still_be_published,
    test_rollback_after_garbage_rebuilds_files_and_restores_streamed_events,
)
from tests.integration.features.world import NOON, World, minutes
from tests.servers import S3Process

from antiphon.core.errors import CorruptionError, InvalidInputError, SetupError, UnavailableError
from antiphon.core.scope import Scope
from antiphon.features.lake.bucket import S3Place
from antiphon.features.lake.s3 import S3Lake

SUFFIX = ".parquet"


@pytest.fixture(scope="module")
def process() -> Iterator[S3Process]:
    with S3Process() as started:
        started.make_bucket()
        yield started


Opening = Callable[..., S3Lake]


@pytest.fixture
def opening(process: S3Process, tmp_path: Path) -> Iterator[Opening]:
    opened: list[S3Lake] = []

    def lake(**changes: str) -> S3Lake:
        place = S3Place(changes.pop("bucket", process.bucket), tmp_path.name, changes.pop("endpoint", process.endpoint))
        keys = {"access_key": process.access_key, "secret_key": process.secret_key} | changes
        opened.append(S3Lake(place, scratch=tmp_path / "scratch", timeout=3.0, **keys))
        return opened[-1]

    yield lake
    for one in opened:
        one.close()


@pytest.fixture
def world(opening: Opening, tmp_path: Path) -> Iterator[World]:
    write(tmp_path / "departures.parquet", history())
    made = World(tmp_path, *specs(tmp_path / "departures.parquet"), lake=opening())
    yield made
    made.close()


def put(lake: S3Lake, content: bytes = b"content") -> str:
    with lake.writing(Scope(), SUFFIX) as draft:
        draft.write(content)
    return draft.path


def test_features_are_published_from_the_lake_and_collected(world: World) -> None:
    first = world.publish(NOON - minutes(60))
    assert world.read(NOON - minutes(60), **EWR).values["congestion.departures_2h"].value == 2
    files = set(world.lake.files(world.scope))
    assert len(files) == 6
    manifests = [world.snapshots.get(world.scope, snapshot) for snapshot in first.snapshots.values()]
    assert files == {file.path for manifest in manifests for file in manifest.files}
    for manifest in manifests:
        for file in manifest.files:
            world.lake.verify(file.path, file.sha256)
    # The online files go; what the lake keeps brings them back.
    world.online.forget(world.scope, ())
    assert world.online.collect(world.scope, (), time.time() + 60)
    world.publish(NOON - minutes(60))
    assert world.read(NOON - minutes(60), **EWR).values["congestion.departures_2h"].value == 2


def test_what_was_changed_behind_the_lake_is_not_read(process: S3Process, opening: Opening) -> None:
    lake = opening()
    path = put(lake, b"what it was")
    name = {"Bucket": process.bucket, "Key": f"{lake.place.prefix}/{path}"}
    process.client().put_object(**name, Body=b"what it is not")
    with pytest.raises(CorruptionError, match="changed"):
        lake.open(path)
    process.client().delete_object(**name)
    with pytest.raises(CorruptionError, match="has no file"):
        lake.open(path)


def test_a_bucket_that_is_not_there_is_named(opening: Opening) -> None:
    lake = opening(bucket="nowhere")
    for asking in (lambda: put(lake), lambda: lake.open(f"default/dev/ab/{'ab' * 32}{SUFFIX}"), lake.describe):
        with pytest.raises(SetupError, match="no bucket 'nowhere'"):
            asking()


@pytest.mark.parametrize("wrong", ["other", "unknown", "secret"])
def test_who_may_not_is_told_what_to_set(process: S3Process, opening: Opening, wrong: str) -> None:
    path = put(opening())
    keys = {
        "other": {"access_key": process.other_access_key, "secret_key": process.other_secret_key},
        "unknown": {"access_key": "NOBODY", "secret_key": "nothing"},
        "secret": {"secret_key": "not the secret"},
    }[wrong]
    lake = opening(**keys)
    for asking in (lambda: put(lake, b"more"), lambda: lake.open(path), lake.describe):
        with pytest.raises(SetupError, match="refuses access") as refused:
            asking()
        assert "lake_secret_key_variable" in str(refused.value.next_step)
        assert "not the secret" not in str(refused.value)
    assert list(opening().files(Scope())) == [path]
    assert list((lake.scratch()).parent.glob(f"*{SUFFIX}")) == []


def test_a_store_that_is_away_is_said_and_nothing_is_left(opening: Opening) -> None:
    lake = opening(endpoint=f"http://127.0.0.1:{free_port()}")
    for asking in (lambda: put(lake), lambda: lake.open(f"default/dev/ab/{'ab' * 32}{SUFFIX}"), lake.describe):
        with pytest.raises(UnavailableError, match="does not answer") as away:
            asking()
        assert away.value.http_status == 503
    assert list(lake.scratch().parent.glob(f"*{SUFFIX}")) == []


def test_a_store_killed_while_a_snapshot_is_made_leaves_the_previous_one(tmp_path: Path) -> None:
    process = S3Process()
    process.start()
    process.make_bucket()
    try:
        write(tmp_path / "departures.parquet", history())
        lake = S3Lake(
            S3Place(process.bucket, "", process.endpoint), scratch=tmp_path / "scratch",
            access_key=process.access_key, secret_key=process.secret_key, timeout=3.0,
        )  # fmt: skip
        world = World(tmp_path, *specs(tmp_path / "departures.parquet"), lake=lake)
        world.publish(NOON - minutes(60))
        before = world.read(NOON, **EWR)
        uploading, uploads = lake._upload, []

        def upload(*arguments: object) -> None:
            uploads.append(arguments)
            if len(uploads) == 2:
                process.kill()
            uploading(*arguments)  # type: ignore[arg-type]

        lake._upload = upload  # type: ignore[method-assign]
        with pytest.raises(UnavailableError):
            world.publish(NOON)
        assert world.read(NOON, **EWR) == before
        process.start()
        assert world.publish(NOON).number == 2
        assert world.read(NOON, **EWR).publication == 2
        world.clock.advance(timedelta(days=400_000))
        world.publisher.collect_garbage(keep=1)
        world.publisher.rollback(1, reason="drift", principal="t")
        assert world.read(NOON, **EWR).values == before.values
        world.close()
    finally:
        lake.close()
        process.remove()


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("s3:///prefix", "names no bucket"),
        ("https://bucket/prefix", "names no bucket"),
        ("s3://key:secret@bucket/prefix", "holds credentials"),
        ("s3://bucket/prefix?secret_key=abc", "holds credentials"),
        ("s3://bucket/prefix?endpont=http://h", "'endpont' is no option"),
        ("s3://bucket/prefix?endpoint=h:9000", "is no endpoint"),
    ],
)
def test_a_url_that_is_wrong_is_refused_by_name(url: str, problem: str) -> None:
    with pytest.raises(InvalidInputError, match=problem) as refused:
        S3Place.of(url)
    assert "secret_key=abc" not in str(refused.value)
    assert "key:secret" not in str(refused.value)


def test_a_url_says_where() -> None:
    place = S3Place.of("s3://bucket/a/b/?endpoint=http://127.0.0.1:7480&region=eu-1")
    assert place == S3Place("bucket", "a/b", "http://127.0.0.1:7480", "eu-1")
    assert place.root == "bucket/a/b"
    assert S3Place.of("s3://bucket").root == "bucket"
