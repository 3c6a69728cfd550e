"""What of a source belongs to a view's definition version."""

from __future__ import annotations

from pathlib import Path

import pytest

from antiphon import Entity, FileDrop, NatsSubject, PostgresTable, Source, col, count, feature_view, mean
from antiphon.definitions.source import SourceSpec
from antiphon.features.offline.compute import ComputeLimits, compute, files_of, relation_of


def version(source: Source) -> str:
    @feature_view(entity=Entity("o", ["origin"]), source=source)
    class V:
        n = count(window="2h")
        d = mean(col.dep_delay, window="2h", scale="0.01")

    return V.spec().definition_version


def test_a_view_keeps_the_version_that_it_had_in_older_releases() -> None:
    stream = Source.stream(
        "departures", history="x", event_time="at", available_at="known", event_id="id", where=col.a > 3
    )
    assert version(stream) == "9038b8457fca4ef8"
    assert version(Source.table("departures", path="x", event_time="at")) == "4af8fdccba1acf85"


def test_where_rows_lie_and_who_asks_is_no_part_of_it() -> None:
    here = Source.table("o", url="postgresql://a@h/d", table="t", password_variable="A", event_time="at")
    there = Source.table("o", url="postgresql://b@i/e", table="t", password_variable="B", event_time="at")
    other = Source.table("o", url="postgresql://a@h/d", table="u", password_variable="A", event_time="at")
    assert version(here) == version(there)
    assert version(here) != version(other)
    assert isinstance(here.spec(), SourceSpec)


@pytest.mark.parametrize("pattern", ["day.csv", "*.csv", "da[xy].csv"])
def test_a_folder_whose_name_looks_like_a_pattern_is_that_folder(tmp_path: Path, pattern: str) -> None:
    root = tmp_path / "orders [old]*"
    root.mkdir()
    (root / "day.csv").write_text("at\n2026-01-01\n")
    source = Source.table("o", path=pattern, event_time="at")
    assert source.missing_file(root) is None
    spec = source.spec(root)
    assert spec.missing_paths == ()
    assert spec.path is not None
    assert files_of(spec.path) == [root / "day.csv"]
    with compute(ComputeLimits()) as connection:
        assert len(connection.execute(f"FROM {relation_of(files_of(spec.path))}").fetchall()) == 1
    (root / "day.csv").unlink()
    assert source.missing_file(root) is not None
    assert spec.missing_paths == (spec.path,)


def test_a_stream_may_follow_a_place_which_is_no_part_of_its_meaning(tmp_path: Path) -> None:
    table = PostgresTable(url="postgresql://reader@db/shop", table="billing.payments", watermark="id")
    alone = Source.stream("payments", event_time="at", event_id="id")
    followed = Source.stream("payments", event_time="at", event_id="id", follow=table)
    assert list(followed.mistakes()) == []
    assert followed.spec().follow == table
    assert followed.spec().meaning() == alone.spec().meaning()
    assert table.place == "postgres db/shop billing.payments"
    assert PostgresTable("postgresql://u@a:1,b:2/shop", "t", "id").place == "postgres a:1,b:2/shop t"
    drop = Source.stream("visits", event_time="at", event_id="id", follow=FileDrop("inbox/*.csv"))
    found = drop.spec(tmp_path).follow
    assert isinstance(found, FileDrop)
    assert found.path == f"{tmp_path}/inbox/*.csv"


@pytest.mark.parametrize(
    ("follow", "said"),
    [
        (
            "postgresql://db/shop",
            "follow must be a PostgresTable, a NatsSubject or a FileDrop, not 'postgresql://db/shop'",
        ),
        (PostgresTable(url="postgresql://db/shop", table="a"), "watermark must name the column whose values grow"),
        (PostgresTable(url="postgresql://db/shop", watermark="a"), "table must name a text"),
        (PostgresTable(url="postgresql://u:p@db/shop", table="a", watermark="b"), "url holds a password"),
        (PostgresTable(url="mysql://db/shop", table="a", watermark="b"), "url must be postgresql://"),
        (PostgresTable(url="postgresql://db/shop", table="a b", watermark="b"), "'a b' is no table"),
        (PostgresTable(url="postgresql://db/shop", table="a", watermark="b", within="5"), "within must be a duration"),
        (PostgresTable(url="postgresql://db/shop", table="a", watermark="b", within="100ms"), "of 200ms or more"),
        (NatsSubject(url="http://bus", stream="A"), "url must be nats://"),
        (NatsSubject(url="nats://a:4222,b:x", stream="A"), "url: 'x' is no port"),
        (NatsSubject(url="nats://bus", stream="A.B"), "'A.B' is no name of a JetStream stream"),
        (NatsSubject(url="nats://bus", stream="A", subject="a..b"), "'a..b' is no subject"),
        (NatsSubject(url="nats://bus", stream="A", columns={"a": "b..c"}), "columns: 'a' must name a field's path"),
        (NatsSubject(url="nats://bus", stream="A", epoch="m"), "epoch must be s, ms or us"),  # type: ignore[arg-type]
        (FileDrop("gs://bucket/*.csv"), "path is a pattern of files of this machine or s3://BUCKET/KEY"),
        (FileDrop("s3://bucket/*.csv?token=x"), "path holds credentials; name environment variables"),
        (FileDrop("s3://bucket/in/"), "path names no object; write s3://bucket/in/*.parquet"),
        (FileDrop("s3://bucket/*.txt"), "path must end in one of .parquet"),
        (FileDrop("s3://bucket/*.csv", access_key_variable=""), "access_key_variable must be a text"),
        (FileDrop("inbox"), "path must end in one of .parquet"),
        (FileDrop("inbox/*.csv", settle="soon"), "settle must be a duration"),
    ],
)
def test_a_place_that_cannot_be_followed_is_a_mistake(follow: object, said: str) -> None:
    source = Source.stream("events", event_time="at", event_id="id", follow=follow)  # type: ignore[arg-type]
    assert any(said in mistake for mistake in source.mistakes()), list(source.mistakes())
