"""The feature store on the flight desk's year: rows materialised a second, microseconds a lookup, time of a flip.

Run ``python -m benchmarks.features``. Prints a table and one JSON line. Four views over 336,776 departures and
26,115 hourly observations; everything is real (DuckDB, Parquet, LMDB, SQLite), on local disk.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from antiphon import Entity, Source, col, count, feature_view, last, mean
from antiphon.catalog.database import Database
from antiphon.catalog.definitions import DefinitionVersions
from antiphon.catalog.events import Event, EventLog
from antiphon.catalog.publications import Publications
from antiphon.catalog.snapshots import Snapshots
from antiphon.core.clock import SystemClock
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.features.lake.local import LocalLake
from antiphon.features.lookup import FeatureReader
from antiphon.features.materialize import Materialisation, materialize
from antiphon.features.online.overlay import Overlay
from antiphon.features.online.store import OnlineStore
from antiphon.features.point_in_time import point_in_time
from antiphon.features.publish import Publisher
from antiphon.features.stream import StreamConsumer

SCOPE = Scope()
AS_OF = datetime(2013, 4, 10, 12, tzinfo=UTC)


def views(departures_file: Path, weather_file: Path) -> list[FeatureViewSpec]:
    airport, airline = Entity("airport", ["origin"]), Entity("airline", ["carrier"])
    route = Entity("route", ["origin", "dest"])
    departures = Source.stream(
        "departures",
        history=str(departures_file),
        event_time="scheduled",
        available_at="departed",
        event_id="event_id",
    )
    observed = Source.stream(
        "weather", history=str(weather_file), event_time="observed", available_at="reported", event_id="event_id"
    )

    @feature_view(entity=airport, source=departures)
    class Congestion:
        departures_2h = count(window="2h")
        delay_2h = mean(col.delay_minutes, window="2h", scale="0.01")
        delay_6h = mean(col.delay_minutes, window="6h", scale="0.01")

    @feature_view(entity=airline, source=departures)
    class CarrierHistory:
        late_share = mean(col.dep_delay > 15, window="28d")

    @feature_view(entity=route, source=departures)
    class RouteHistory:
        late_share = mean(col.dep_delay > 15, window="28d")
        flights = count(window="28d")

    @feature_view(entity=airport, source=observed)
    class Weather:
        wind = last(col.wind_speed, window="3h")
        visibility = last(col.visibility, window="3h")
        rain = last(col.precipitation, window="3h")

    return [Congestion.spec(), CarrierHistory.spec(), RouteHistory.spec(), Weather.spec()]


def timed(work: Callable[[], Any], repeat: int) -> list[float]:
    """Seconds of each repetition."""
    taken = []
    for _ in range(repeat):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return taken


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main() -> None:
    from examples.flight_desk.data import prepare
    from examples.flight_desk.settings import Sources

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        events = prepare(
            folder / "sources",
            Sources(weather_lag_minutes=20, cancelled_after_minutes=180, highest_wind_mph=100.0),
            "America/New_York",
        )
        specs = views(events.departures, events.weather)
        clock = SystemClock()
        database = Database.open(f"sqlite:///{folder}/catalog.db", clock=clock)
        database.migrate()
        log, lake = EventLog(database), LocalLake(folder / "lake")
        online, overlay = OnlineStore(folder / "online", b"k" * 32), Overlay(folder / "online", SCOPE)
        publications, definitions = Publications(database), DefinitionVersions(database)
        for spec in specs:
            definitions.put(SCOPE, spec)
        publisher = Publisher(
            SCOPE,
            publications=publications,
            snapshots=Snapshots(database),
            definitions=definitions,
            lake=lake,
            online=online,
            clock=clock,
        )
        results: dict[str, float] = {}

        def build(as_of: datetime) -> list[tuple[Any, FeatureViewSpec]]:
            made = []
            for spec in specs:
                wanted = Materialisation(scope=SCOPE, spec=spec, as_of=as_of)
                made.append((materialize(wanted, lake=lake, log=log, clock=clock), spec))
            return made

        started = time.perf_counter()
        made = build(AS_OF)
        results["materialise_seconds_4_views"] = time.perf_counter() - started
        rows = sum(manifest.rows_in for manifest, _ in made)
        results["materialise_rows_per_second"] = rows / results["materialise_seconds_4_views"]
        started = time.perf_counter()
        for manifest, spec in made:
            publisher.prepare(manifest, spec)
        results["seal_seconds_4_views"] = time.perf_counter() - started
        publisher.publish(made, reason="bench", principal="bench")

        reader = FeatureReader(SCOPE, publications=publications, online=online, clock=clock, overlay=overlay)
        versions = {spec.name: spec.definition_version for spec in specs}
        keys = {"origin": "EWR", "carrier": "UA", "dest": "SFO"}
        started = time.perf_counter()
        reader.read(versions, keys, AS_OF)
        results["first_lookup_ms"] = (time.perf_counter() - started) * 1e3
        quiet = timed(lambda: reader.read(versions, keys, AS_OF), 3_000)
        results["lookup_4_views_us_p50"] = statistics.median(quiet) * 1e6
        results["lookup_4_views_us_p99"] = percentile(quiet, 0.99) * 1e6
        many = [keys] * 100
        results["lookup_100_entities_ms_p50"] = (
            statistics.median(timed(lambda: reader.read_many(versions, many, AS_OF), 30)) * 1e3
        )

        # A day of departures streamed on top.
        import duckdb

        connection = duckdb.connect()
        connection.execute("SET TimeZone = 'UTC'")
        day = connection.execute(
            "SELECT event_id, scheduled, departed, origin, dest, carrier, dep_delay, delay_minutes FROM "
            f"read_parquet('{events.departures}') WHERE departed > ? AND departed <= ? ORDER BY departed",
            [AS_OF, AS_OF + timedelta(days=1)],
        ).fetchall()
        connection.close()
        names = ("origin", "dest", "carrier", "dep_delay", "delay_minutes")
        streamed = [
            Event(str(row[0]), row[1].astimezone(UTC), row[2].astimezone(UTC), dict(zip(names, row[3:], strict=True)))
            for row in day
        ]
        log.append(SCOPE, "departures", streamed)
        consumer = StreamConsumer(SCOPE, log=log, overlay=overlay, online=online, views=specs)
        started = time.perf_counter()
        taken = 0
        while polled := consumer.poll(1_000):
            taken += polled
        results["stream_events_per_second"] = taken / (time.perf_counter() - started)
        one = Event("one", AS_OF, AS_OF, {"origin": "EWR", "dest": "SFO", "carrier": "UA", "delay_minutes": 1})

        def event_to_value() -> None:
            log.append(SCOPE, "departures", [Event(f"{time.perf_counter_ns()}", one.event_time, AS_OF, one.payload)])
            consumer.poll()
            reader.read(versions, keys, AS_OF)

        lag = timed(event_to_value, 50)
        results["event_to_servable_ms_p50"] = statistics.median(lag) * 1e3
        busy = timed(lambda: reader.read(versions, keys, AS_OF + timedelta(days=1)), 2_000)
        results["lookup_with_a_streamed_day_us_p50"] = statistics.median(busy) * 1e6
        results["lookup_with_a_streamed_day_us_p99"] = percentile(busy, 0.99) * 1e6

        # Flips: two sets of snapshots, published in turn; what a reader waits for after the commit.
        other = build(AS_OF + timedelta(minutes=15))
        for manifest, spec in other:
            publisher.prepare(manifest, spec)
        impatient = FeatureReader(
            SCOPE, publications=publications, online=online, clock=clock, overlay=overlay, lease=0
        )
        flips, seen = [], []
        first, second = 1, None
        publisher.publish(other, reason="bench", principal="bench")
        second = 2
        for turn in range(60):
            target = first if turn % 2 == 0 else second
            started = time.perf_counter()
            publication = publications.rollback(SCOPE, target, reason="flip", principal="bench")
            flips.append(time.perf_counter() - started)
            vector = impatient.read(versions, keys, AS_OF + timedelta(minutes=15))
            seen.append(time.perf_counter() - started)
            assert vector.publication == publication.number
        results["flip_commit_ms_p50"] = statistics.median(flips) * 1e3
        results["flip_to_read_ms_p50"] = statistics.median(seen) * 1e3

        import pyarrow as pa

        connection = duckdb.connect()
        frame = connection.sql(
            "SELECT origin, dest, carrier, scheduled - INTERVAL 1 HOUR AS as_of FROM "
            f"read_parquet('{events.departures}') WHERE scheduled < TIMESTAMP '2013-05-01'"
        ).to_arrow_table()
        assert isinstance(frame, pa.Table)
        started = time.perf_counter()
        joined = point_in_time(frame, specs, scope=SCOPE)
        results["point_in_time_seconds"] = time.perf_counter() - started
        results["point_in_time_rows"] = joined.num_rows
        assert joined.num_rows == frame.num_rows
        connection.close()
        overlay.close()
        online.close()
        database.close()
    for label, value in results.items():
        print(f"{label:40} {value:14,.1f}")
    print(json.dumps({"python": sys.version.split()[0], **{k: round(v, 2) for k, v in results.items()}}))


if __name__ == "__main__":
    main()
