"""Delta tables as a source: versions, a table that changes while it is read, and tables that are not what they seem."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from tests.integration.features.world import NOON, World, minutes

from antiphon import Entity, Source, col, count, feature_view
from antiphon import sum as total
from antiphon.core.errors import AntiphonError, InvalidInputError, SetupError, UnavailableError
from antiphon.definitions.feature_view import FeatureViewSpec

deltalake = pytest.importorskip("deltalake")


def batch(first: int, rows: int, **extra: list[object]) -> pa.Table:
    return pa.table(
        {
            "id": pa.array([f"o{n}" for n in range(first, first + rows)], pa.string()),
            "shop": pa.array([f"shop-{n % 2}" for n in range(first, first + rows)], pa.string()),
            "at": pa.array(
                [NOON - timedelta(minutes=n) for n in range(first, first + rows)], pa.timestamp("us", "UTC")
            ),
            "amount": pa.array([float(n) for n in range(first, first + rows)], pa.float64()),
            **extra,
        }
    )


def spec(path: Path) -> FeatureViewSpec:
    @feature_view(
        entity=Entity("shop", ["shop"]),
        source=Source.table("orders", path=str(path), event_time="at", event_id="id"),
    )
    class Orders:
        orders = count(window="1d")
        amount = total(col.amount, window="1d", scale="1")

    return Orders.spec()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    deltalake.write_deltalake(str(tmp_path / "orders"), batch(0, 10))
    return tmp_path / "orders"


@pytest.fixture
def world(tmp_path: Path, table: Path) -> Iterator[World]:
    made = World(tmp_path, spec(table))
    yield made
    made.close()


def orders(world: World) -> list[object]:
    return [world.read(NOON, shop=f"shop-{n}").values["orders.orders"].value for n in (0, 1)]


def test_each_version_is_named_and_read_as_it_is(world: World, table: Path) -> None:
    first = world.materialize("orders", NOON)
    assert first.source == f"Delta table {table} version 0"
    world.publish(NOON)
    assert orders(world) == [5, 5]
    deltalake.write_deltalake(str(table), batch(10, 4), mode="append")
    second = world.materialize("orders", NOON)
    assert second.source.endswith("version 1")
    assert second.source_hash != first.source_hash
    world.publish(NOON)
    assert orders(world) == [7, 7]
    deltalake.DeltaTable(str(table)).delete("shop = 'shop-1'")
    world.publish(NOON)
    assert orders(world) == [7, 0], "what was deleted is not read, though its files are there"
    deltalake.write_deltalake(str(table), batch(0, 2), mode="overwrite")
    world.publish(NOON)
    assert orders(world) == [1, 1]


def test_a_column_that_came_later_is_null_before(tmp_path: Path, table: Path) -> None:
    deltalake.write_deltalake(str(table), batch(10, 2, tip=[1.0, 2.0]), mode="append", schema_mode="merge")

    @feature_view(
        entity=Entity("shop", ["shop"]), source=Source.table("o", path=str(table), event_time="at", event_id="id")
    )
    class Tips:
        tips = total(col.tip, window="1d", scale="1")
        orders = count(window="1d")

    world = World(tmp_path, Tips.spec())
    world.publish(NOON)
    values = world.read(NOON, shop="shop-1").values
    assert (values["tips.tips"].value, values["tips.orders"].value) == (2.0, 6)
    world.close()


def test_partitions_are_columns_whatever_they_are_called(tmp_path: Path) -> None:
    rows = batch(0, 12, region=["north sea", "a/b", "100%", None] * 3)
    deltalake.write_deltalake(str(tmp_path / "parts"), rows, partition_by=["region"])

    @feature_view(
        entity=Entity("region", ["region"]),
        source=Source.table("o", path=str(tmp_path / "parts"), event_time="at", event_id="id"),
    )
    class Regions:
        orders = count(window="1d")

    world = World(tmp_path, Regions.spec())
    manifest = world.materialize("regions", NOON)
    assert (manifest.rows_in, manifest.rows_rejected, manifest.rows_out) == (12, 3, 3)
    world.publish(NOON)
    for region in ("north sea", "a/b", "100%"):
        assert world.read(NOON, region=region).values["regions.orders"].value == 3, region
    world.close()


def test_files_that_were_vacuumed_away_publish_nothing(world: World, table: Path) -> None:
    world.publish(NOON)
    for file in table.glob("*.parquet"):
        file.unlink()
    with pytest.raises(AntiphonError):
        world.publish(NOON + minutes(5))
    assert orders(world) == [5, 5]


@pytest.mark.parametrize("feature", ["deletionVectors", "columnMapping"])
def test_a_table_whose_files_are_not_its_rows_is_refused(world: World, table: Path, feature: str) -> None:
    log = table / "_delta_log" / f"{1:020}.json"
    protocol = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": [feature], "writerFeatures": [feature]}
    log.write_text(json.dumps({"protocol": protocol}) + "\n")
    with pytest.raises(InvalidInputError, match=feature):
        world.materialize("orders", NOON)


def test_a_damaged_log_is_said(world: World, table: Path) -> None:
    (table / "_delta_log" / f"{1:020}.json").write_text("{ not json")
    with pytest.raises((UnavailableError, InvalidInputError), match="Delta"):
        world.materialize("orders", NOON)
    shutil.rmtree(table)
    with pytest.raises(SetupError, match="There is no file"):
        world.materialize("orders", NOON)


def test_a_table_without_rows_is_no_mistake(tmp_path: Path) -> None:
    deltalake.write_deltalake(str(tmp_path / "empty"), batch(0, 0))
    world = World(tmp_path, spec(tmp_path / "empty"))
    manifest = world.materialize("orders", NOON)
    assert (manifest.rows_in, manifest.rows_out) == (0, 0)
    world.close()


def test_batch_and_online_are_compared_at_the_version_that_the_snapshot_read(tmp_path: Path) -> None:
    from antiphon.features.monitoring.skew.measure import Skew

    deltalake.write_deltalake(str(tmp_path / "table"), batch(0, 20))
    orders = spec(tmp_path / "table")
    world = World(tmp_path, orders)
    world.publish(NOON)
    deltalake.write_deltalake(str(tmp_path / "table"), batch(1, 4), mode="overwrite")
    skew = Skew(world.catalog, reader=world.new_reader(), log=world.log)  # fmt: skip
    report = skew.measure([orders], as_of=NOON)
    assert report.compared == 2 * len(orders.features)
    assert (report.different, {basis for one in report.features for basis in one.judged_by}) == (0, {"files"})
    world.close()
