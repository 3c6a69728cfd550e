"""A view over a query: the same values from the batch query, the snapshot and point in time, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.property.features.test_equality import OnePublication

from antiphon.catalog.features.snapshots import SnapshotManifest
from antiphon.core.clock import ManualClock
from antiphon.core.errors import InvalidInputError, UnavailableError
from antiphon.core.scope import Scope
from antiphon.definitions import project
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.lake.local import LocalLake
from antiphon.features.monitoring.quality.inspection import Inspection
from antiphon.features.offline.lineage import trace
from antiphon.features.offline.materialize import Materialization, materialize
from antiphon.features.offline.point_in_time.join import point_in_time
from antiphon.features.online.lmdb.store import LmdbStore
from antiphon.features.online.lookup import FeatureReader

START = datetime(2013, 4, 1, tzinfo=UTC)
NOON = START + timedelta(days=5, hours=12)
DAY = timedelta(days=1)
QUERY = """
-- what a shop sold in a day, beside what it sent back
SELECT o.shop, date_trunc('day', o.sold) + INTERVAL 1 DAY AS day, sum(o.amount::DECIMAL(18, 2)) AS revenue,
    coalesce(max(r.backs), 0) AS backs
FROM orders AS o
LEFT JOIN (SELECT shop, date_trunc('day', sold) AS day, count(*) AS backs FROM returns GROUP BY ALL) AS r
    ON r.shop = o.shop AND r.day = date_trunc('day', o.sold)
GROUP BY ALL
"""
DEFINITIONS = """
from antiphon import *
shop = Entity("shop", keys=["shop"])
orders = Source.table("orders", path="orders.parquet", event_time="sold", where=col.paid)
returns = Source.table("returns", path="returns.parquet", event_time="sold")
days = Source.sql("days", sql='''{SQL}''', over=[orders, returns], event_time="day")

@feature_view(entity=shop, source=days)
class Daily:
    yesterday = last(col.revenue, window="24h")
    week = sum(col.revenue, window="7d", scale="0.01")
    backs_3d = sum(col.backs, window="3d", scale="1")
