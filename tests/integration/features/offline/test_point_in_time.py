"""Point-in-time joins and lineage, against values read online."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.integration.features.online.test_lookup import EWR, departure
from tests.integration.features.world import NOON, World, minutes

from antiphon import Entity, Source, col, feature_view, last, max, sum
from antiphon.core.errors import InvalidInputError, NotFoundError, SetupError
from antiphon.core.scope import Scope
from antiphon.features.offline.compute import ComputeLimits, compute
from antiphon.features.offline.lineage import trace
from antiphon.features.offline.point_in_time.join import point_in_time
from antiphon.features.plan import plan_of
from antiphon.features.sources.source_rows import load_rows


def frame() -> pa.Table:
    moments = [NOON, NOON - minutes(61), NOON, NOON + minutes(30), NOON]
    return pa.table(
        {
            "label": [0, 1, 2, 3, 4],
            "origin": ["EWR", "EWR", "EWR", "LGA", None],
            "dest": ["SFO", "SFO", "SFO", "SFO", "SFO"],
            "as_of": pa.array(moments, pa.timestamp("us", tz="UTC")),
        }
    )


def test_rows_out_are_rows_in_with_the_values_online_reading_gives(world: World) -> None:
    world.append("departures", departure(9001, -5, 25.0))
    world.publish(NOON)
    world.consume()
    joined = point_in_time(frame(), list(world.specs.values()), scope=world.scope, log=world.log, event_times=True)
    rows = joined.to_pylist()
    assert [row["label"] for row in rows] == [0, 1, 2, 3, 4]
    for row in rows[:4]:
        online = world.read(row["as_of"], origin=row["origin"], dest=row["dest"]).values
        assert {name: row[name] for name in online} == {name: item.value for name, item in online.items()}
        for name, item in online.items():
            assert row[f"{name}.event_time"] == item.event_time
    assert rows[4]["congestion.departures_2h"] == 0
    assert rows[4]["congestion.delay_2h"] is None


def test_a_frame_from_a_file_keeps_its_order(world: World, tmp_path: Path) -> None:
    table = pa.table(
        {
            "n": list(range(5_000)),
            "origin": ["EWR" if n % 3 else "LGA" for n in range(5_000)],
            "dest": ["SFO"] * 5_000,
            "as_of": pa.array([NOON - minutes(n % 1_000) for n in range(5_000)], pa.timestamp("us", tz="UTC")),
        }
    )
    pq.write_table(table, tmp_path / "frame.parquet", row_group_size=500)
    joined = point_in_time(
        tmp_path / "frame.parquet", list(world.specs.values()), scope=world.scope, limits=ComputeLimits(threads=2)
    )
    assert joined.column("n").to_pylist() == list(range(5_000))


def test_a_frame_that_does_not_fit_is_refused(world: World, tmp_path: Path) -> None:
    views = list(world.specs.values())
    with pytest.raises(InvalidInputError, match="no column 'origin'"):
        point_in_time(frame().drop_columns(["origin"]), views, scope=world.scope)
    with pytest.raises(InvalidInputError, match="no column 'moment' with instants"):
        point_in_time(frame(), views, scope=world.scope, as_of="moment")
    absent = frame().set_column(3, "as_of", pa.array([NOON] * 4 + [None], pa.timestamp("us", tz="UTC")))
    with pytest.raises(InvalidInputError, match="1 rows of the frame have no moment"):
        point_in_time(absent, views, scope=world.scope)
    with pytest.raises(InvalidInputError, match="There is no file"):
        point_in_time(tmp_path / "gone.parquet", views, scope=world.scope)


def test_a_value_is_traced_to_its_rows_and_made_again(world: World) -> None:
    world.append("departures", departure(9001, 5, -3.0), departure(9002, -5, 25.0))
    world.publish(NOON)
    world.consume()
    at = NOON + minutes(30)
    for view, spec in world.specs.items():
        for feature in spec.features:
            served = world.read(at, **EWR).values[f"{view}.{feature}"]
            found = trace(
                spec,
                feature,
                EWR,
                at,
                scope=world.scope,
                log=world.log,
                known_by=NOON,
                through=served.stream_offset or 2,
            )
            assert found.value == served.value
            assert found.rows[0].event_time == served.event_time
    found = trace(world.specs["congestion"], "departures_2h", EWR, at, scope=world.scope, log=world.log)
    assert found.contributing == 3
    assert [row.log_offset for row in found.rows] == [1, 2, None]
    assert found.rows[0].columns["event_id"] == "f9001"
    assert found.rows[2].columns["id"] == "f1"
    assert found.rows[1].columns["dep_delay"] == 25.0
    latest = trace(world.specs["congestion"], "latest", EWR, at, scope=world.scope, log=world.log)
    assert (latest.contributing, latest.value, latest.rows[0].measure) == (1, -3.0, -3.0)
    limited = trace(world.specs["route_history"], "flights", EWR, NOON, scope=world.scope, log=world.log, limit=3)
    assert (limited.contributing, len(limited.rows)) == (671, 3)
    with pytest.raises(NotFoundError, match="no feature 'gone'"):
        trace(world.specs["congestion"], "gone", EWR, NOON, scope=world.scope)


def test_a_table_in_csv_without_event_ids(tmp_path: Path) -> None:
    (tmp_path / "rides.csv").write_text(
        "rider,at,fare,kind\nann,2013-04-10 11:00:00,10.10,a\nann,2013-04-10 11:00:00,10.10,a\n"
        "ann,2013-04-10 11:30:00,0.10,b\nbob,NA,3,a\n,2013-04-10 11:30:00,3,a\nann,2013-04-10 12:30:00,NA,c\n"
    )
    rides = Source.table("rides", path=str(tmp_path / "rides.csv"), event_time="at")

    @feature_view(entity=Entity("rider", ["rider"]), source=rides)
    class Spending:
        spent = sum(col.fare, window="2h", scale="0.01")
        most = max(col.fare, window="2h", scale="0.01")
        kind = last(col.kind)

    world = World(tmp_path, Spending.spec())
    try:
        manifest = world.materialize("spending", NOON)
        assert (manifest.rows_in, manifest.rows_rejected, manifest.rows_out) == (6, 2, 1)
        assert manifest.stream_offset is None
        world.publish(NOON)
        values = world.read(NOON, rider="ann").values
        assert {name: item.value for name, item in values.items()} == {
            "spending.spent": 20.3,
            "spending.most": 10.1,
            "spending.kind": "b",
        }
        # Rows without an id are never merged, so the same ride twice is two rides.
        assert trace(world.specs["spending"], "spent", {"rider": "ann"}, NOON, scope=world.scope).contributing == 3
    finally:
        world.close()


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"event_time": "gone"}, InvalidInputError, "There is no column 'gone'"),
        ({"event_time": "dep_delay"}, InvalidInputError, "The time column"),
        ({"path": "gone.parquet"}, SetupError, "There is no file"),
        ({"path": __file__}, InvalidInputError, "neither Parquet nor CSV"),
    ],
)
def test_a_source_that_does_not_fit_is_told(world: World, change: dict[str, str], error: type, told: str) -> None:
    import msgspec

    spec = world.specs["congestion"]
    spec = msgspec.structs.replace(spec, source=msgspec.structs.replace(spec.source, **change))
    with pytest.raises(error, match=told), compute(ComputeLimits()) as connection:
        load_rows(connection, plan_of(spec), scope=Scope(), log=world.log)


def test_a_file_that_is_no_parquet_is_told(world: World, tmp_path: Path) -> None:
    (tmp_path / "departures.parquet").write_bytes(b"not a parquet file at all")
    with pytest.raises(InvalidInputError, match="The source cannot be computed"):
        world.materialize("congestion", NOON)
