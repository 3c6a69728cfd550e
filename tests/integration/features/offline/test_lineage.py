"""From a value to its rows: encodings, several files, rows without ids, and a query as it stood then."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from pathlib import Path

import pytest
from tests.integration.features.desk import flight, history, write
from tests.integration.features.sources.test_sql_source import DAY, made
from tests.integration.features.sources.test_sql_source import NOON as DAY_SIX
from tests.integration.features.world import NOON, World, minutes

from antiphon import Entity, Source, col, feature_view, frequency, max, sum, target
from antiphon.features.offline.lineage import trace


def test_an_encoding_is_made_again_from_its_category_and_everybody(tmp_path: Path) -> None:
    write(tmp_path / "departures.parquet", history())
    table = Source.table(
        "flights", path=str(tmp_path / "departures.parquet"), event_time="scheduled", available_at="departed",
        event_id="id",
    )  # fmt: skip

    @feature_view(entity=Entity("origin", ["origin"]), source=table)
    class Encoded:
        share = frequency(window="14d")
        lateness = target(col.dep_delay > 15, smoothing=10, window=None)

    world = World(tmp_path, Encoded.spec())
    world.publish(NOON)
    at = NOON + timedelta(days=2)
    for feature in ("share", "lateness"):
        served = world.read(at, origin="EWR").values[f"encoded.{feature}"]
        found = trace(world.specs["encoded"], feature, {"origin": "EWR"}, at, scope=world.scope, known_by=NOON, limit=2)
        assert (found.value, found.event_time) == (served.value, served.event_time)
        assert found.set_against is not None
        assert found.contributing == pytest.approx(found.set_against / 2, abs=1)
        assert [row.columns["origin"] for row in found.rows] == ["EWR", "EWR"]
    world.close()


def test_rows_without_ids_are_found_in_the_file_that_they_stand_in(tmp_path: Path) -> None:
    rows = history()
    (tmp_path / "days").mkdir()
    for number, part in enumerate((rows[:700], rows[700:])):
        write(tmp_path / "days" / f"part-{number}.parquet", part)
    table = Source.table("flights", path=str(tmp_path / "days" / "*.parquet"), event_time="scheduled")

    @feature_view(entity=Entity("origin", ["origin"]), source=table)
    class Delays:
        worst = max(col.dep_delay, window="30d")
        total = sum(col.dep_delay, window="28d", scale="0.01")

    spec = Delays.spec()
    world = World(tmp_path, spec)
    found = trace(spec, "worst", {"origin": "EWR"}, NOON, scope=world.scope, limit=1_000)
    assert {row.columns["dep_delay"] for row in found.rows} == {found.value}
    assert {row.file for row in found.rows} == {str(tmp_path / "days" / f"part-{n}.parquet") for n in (0, 1)}
    assert {file.sha256 for file in found.files} == {
        hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "days").iterdir()
    }
    total = trace(spec, "total", {"origin": "EWR"}, NOON, scope=world.scope, limit=1_000)
    assert sum_of([row.measure for row in total.rows]) / 100 == total.value
    assert len(total.rows) == total.contributing
    bare = found.placeless()
    assert ({row.file for row in bare.rows}, bare.source) == ({"part-0.parquet", "part-1.parquet"}, "")
    world.close()


def sum_of(values: list[object]) -> int:
    assert all(isinstance(value, int) for value in values)
    return __builtins__["sum"](values)  # type: ignore[index,no-any-return]


def test_rows_of_a_query_are_those_of_then(tmp_path: Path) -> None:
    spec = made(tmp_path)
    world = World(tmp_path, spec)
    world.publish(DAY_SIX)
    served = world.read(DAY_SIX + DAY, shop="a").values["daily.week"]
    found = trace(spec, "week", {"shop": "a"}, DAY_SIX + DAY, scope=world.scope, known_by=DAY_SIX)
    # Of the day that was under way at the snapshot the query knew a half, and its row was not out yet.
    later = trace(spec, "week", {"shop": "a"}, DAY_SIX + DAY, scope=world.scope, known_by=DAY_SIX + DAY)
    assert (found.value, found.event_time) == (served.value, served.event_time) != (later.value, later.event_time)
    assert [row.columns["revenue"] for row in found.rows] == [row.columns["revenue"] for row in later.rows][-5:]
    assert {Path(file.path).name for file in found.files} == {"orders.parquet", "returns.parquet"}
    world.close()


def test_what_came_through_the_log_stands_at_its_offset(world: World) -> None:
    from antiphon.catalog.features.events import Event

    row = flight(9_001, NOON + minutes(5), -3.0)
    world.append(
        "departures", Event("f9001", row["scheduled"], row["departed"], {**row, "scheduled": "", "departed": ""})
    )
    found = trace(
        world.specs["congestion"], "departures_2h", {"origin": "EWR"}, NOON + minutes(10), scope=world.scope,
        log=world.log, known_by=NOON, through=1,
    )  # fmt: skip
    assert [(one.log_offset, one.event_id, one.file is None) for one in found.rows] == [
        (1, "f9001", True),
        (None, "f1", False),
    ]
