"""Encodings of categories: every path gives what the text of the definition says, and no label of the day is in it."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.property.features.oracle import MINUTE
from tests.property.features.test_equality import OnePublication, bits

from antiphon import Entity, Source, col, feature_view, frequency, mean, target
from antiphon.core.clock import ManualClock, from_microseconds, microseconds
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.lake.local import LocalLake
from antiphon.features.offline.batch_values import values_at
from antiphon.features.offline.compute import ComputeLimits, compute
from antiphon.features.offline.materialize import Materialization, materialize
from antiphon.features.offline.point_in_time.join import point_in_time
from antiphon.features.online.lmdb.store import LmdbStore
from antiphon.features.online.lookup import FeatureReader
from antiphon.features.plan import plan_of
from antiphon.features.sources.source_rows import load_rows
from antiphon.features.values import EVER

SCOPE = Scope()
T = datetime(2013, 4, 10, 12, tzinfo=UTC)
BASE = microseconds(T)
DAY_MINUTES = 1_440
LIMITS = ComputeLimits(threads=2, memory=256)
Flight = tuple[str, int, int, Any]
"""Carrier, minutes from T, minutes until its delay is known, delay."""


def view(path: str) -> FeatureViewSpec:
    @feature_view(
        entity=Entity("carrier", ["carrier"]),
        source=Source.table("flights", path=path, event_time="at", available_at="known", event_id="id"),
    )
    class Carrier:
        share = frequency(window="3d")
        ever = frequency(window=None, where=col.delay.is_null())
        late = target(col.delay > 15, smoothing=3, window="3d")
        delay = target(col.delay, smoothing="0.5", window=None, scale="0.01")
        raw = target(col.delay, smoothing=0, window="3d", scale="0.01")
        recent = mean(col.delay, window="3d", scale="0.01")

    return Carrier.spec()


def midnight(t: int) -> int:
    moment = from_microseconds(t)
    start = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    return microseconds(start - timedelta(days=1) if start == moment else start)


def expected(flights: list[Flight], carrier: str, t: int, known_by: int | None = None) -> dict[str, Any]:
    fitted = midnight(t if known_by is None else min(t, known_by))

    def seen(moment: int, days: int | None, of: str | None) -> list[float | None]:
        found = []
        for name, at, lag, delay in flights:
            event = BASE + at * MINUTE
            known = event + lag * MINUTE
            inside = days is None or event > moment - days * DAY_MINUTES * MINUTE
            if event <= moment and known <= moment and inside and of in (None, name):
                found.append(delay)
        return found

    def cents(values: list[float | None]) -> list[Fraction]:
        # Quarters of a hundredth round half to even; the strategy draws only multiples of 0.005.
        return [Fraction(round(value * 100.0)) / 100 for value in values if value is not None]

    def encoded(own: list[Fraction], every: list[Fraction], smoothing: str) -> float | None:
        if not every:
            return None
        prior, weight = sum(every) / len(every), Fraction(smoothing)
        return float(prior if not own and not weight else (sum(own) + weight * prior) / (len(own) + weight))

    def flags(values: list[float | None]) -> list[Fraction]:
        return [Fraction(value > 15) for value in values if value is not None]

    def nulls(values: list[float | None]) -> int:
        return sum(value is None for value in values)

    three, all_three = seen(fitted, 3, carrier), seen(fitted, 3, None)
    ever, all_ever = seen(fitted, None, carrier), seen(fitted, None, None)
    recent = cents(seen(t, 3, carrier))
    return {
        "carrier.share": len(three) / len(all_three) if all_three else None,
        "carrier.ever": nulls(ever) / nulls(all_ever) if nulls(all_ever) else None,
        "carrier.late": encoded(flags(three), flags(all_three), "3"),
        "carrier.delay": encoded(cents(ever), cents(all_ever), "0.5"),
        "carrier.raw": encoded(cents(three), cents(all_three), "0"),
        "carrier.recent": float(sum(recent) / len(recent)) if recent else None,
    }


def write(path: Path, flights: list[Flight]) -> None:
    stamp = pa.timestamp("us", tz="UTC")
    columns = {
        "id": pa.array([f"f{n}" for n in range(len(flights))]),
        "carrier": pa.array([flight[0] for flight in flights], pa.string()),
        "at": pa.array([BASE + flight[1] * MINUTE for flight in flights], stamp),
        "known": pa.array([BASE + (flight[1] + flight[2]) * MINUTE for flight in flights], stamp),
        "delay": pa.array([flight[3] for flight in flights], pa.float64()),
    }
    pq.write_table(pa.table(columns), path)


edge = st.sampled_from([-720, -720 - DAY_MINUTES, -719, -721, -720 - 3 * DAY_MINUTES, -720 - 7 * DAY_MINUTES])
flights = st.lists(
    st.tuples(
        st.sampled_from(["AA", "UA", "é"]),
        st.one_of(st.integers(-13 * DAY_MINUTES, 0), st.integers(-3 * DAY_MINUTES, 0), edge),
        st.one_of(st.just(0), st.integers(-60, 900), st.integers(0, 4 * DAY_MINUTES)),
        st.one_of(st.none(), st.integers(-20, 60).map(float), st.sampled_from([15.0, 15.005, 0.015, -0.005])),
    ),
    max_size=30,
)
questions = st.lists(
    st.tuples(
        st.sampled_from(["AA", "UA", "é", "never seen"]),
        st.one_of(st.integers(-6 * DAY_MINUTES, 720), edge.filter(lambda at: at > -7 * DAY_MINUTES), st.just(720)),
    ),
    min_size=1,
    max_size=5,
)


@example([("AA", -800, 0, 30.0), ("UA", -2_000, 0, 1.0)], [("AA", -700), ("never seen", 0), ("UA", -720)])
@given(flights, questions)
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_every_path_gives_the_same_encoding(given_flights: list[Flight], asked: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        check(Path(name), given_flights, asked)


def check(folder: Path, given_flights: list[Flight], asked: list[tuple[str, int]]) -> None:
    write(folder / "flights.parquet", given_flights)
    spec = view(str(folder / "flights.parquet"))
    plan = plan_of(spec)
    moments = [BASE + at * MINUTE for _, at in asked]
    wanted = [expected(given_flights, carrier, t) for (carrier, _), t in zip(asked, moments, strict=True)]
    known = [flight for flight in given_flights if flight[1] + flight[2] <= 0]

    with compute(LIMITS) as connection:
        load_rows(connection, plan, scope=SCOPE, log=None)
        for (carrier, _), t, want in zip(asked, moments, wanted, strict=True):
            found = dict(values_at(connection, plan, t)).get((carrier,))
            if found is not None:
                assert_same({f"carrier.{name}": item.value for name, item in found.items()}, want)

    frame = pa.table(
        {"carrier": [carrier for carrier, _ in asked], "as_of": pa.array(moments, pa.timestamp("us", tz="UTC"))}
    )
    for row, want in zip(point_in_time(frame, [spec], scope=SCOPE, limits=LIMITS).to_pylist(), wanted, strict=True):
        assert_same({name: row[name] for name in want}, want)

    lake, online = LocalLake(folder / "lake"), LmdbStore(folder / "online", b"k" * 32)
    try:
        manifest = materialize(
            Materialization(scope=SCOPE, spec=spec, as_of=T),
            lake=lake,
            log=None,
            clock=ManualClock(T),
            limits=LIMITS,
        )
        online.build(manifest, spec, lake)
        reader = FeatureReader(
            SCOPE, publications=OnePublication({spec.key: manifest.id}), online=online, clock=ManualClock(T)
        )
        read = [(carrier, t) for (carrier, _), t in zip(asked, moments, strict=True)]
        # Each finished row is right up to its last moment, and is not served any later.
        carriers = ["AA", "UA", "é"]
        hashes = online.entity_hashes("carrier", [[carrier] for carrier in carriers])
        for carrier, row in zip(carriers, online.open(SCOPE, "carrier", manifest.id).finished(hashes), strict=True):
            if row is not None:
                ends = {row.until - 1, row.until} if row.until < EVER else set()
                read += [(carrier, t) for t in sorted({row.since - 1, row.since, *ends})]
        for carrier, t in read:
            vector = reader.read({"carrier": spec.definition_version}, {"carrier": carrier}, from_microseconds(t))
            want = expected(known, carrier, t, BASE)
            assert_same({name: item.value for name, item in vector.values.items()}, want)
    finally:
        online.close()


def assert_same(found: dict[str, Any], want: dict[str, Any]) -> None:
    assert {name: bits(value) for name, value in found.items()} == {name: bits(value) for name, value in want.items()}


def test_no_label_of_the_day_that_is_asked_about_is_in_an_encoding(tmp_path: Path) -> None:
    flights: list[Flight] = [("AA", at, 0, 20.0) for at in range(-4_000, 0, 100)]
    moments = pa.array([BASE + flight[1] * MINUTE for flight in flights], pa.timestamp("us", tz="UTC"))
    asked = pa.table({"carrier": ["AA"] * 40, "as_of": moments})
    names = [f"carrier.{name}" for name in ("share", "ever", "late", "delay", "raw")]

    def read(changed: int | None) -> list[dict[str, Any]]:
        path = tmp_path / f"flights{changed}.parquet"
        write(path, [(*f[:3], None if n == changed else f[3]) for n, f in enumerate(flights)])
        rows = point_in_time(asked, [view(str(path))], scope=SCOPE, limits=LIMITS).to_pylist()
        return [{name: row[name] for name in names} for row in rows]

    plain = read(None)
    for place in (0, 20, 39):
        other = read(place)
        assert other[place] == plain[place]
    # The next day knows it.
    assert read(0) != plain
