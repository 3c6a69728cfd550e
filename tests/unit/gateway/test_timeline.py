"""The timeline of schedules: what was measured is behind now, what is expected ahead, and each run is where it was."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from antiphon.gateway.dashboard.plots import LEFT, RIGHT, WIDTH
from antiphon.gateway.dashboard.timeline import HOUR, LEAST, MOST_ROWS, RunBar, timeline
from antiphon.services.conducting.traffic import HourlyLoad

NOW = datetime(2026, 1, 2, 12, 30, tzinfo=UTC)
DAY = timedelta(days=1)
NOON = NOW - timedelta(minutes=30)


def bar(row: str, begins: datetime, ends: datetime | None = None, state: str = "succeeded") -> RunBar:
    return RunBar(row, state, begins, ends, "because", f"run_{row}")


def test_measured_hours_are_behind_now_and_expected_ones_ahead_with_their_range() -> None:
    measured = {NOON - 3 * HOUR: 10.0, NOON - 40 * HOUR: 1_000.0}
    forecast = [HourlyLoad(NOON + HOUR * number, 20.0, 5.0, 40.0) for number in range(1, 5)]
    found = timeline(NOW, DAY, measured, forecast, [], [])
    assert [mark.at < found.now for mark in found.line.marks] == [True]
    assert all(mark.at > found.now for mark in found.expected.marks)
    assert len(found.band.split()) == 8
    assert len(found.hours) == 5
    assert found.hours[-1].forecast is not None


def test_runs_lie_where_they_were_and_those_outside_are_left_out() -> None:
    shown = bar("nightly", NOW - 2 * HOUR, NOW - HOUR)
    running = bar("export", NOW - HOUR, None, "running")
    coming = bar("train", NOW + HOUR, None, "scheduled")
    found = timeline(NOW, DAY, {}, [], [shown, running, coming, bar("old", NOW - 3 * DAY, NOW - 2 * DAY)], [])
    by_row = {one.bar.row: one for one in found.bars}
    assert set(by_row) == {"nightly", "export", "train"}
    hour = (WIDTH - LEFT - RIGHT) / 48.5
    assert abs(by_row["nightly"].width - hour) < 0.2
    assert abs(by_row["export"].x + by_row["export"].width - found.now) < 0.2, "it goes on"
    assert by_row["train"].width == LEAST
    assert len({one.y for one in found.bars}) == 3
    assert [one.row for hour in found.hours for one in hour.bars] == ["nightly", "export", "train"]


def test_more_rows_than_can_be_read_are_told_of_and_in_the_table() -> None:
    found = timeline(NOW, DAY, {}, [], [bar(f"work {number}", NOW - HOUR, NOW) for number in range(14)], [])
    assert (len(found.rows), found.left_out) == (MOST_ROWS, 4)
    assert sum(len(hour.bars) for hour in found.hours) == 14


def test_held_times_are_cut_at_the_edges() -> None:
    found = timeline(
        NOW, DAY, {}, [], [], [(NOW - 9 * DAY, NOW + 9 * DAY, "freeze"), (NOW + 2 * DAY, NOW + 3 * DAY, "")]
    )
    assert [(x, round(x + width, 1)) for x, width, _ in found.held] == [(LEFT, WIDTH - RIGHT)]
