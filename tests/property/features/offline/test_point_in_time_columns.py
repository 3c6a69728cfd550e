"""Columns point in time = online read = a brute walk over the events, bit for bit, of views that need no tiles: what is
late or early, twice, out of order, tied, null, no number, on a window's edge, on a day that a clock changes."""

from __future__ import annotations

import math
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.property.features import oracle
from tests.property.features.oracle import Known
from tests.property.features.test_equality import OnePublication, bits

from antiphon import Entity, Source, col, count, feature_view, last, mean, std, sum
from antiphon.core.clock import ManualClock, from_microseconds, microseconds
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.lake.local import LocalLake
from antiphon.features.offline.batch_values import values_at
from antiphon.features.offline.compute import ComputeLimits, compute
from antiphon.features.offline.materialize import Materialization, materialize
from antiphon.features.offline.point_in_time.event_columns import Moments, event_columns
from antiphon.features.offline.point_in_time.join import point_in_time
from antiphon.features.online.lmdb.store import LmdbStore
from antiphon.features.online.lookup import FeatureReader
from antiphon.features.plan import plan_of
from antiphon.features.sources.source_rows import ROWS, load_rows

SCOPE = Scope()
LIMITS = ComputeLimits(threads=2, memory=256)
MINUTE = oracle.MINUTE
HOUR = 60 * MINUTE
DAY = 24 * HOUR
MOMENTS = [
    datetime(2013, 4, 10, 12, tzinfo=UTC),
    # New York's clocks go forward and back; a leap second has just been put in; the day before the epoch's.
    datetime(2013, 3, 10, 7, tzinfo=UTC),
    datetime(2013, 11, 3, 6, tzinfo=UTC),
    datetime(2012, 7, 1, tzinfo=UTC),
    datetime(2016, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(1970, 1, 1, tzinfo=UTC),
]


class Told(NamedTuple):
    """An event of the file: entity, microseconds from the moment, lag until it is available, value, name and id."""

    entity: str
    at: int
    lag: int
    x: float | None
    name: str | None
    identity: int


def view(path: str, event_id: str | None = "id") -> FeatureViewSpec:
    source = Source.table("calls", path=path, event_time="happened", available_at="known", event_id=event_id)

    @feature_view(entity=Entity("line", ["line"]), source=source)
    class Calls:
        calls = count(window="2h")
        calls_7d = count(window="7d")
        ever = count(window=None)
        named = count(window="7d", where=~col.name.is_null())
        mean_2h = mean(col.x, window="2h", scale="0.01")
        mean_7d = mean(col.x, window="7d", scale="0.01")
        sum_2h = sum(col.x, window="2h", scale="0.001")
        sum_7d = sum(col.x, window="7d", scale="0.001")
        all_time = sum(col.x, window=None, scale="0.25")
        spread = std(col.x, window="7d", scale="0.01")
        newest = last(col.x)
        newest_2h = last(col.x, window="2h", scale="0.01")
        name = last(col.name)
        name_7d = last(col.name, window="7d")

    return Calls.spec()


def expected(events: list[Known], entity: str, t: int) -> dict[str, tuple[Any, int | None]]:
    """Value and event time of each feature, from the text of the definitions."""

    def seen(window: int | None) -> list[Known]:
        return oracle.visible(events, entity, window, t)

    def with_x(window: int | None) -> list[Known]:
        return [event for event in seen(window) if event.payload["x"] is not None]

    def steps(window: int | None, scale: str) -> tuple[list[int], int | None]:
        found = [(oracle.quantized(event.payload["x"], scale), event.event_time) for event in with_x(window)]
        kept = [(step, at) for step, at in found if step is not None]
        return [step for step, _ in kept], max((at for _, at in kept), default=None)

    def latest(found: list[Known]) -> int | None:
        return max((event.event_time for event in found), default=None)

    def added(window: int | None, scale: str, per: int) -> tuple[float, int | None]:
        values, at = steps(window, scale)
        total = 0
        for value in values:
            total += value
        return total / per, at

    def averaged(window: int) -> tuple[float | None, int | None]:
        values, at = steps(window, "0.01")
        return oracle.mean(values, "0.01"), at

    def final(found: list[Known], name: str) -> tuple[Any, int | None]:
        # Adding zero: there is one zero.
        value = found[-1].payload[name] if found else None
        return (value + 0.0 if isinstance(value, float) else value), latest(found)

    named = [event for event in seen(None) if event.payload["name"] is not None]
    named_7d = [event for event in seen(7 * DAY) if event.payload["name"] is not None]
    week, week_at = steps(7 * DAY, "0.01")
    recent, recent_at = steps(2 * HOUR, "0.01")
    return {
        "calls.calls": (len(seen(2 * HOUR)), latest(seen(2 * HOUR))),
        "calls.calls_7d": (len(seen(7 * DAY)), latest(seen(7 * DAY))),
        "calls.ever": (len(seen(None)), latest(seen(None))),
        "calls.named": (len(named_7d), latest(named_7d)),
        "calls.mean_2h": averaged(2 * HOUR),
        "calls.mean_7d": averaged(7 * DAY),
        "calls.sum_2h": added(2 * HOUR, "0.001", 1_000),
        "calls.sum_7d": added(7 * DAY, "0.001", 1_000),
        "calls.all_time": added(None, "0.25", 4),
        "calls.spread": (oracle.deviation(week, "0.01"), week_at),
        "calls.newest": final(with_x(None), "x"),
        "calls.newest_2h": (recent[-1] / 100 if recent else None, recent_at),
        "calls.name": final(named, "name"),
        "calls.name_7d": final(named_7d, "name"),
    }


edges = st.sampled_from([-2 * HOUR, -7 * DAY, 0, -HOUR, -DAY, -3 * HOUR]).flatmap(
    lambda edge: st.sampled_from([edge - 1, edge, edge + 1])
)
instants = st.one_of(st.integers(-14 * 24, 0).map(lambda hours: hours * HOUR), st.integers(-4 * HOUR, 0), edges)
told = st.builds(
    Told,
    st.sampled_from("ab"),
    instants,
    st.one_of(st.just(0), st.integers(-2 * HOUR, 3 * HOUR), st.integers(0, 9 * DAY), edges.map(abs)),
    st.one_of(
        st.none(),
        st.integers(-50, 400).map(float),
        st.floats(-1e6, 1e6, allow_nan=False),
        st.sampled_from([math.nan, math.inf, -0.0, 0.005, 2.675, 1e12, -1.4e12, 1e15]),
    ),
    st.sampled_from([None, "é", "a", "Z", ""]),
    st.integers(0, 30),
)
questions = st.lists(
    st.tuples(st.sampled_from("abc"), st.one_of(st.integers(-7 * DAY + HOUR, 0), st.just(0), edges)).filter(
        lambda asked: -7 * DAY < asked[1] <= 0
    ),
    min_size=1,
    max_size=6,
)


# The same call told three times, known earlier and earlier; ties at one instant that become known one after the other;
# a call known before it happens; one that is known only after its windows are over.
@example([Told("a", -HOUR, lag, 1.0 + lag, "a", 7) for lag in (30, 20, 10)], [("a", 0), ("a", -HOUR + 15)], MOMENTS[0])
@example(
    [Told("a", -9, n % 4, float(n), "éZab"[n % 4], n) for n in range(9)], [("a", -8), ("a", -7), ("a", 0)], MOMENTS[1]
)
@example(
    [Told("a", -HOUR, -HOUR, 1.0, "a", 1), Told("a", -5 * HOUR, 3 * HOUR, 2.0, "Z", 2)],
    [("a", -HOUR), ("a", -1)],
    MOMENTS[2],
)
@given(st.lists(told, max_size=30), questions, st.sampled_from(MOMENTS))
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_columns_are_the_online_read_and_a_walk_over_the_events(
    events: list[Told], asked: list[tuple[str, int]], moment: datetime
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(Path(folder), events, asked, moment)


def write(path: Path, events: list[Told], base: int, zone: str | None = "America/New_York") -> None:
    at = [base + one.at for one in events]
    columns = {
        "id": pa.array([f"call-{one.identity}" for one in events], pa.string()),
        "line": pa.array([one.entity for one in events], pa.string()),
        "happened": pa.array(at, pa.timestamp("us", tz=zone)),
        "known": pa.array([t + one.lag for t, one in zip(at, events, strict=True)], pa.timestamp("us", tz=zone)),
        "x": pa.array([one.x for one in events], pa.float64(), from_pandas=False),
        "name": pa.array([one.name for one in events], pa.string()),
    }
    pq.write_table(pa.table(columns), path)


def known_of(events: list[Told], base: int) -> list[Known]:
    return [
        Known(
            f"call-{one.identity}",
            one.entity,
            base + one.at,
            base + one.at + one.lag,
            {"x": one.x if one.x is not None and math.isfinite(one.x) else None, "name": one.name},
            0,
            place,
        )
        for place, one in enumerate(events)
    ]


def check(folder: Path, events: list[Told], asked: list[tuple[str, int]], moment: datetime) -> None:
    base = microseconds(moment)
    # One id told twice at one moment of availability is the same event, whatever else is told of it.
    first: dict[tuple[str, int, int, int], Told] = {}
    events = [first.setdefault((one.entity, one.at, one.lag, one.identity), one) for one in events]
    write(folder / "calls.parquet", events, base)
    spec = view(str(folder / "calls.parquet"))
    moments = [base + at for _, at in asked]
    known = known_of(events, base)
    wanted = [expected(known, entity, t) for (entity, _), t in zip(asked, moments, strict=True)]
    frame = pa.table(
        {"line": [entity for entity, _ in asked], "as_of": pa.array(moments, pa.timestamp("us", tz="America/New_York"))}
    )
    joined = point_in_time(frame, [spec], scope=SCOPE, event_times=True, limits=LIMITS)
    assert joined.num_rows == len(asked)
    times = {name: joined.column(f"{name}.event_time").cast(pa.int64()).to_pylist() for name in wanted[0]}
    for place, (row, want) in enumerate(zip(joined.to_pylist(), wanted, strict=True)):
        assert {name: bits(row[name]) for name in want} == {name: bits(value) for name, (value, _) in want.items()}
        assert {name: times[name][place] for name in want} == {name: at for name, (_, at) in want.items()}

    lake, online = LocalLake(folder / "lake"), LmdbStore(folder / "online", b"k" * 32)
    clock = ManualClock(moment)
    try:
        manifest = materialize(
            Materialization(scope=SCOPE, spec=spec, as_of=moment),
            lake=lake,
            log=None,
            clock=clock,
            limits=LIMITS,
        )
        online.build(manifest, spec, lake)
        publications = OnePublication({spec.key: manifest.id})
        reader = FeatureReader(SCOPE, publications=publications, online=online, clock=clock)
        for (entity, _), t, want in zip(asked, moments, wanted, strict=True):
            vector = reader.read({"calls": spec.definition_version}, {"line": entity}, from_microseconds(t))
            found = {name: bits(item.value) for name, item in vector.values.items()}
            assert found == {name: bits(value) for name, (value, _) in want.items()}
    finally:
        online.close()


def tied(n: int) -> list[Told]:
    return [Told("ab"[i % 2], -(i // 4) * HOUR, i % 3 * MINUTE, float(i * 7 % 11), "Zaé"[i % 3], i) for i in range(n)]


def test_ties_without_ids_are_settled_as_in_the_batch_query(tmp_path: Path) -> None:
    base = microseconds(MOMENTS[0])
    write(tmp_path / "calls.parquet", tied(80), base, zone=None)
    spec = view(str(tmp_path / "calls.parquet"), event_id=None)
    asked = [(entity, base - at * MINUTE) for entity in "ab" for at in (0, 1, 2, 59, 60, 61, 600)]
    frame = pa.table({"line": [e for e, _ in asked], "as_of": pa.array([t for _, t in asked], pa.timestamp("us"))})
    joined = point_in_time(frame, [spec], scope=SCOPE, limits=LIMITS).to_pylist()
    with compute(LIMITS) as connection:
        load_rows(connection, plan_of(spec), scope=SCOPE, log=None)
        for (entity, t), row in zip(asked, joined, strict=True):
            found = dict(values_at(connection, plan_of(spec), t))[(entity,)]
            assert {name: bits(row[f"calls.{name}"]) for name in found} == {
                name: bits(computed.value) for name, computed in found.items()
            }


@pytest.mark.parametrize(
    ("event_id", "events", "loaded"), [("id", tied(20), False), (None, tied(20), True), (None, tied(1), False)]
)
def test_events_go_straight_into_columns_where_ids_settle_ties(
    tmp_path: Path, event_id: str | None, events: list[Told], loaded: bool
) -> None:
    """``load_rows`` hashes every row: it is called only where nothing else tells tied events apart."""
    base = microseconds(MOMENTS[0])
    write(tmp_path / "calls.parquet", events, base)
    spec = view(str(tmp_path / "calls.parquet"), event_id)
    with compute(LIMITS) as connection:
        connection.execute("CREATE TEMP TABLE entities AS SELECT * FROM (VALUES ('a', 0), ('b', 1)) AS e(k0, entity)")
        found = event_columns(connection, plan_of(spec), Moments(2, base, base), scope=SCOPE, log=None)
        tables = connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()
    assert len(found.timeline.order) == sum_of(event.at + event.lag <= 0 and event.at <= 0 for event in events)
    assert ((ROWS,) in tables) is loaded


def sum_of(flags: Any) -> int:
    total = 0
    for flag in flags:
        total += flag
    return total


def test_moments_as_text_tell_the_two_hours_of_one_clock_apart(tmp_path: Path) -> None:
    """On the night of the change 01:30 comes twice in New York."""
    first = datetime(2013, 11, 3, 5, 30, tzinfo=UTC)
    events = [Told("a", 0, 0, 1.0, "summer", 1), Told("a", HOUR, 0, 2.0, "winter", 2)]
    write(tmp_path / "calls.parquet", events, microseconds(first))
    (tmp_path / "frame.csv").write_text(
        "line,as_of\na,2013-11-03 01:30:00-04\na,2013-11-03 01:30:00-05\na,2013-11-03 01:29:59.999999-05\n"
    )
    spec = view(str(tmp_path / "calls.parquet"))
    joined = point_in_time(tmp_path / "frame.csv", [spec], scope=SCOPE, limits=LIMITS)
    assert joined.column("calls.name").to_pylist() == ["summer", "winter", "summer"]
    assert joined.column("calls.calls").to_pylist() == [1, 2, 1]


def test_a_frame_without_rows_and_entities_without_keys_or_events(tmp_path: Path) -> None:
    base = microseconds(MOMENTS[0])
    write(tmp_path / "calls.parquet", [Told("a", -1, 0, 1.0, "a", 1)], base)
    spec = view(str(tmp_path / "calls.parquet"))

    def joined(lines: list[str | None]) -> pa.Table:
        moments = pa.array([base] * len(lines), pa.timestamp("us", tz="UTC"))
        frame = pa.table({"line": pa.array(lines, pa.string()), "as_of": moments})
        return point_in_time(frame, [spec], scope=SCOPE, event_times=True, limits=LIMITS)

    assert joined([]).num_rows == 0
    asked = joined([None, "gone", "a", None])
    assert asked.column("line").to_pylist() == [None, "gone", "a", None]
    assert asked.column("calls.ever").to_pylist() == [0, 0, 1, 0]
    assert asked.column("calls.mean_7d").to_pylist() == [None, None, 1.0, None]
    assert asked.column("calls.name").to_pylist() == [None, None, "a", None]
    write(tmp_path / "calls.parquet", [], base)
    assert joined(["a"]).column("calls.sum_7d").to_pylist() == [0.0]
    assert joined(["a"]).column("calls.newest.event_time").to_pylist() == [None]
