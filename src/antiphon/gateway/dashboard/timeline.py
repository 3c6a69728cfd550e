"""The timeline of the page *Schedules*: runs and what holds them against online requests by the hour, as geometry.

All functions are pure. The curve is above, the rows of runs below; both have one time axis.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from antiphon.durable.run import ENDED, Run
from antiphon.gateway.dashboard.plots import BOTTOM, HEIGHT, LEFT, RIGHT, WIDTH, Line, Mark, linear
from antiphon.services.conducting.traffic import HourlyLoad
from antiphon.services.conducting.upcoming import UpcomingWork

HOUR = timedelta(hours=1)
ROW, LEAST = 20.0, 3.0
"""Height of a row of runs, and width that a run has at least, in the units of the drawing."""

MOST_ROWS = 10
"""Rows that are drawn; the table has all."""


class RunBar(msgspec.Struct, frozen=True):
    """A run, or work that is to come.

    Attributes:
        row: of the drawing: its schedule or workflow. run: its id, empty where none is ordered yet.
        ends: ``None`` while it goes on, or is to come.
    """

    row: str
    state: str
    begins: datetime
    ends: datetime | None
    words: str
    run: str = ""


class DrawnBar(msgspec.Struct, frozen=True):
    """A bar by its place in the drawing."""

    bar: RunBar
    x: float
    y: float
    width: float


class TimelineHour(msgspec.Struct, frozen=True):
    """A line of the table: requests that were measured, or are expected, and the work that begins in the hour."""

    begins: datetime
    measured: float | None
    forecast: HourlyLoad | None
    bars: tuple[RunBar, ...]


class WorkTimeline(msgspec.Struct, frozen=True):
    """The drawing and its table.

    Attributes:
        line: measured requests. expected: by the forecast, in ``band`` nine times of ten.
        held: places and words of times in which work is held. now: the place of the present.
        rows: names of the rows with their heights; ``left_out`` more are in the table alone.
    """

    label: str
    line: Line
    expected: Line
    band: str
    across: tuple[Mark, ...]
    up: tuple[Mark, ...]
    held: tuple[tuple[float, float, str], ...]
    rows: tuple[Mark, ...]
    left_out: int
    bars: tuple[DrawnBar, ...]
    hours: tuple[TimelineHour, ...]
    now: float
    width: float
    height: float


def bars_of(runs: Iterable[Run], upcoming: Iterable[UpcomingWork], now: datetime) -> list[RunBar]:
    """Runs that have begun, and work to come that has an earliest beginning."""
    bars = [
        RunBar(
            run.schedule or run.workflow,
            run.status,
            run.started_at,
            run.ended_at,
            run.error or run.note or run.cause or run.status,
            run.id,
        )
        for run in runs
        if run.started_at is not None and (run.status in ENDED or run.status == "running")
    ]
    for one in upcoming:
        if one.state != "runs" and one.earliest is not None:
            bars.append(RunBar(one.what, one.state, max(one.earliest, now), None, one.why, one.run or ""))
    return bars


def timeline(
    now: datetime,
    span: timedelta,
    measured: Mapping[datetime, float],
    forecast: Sequence[HourlyLoad],
    bars: Sequence[RunBar],
    held: Sequence[tuple[datetime, datetime, str]],
) -> WorkTimeline:
    """The timeline of a span behind and ahead of now.

    Args:
        measured: requests by the hour in which they came. held: begin, end and words of times that hold work.
    """
    first = now.replace(minute=0, second=0, microsecond=0) - span
    last = now + span
    length = (last - first).total_seconds()

    def place(at: datetime) -> float:
        share = (min(max(at, first), last) - first).total_seconds() / length
        return round(LEFT + (WIDTH - LEFT - RIGHT) * share, 1)

    ahead = {one.begins: one for one in forecast if one.begins < last}
    top = max([1.0, *measured.values(), *(one.high for one in ahead.values())])

    def marks(values: Iterable[tuple[datetime, float]], style: str) -> tuple[Mark, ...]:
        return tuple(
            Mark(place(at + HOUR / 2), f"{at:%m-%d %H:%M} {value:,.0f} requests", style, linear(value / top))
            for at, value in values
        )

    before = sorted((at, value) for at, value in measured.items() if at >= first)
    expected = sorted((one.begins, one.expected) for one in ahead.values())
    edge = [(place(one.begins + HOUR / 2), linear(one.high / top)) for one in ahead.values()]
    edge += [(place(one.begins + HOUR / 2), linear(one.low / top)) for one in reversed(list(ahead.values()))]
    shown = [one for one in bars if one.begins < last and (one.ends or last) >= first]
    names = list(dict.fromkeys(one.row for one in sorted(shown, key=lambda one: one.begins)))
    heights = {name: HEIGHT + ROW * number for number, name in enumerate(names[:MOST_ROWS])}
    drawn = []
    for one in shown:
        if one.row in heights:
            end = one.ends or (now if one.state == "running" else one.begins)
            x = place(one.begins)
            drawn.append(DrawnBar(one, x, heights[one.row] + 4, max(LEAST, round(place(end) - x, 1))))
    past, to_come = sum(value for _, value in before), sum(value for _, value in expected)
    return WorkTimeline(
        label=f"Online requests by the hour with runs below: {past:,.0f} measured, {to_come:,.0f} expected, "
        f"{len(shown)} runs in {len(names)} rows; the table behind has all of it",
        line=Line("measured", "view-1", marks(before, "view-1")),
        expected=Line("expected", "view-2", marks(expected, "view-2")),
        band=" ".join(f"{x},{y}" for x, y in edge),
        across=tuple(
            Mark(place(at), at.strftime("%m-%d %H:%M"))
            for at in (first + timedelta(seconds=length * part / 4) for part in range(5))
        ),
        up=tuple(Mark(linear(part / 2), f"{top * part / 2:,.0f}") for part in range(3)),
        held=tuple(
            (place(begins), max(LEAST, round(place(until) - place(begins), 1)), words)
            for begins, until, words in held
            if begins < last and until > first
        ),
        rows=tuple(Mark(LEFT, name if len(name) <= 60 else f"{name[:59]}…", y=y) for name, y in heights.items()),
        left_out=max(0, len(names) - MOST_ROWS),
        bars=tuple(drawn),
        hours=tuple(_hours(first, last, measured, ahead, shown)),
        now=place(now),
        width=WIDTH,
        height=HEIGHT + ROW * len(heights) + BOTTOM,
    )


def _hours(
    first: datetime,
    last: datetime,
    measured: Mapping[datetime, float],
    ahead: Mapping[datetime, HourlyLoad],
    bars: Sequence[RunBar],
) -> Iterable[TimelineHour]:
    at = first
    while at < last:
        of_hour = tuple(one for one in bars if at <= one.begins < at + HOUR)
        if at in measured or at in ahead or of_hour:
            yield TimelineHour(at, measured.get(at), ahead.get(at), of_hour)
        at += HOUR