"""


def made(folder: Path, sql: str = QUERY) -> FeatureViewSpec:
    rows = [
        {"shop": "ab"[n % 2], "sold": START + n * timedelta(hours=1), "amount": n * 0.1, "paid": n % 7 != 0}
        for n in range(24 * 8)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "orders.parquet")
    pq.write_table(
        pa.Table.from_pylist([{"shop": "a", "sold": START + n * DAY} for n in range(8)]), folder / "returns.parquet"
    )
    (folder / "definitions.py").write_text(DEFINITIONS.replace("{SQL}", sql))
    return project.load(folder).views["daily"]


def day_of(shop: str, days: int) -> float:
    """What a shop sold on the day that ends so many days after the start."""
    hours = range(24 * (days - 1), 24 * days)
    return sum(n for n in hours if "ab"[n % 2] == shop and n % 7 != 0) / 10


def test_a_query_is_a_source_on_every_path(tmp_path: Path) -> None:
    spec = made(tmp_path)
    wanted = {
        shop: {
            "daily.yesterday": pytest.approx(day_of(shop, 5)),
            "daily.week": pytest.approx(sum(day_of(shop, days) for days in range(1, 6))),
            "daily.backs_3d": 3.0 if shop == "a" else 0.0,
        }
        for shop in "ab"
    }
    lake, online = LocalLake(tmp_path / "lake"), LmdbStore(tmp_path / "online", b"k" * 32)
    manifest = materialize(
        Materialization(scope=Scope(), spec=spec, as_of=NOON), lake=lake, log=None, clock=ManualClock(NOON)
    )
    again = materialize(
        Materialization(scope=Scope(), spec=spec, as_of=NOON), lake=lake, log=None, clock=ManualClock(NOON)
    )
    assert manifest.logical_hash == again.logical_hash
    assert "orders.parquet" in manifest.source
    assert "returns.parquet" in manifest.source
    online.build(manifest, spec, lake)
    reader = FeatureReader(
        Scope(), publications=OnePublication({spec.key: manifest.id}), online=online, clock=ManualClock(NOON)
    )
    frame = pa.table({"shop": ["a", "b"], "as_of": pa.array([NOON, NOON], pa.timestamp("us", tz="UTC"))})
    joined = {row["shop"]: row for row in point_in_time(frame, [spec], scope=Scope()).to_pylist()}
    for shop, want in wanted.items():
        vector = reader.read({"daily": spec.definition_version}, {"shop": shop}, NOON)
        online_values: dict[str, Any] = {name: item.value for name, item in vector.values.items()}
        assert online_values == want
        assert {name: joined[shop][name] for name in want} == online_values
    online.close()
    told = trace(spec, "backs_3d", {"shop": "a"}, NOON, scope=Scope(), known_by=NOON)
    assert (told.value, told.contributing) == (3.0, 3)
    assert told.rows[0].columns["backs"] == 1


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        (QUERY.replace("o.amount::DECIMAL(18, 2)", "o.amount"), "gives other rows when its tables are read in another"),
        (QUERY.replace("max(r.backs)", "first(o.amount)"), "gives other rows when its tables are read in another"),
        (QUERY.replace("o.amount::", "o.price::"), r"sql, line 3: Binder Error: .*price"),
        ("select shop, sold as day, amount\nfrom orders\nwhere shop + 1 > amount", "sql"),
        ("select shop, sold as day from orders", "There is no column 'backs'"),
    ],
)
def test_a_query_that_cannot_be_believed_or_run_is_refused(tmp_path: Path, sql: str, said: str) -> None:
    spec = made(tmp_path, sql)
    frame = pa.table({"shop": ["a"], "as_of": pa.array([NOON], pa.timestamp("us", tz="UTC"))})
    with pytest.raises(InvalidInputError, match=said) as caught:
        point_in_time(frame, [spec], scope=Scope())
    assert caught.value.where == "source days"


def test_a_query_sees_none_of_what_else_is_computed(tmp_path: Path) -> None:
    text = (
        DEFINITIONS.replace("orders = Source", "tiles = Source")
        .replace('"orders"', '"tiles"')
        .replace("[orders", "[tiles")
    )
    made(tmp_path)
    (tmp_path / "definitions.py").write_text(text.replace("{SQL}", QUERY.replace("FROM orders", "FROM tiles")))
    spec = project.load(tmp_path).views["daily"]
    frame = pa.table({"shop": ["a"], "as_of": pa.array([NOON], pa.timestamp("us", tz="UTC"))})
    twice = point_in_time(frame, [spec, spec_named(spec, "again")], scope=Scope()).to_pylist()[0]
    assert twice["daily.week"] == twice["again.week"] == pytest.approx(sum(day_of("a", days) for days in range(1, 6)))


def spec_named(spec: FeatureViewSpec, name: str) -> FeatureViewSpec:
    import msgspec

    return msgspec.structs.replace(spec, name=name)


def test_a_query_is_materialized_again_and_a_table_that_changes_meanwhile_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, lake = made(tmp_path), LocalLake(tmp_path / "lake")

    def at(moment: datetime, previous: SnapshotManifest | None) -> SnapshotManifest:
        wanted = Materialization(scope=Scope(), spec=spec, as_of=moment, previous=previous)
        return materialize(wanted, lake=lake, log=None, clock=ManualClock(moment))

    first = at(NOON, None)
    second = at(NOON + DAY, first)
    assert second.source_hash == first.source_hash, "the tables are the same files"
    assert (first.rows_in, second.rows_in) == (12, 14)
    assert second.source_quality is not None
    assert second.source_quality.new_rows == 6
    assert second.cost.bytes_read == sum(
        (tmp_path / f"{name}.parquet").stat().st_size for name in ("orders", "returns")
    )
    looked = Inspection.read

    def changing(self: Inspection, *arguments: Any) -> None:
        looked(self, *arguments)
        pq.write_table(pa.Table.from_pylist([{"shop": "a", "sold": START}]), tmp_path / "returns.parquet")

    monkeypatch.setattr(Inspection, "read", changing)
    with pytest.raises(UnavailableError, match="changed while it was read"):
        at(NOON, second)
