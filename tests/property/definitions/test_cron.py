"""Cron lines in zones, held against every minute of the days around."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from hypothesis import example, given, settings
from hypothesis import strategies as st

from antiphon.definitions.cron import CronTime

MINUTE = timedelta(minutes=1)
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "America/Santiago", "Australia/Lord_Howe", "Asia/Kathmandu")
# Changes of these clocks in 2026, and days without one.
MOMENTS = [
    datetime(2026, month, day, tzinfo=UTC)
    for month, day in ((3, 8), (3, 29), (4, 4), (4, 5), (9, 6), (10, 3), (10, 25), (11, 1), (2, 28), (6, 15), (12, 31))
]


class Fields(NamedTuple):
    """A line by the values of its first two fields; ``None``: every one. Days are every day, or those of the week."""

    minutes: tuple[int, ...] | None
    hours: tuple[int, ...] | None
    weekdays: tuple[int, ...] | None

    @property
    def line(self) -> str:
        minutes, hours, weekdays = ("*" if one is None else ",".join(map(str, one)) for one in self)
        return f"{minutes} {hours} * * {weekdays}"

    def meets(self, face: datetime) -> bool:
        """Tells whether a time of the clock is named."""
        return (
            (self.minutes is None or face.minute in self.minutes)
            and (self.hours is None or face.hour in self.hours)
            and (self.weekdays is None or face.isoweekday() % 7 in self.weekdays)
        )


def some(least: int, most: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.integers(least, most), min_size=1, max_size=4, unique=True).map(
        lambda found: tuple(sorted(found))
    )


lines = st.builds(
    Fields, st.none() | some(0, 59), st.none() | some(0, 3) | some(0, 23), st.none() | some(0, 6)
)  # fmt: skip
moments = st.builds(
    lambda day, seconds: day + timedelta(seconds=seconds), st.sampled_from(MOMENTS), st.integers(-43_200, 86_400)
)


def fires(fields: Fields, zone: ZoneInfo, minute: datetime) -> bool:
    """The rule by itself: an instant's own minute, and for named times what the clock skipped just before it."""
    face = minute.astimezone(zone)
    if fields.minutes is None or fields.hours is None:
        return fields.meets(face)
    if fields.meets(face) and face.fold == 0:
        return True
    earlier = (minute - MINUTE).astimezone(zone).replace(tzinfo=None) + MINUTE
    later = face.replace(tzinfo=None)
    while earlier < later:
        if fields.meets(earlier):
            return True
        earlier += MINUTE
    return False


@settings(max_examples=150)
@given(lines, st.sampled_from(ZONES), moments)
@example(Fields((45,), (2,), None), "Europe/Berlin", datetime(2026, 10, 25, 1, 10, tzinfo=UTC))
@example(Fields((15,), (2,), None), "Australia/Lord_Howe", datetime(2026, 10, 3, 15, tzinfo=UTC))
@example(Fields(None, (23,), (6,)), "America/Santiago", datetime(2026, 4, 5, 2, 59, 30, tzinfo=UTC))
def test_nothing_fires_between_a_moment_and_the_occurrences_around_it(
    fields: Fields, zone: str, moment: datetime
) -> None:
    time, clock = CronTime(fields.line, zone), ZoneInfo(zone)
    after, before = time.after(moment), time.before(moment)
    assert after is not None
    assert before is not None
    assert before <= moment < after
    assert time.before(after) == after
    assert time.before(after - timedelta(microseconds=1)) == before
    assert time.after(before) == after
    assert fires(fields, clock, before)
    assert fires(fields, clock, after)
    minute = max(before, moment - timedelta(days=2)).replace(second=0) + MINUTE
    while minute < min(after, moment + timedelta(days=2)):
        assert not fires(fields, clock, minute), minute
        minute += MINUTE


@settings(max_examples=60)
@given(lines, st.sampled_from(ZONES), moments)
def test_occurrences_increase(fields: Fields, zone: str, moment: datetime) -> None:
    time, clock = CronTime(fields.line, zone), ZoneInfo(zone)
    for _ in range(20):
        following = time.after(moment)
        assert following is not None
        assert following > moment
        assert fires(fields, clock, following)
        moment = following
