"""Cron lines: their mistakes, and when they fire where a zone's clock changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import msgspec
import pytest
from cronsim import CronSim

from antiphon.core.errors import InvalidInputError
from antiphon.definitions.cron import CronTime

BERLIN, NEW_YORK = "Europe/Berlin", "America/New_York"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def fired(line: str, zone: str, begin: str, end: str) -> list[str]:
    """The occurrences after an instant up to another, on the zone's clock; the same ones backwards."""
    time, found, moment = CronTime(line, zone), [], at(begin)
    while (following := time.after(moment)) is not None and following <= at(end):
        assert following > moment
        found.append(moment := following)
    backwards, latest = [], time.before(at(end))
    while latest is not None and latest > at(begin):
        backwards.append(latest)
        latest = time.before(latest - timedelta(microseconds=1))
    assert backwards == found[::-1]
    assert all(one.tzinfo is UTC for one in found)
    return [one.astimezone(ZoneInfo(zone)).isoformat(timespec="minutes") for one in found]


@pytest.mark.parametrize(
    ("line", "zone", "begin", "end", "told"),
    [
        # 2026-03-29 in Berlin: 02:00 becomes 03:00.
        ("30 2 * * *", BERLIN, "2026-03-28T00:00Z", "2026-03-30T12:00Z",
         ["2026-03-28T02:30+01:00", "2026-03-29T03:00+02:00", "2026-03-30T02:30+02:00"]),
        ("0,30 2,3 * * *", BERLIN, "2026-03-29T00:00Z", "2026-03-29T12:00Z",
         ["2026-03-29T03:00+02:00", "2026-03-29T03:30+02:00"]),
        ("*/20 * * * *", BERLIN, "2026-03-29T00:35Z", "2026-03-29T01:25Z",
         ["2026-03-29T01:40+01:00", "2026-03-29T03:00+02:00", "2026-03-29T03:20+02:00"]),
        ("*/20 2 * * *", BERLIN, "2026-03-29T00:00Z", "2026-03-30T00:10Z",
         ["2026-03-30T02:00+02:00"]),
        # 2026-10-25 in Berlin: 03:00 becomes 02:00.
        ("30 2 * * *", BERLIN, "2026-10-24T12:00Z", "2026-10-26T12:00Z",
         ["2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"]),
        ("*/30 * * * *", BERLIN, "2026-10-24T23:45Z", "2026-10-25T02:15Z",
         ["2026-10-25T02:00+02:00", "2026-10-25T02:30+02:00", "2026-10-25T02:00+01:00", "2026-10-25T02:30+01:00",
          "2026-10-25T03:00+01:00"]),
        ("*/30 2 * * *", BERLIN, "2026-10-25T00:15Z", "2026-10-26T00:50Z",
         ["2026-10-25T02:30+02:00", "2026-10-25T02:00+01:00", "2026-10-25T02:30+01:00"]),
        # The same in New York, 2026-03-08 and 2026-11-01.
        ("15 2 * * *", NEW_YORK, "2026-03-08T00:00Z", "2026-03-09T12:00Z",
         ["2026-03-08T03:00-04:00", "2026-03-09T02:15-04:00"]),
        ("15 1 * * *", NEW_YORK, "2026-11-01T00:00Z", "2026-11-02T12:00Z",
         ["2026-11-01T01:15-04:00", "2026-11-02T01:15-05:00"]),
        ("*/30 1 * * *", NEW_YORK, "2026-11-01T00:00Z", "2026-11-01T12:00Z",
         ["2026-11-01T01:00-04:00", "2026-11-01T01:30-04:00", "2026-11-01T01:00-05:00", "2026-11-01T01:30-05:00"]),
        # A clock that is set at midnight: the first of the day is made up for, and the day is not left out.
        ("0 0 * * SUN", "America/Santiago", "2026-09-05T00:00Z", "2026-09-07T00:00Z", ["2026-09-06T01:00-03:00"]),
        ("*/30 1 6 9 *", "America/Santiago", "2026-09-05T00:00Z", "2026-09-07T00:00Z",
         ["2026-09-06T01:00-03:00", "2026-09-06T01:30-03:00"]),
        ("*/30 23 4 4 *", "America/Santiago", "2026-04-04T00:00Z", "2026-04-06T00:00Z",
         ["2026-04-04T23:00-03:00", "2026-04-04T23:30-03:00", "2026-04-04T23:00-04:00", "2026-04-04T23:30-04:00"]),
    ],
)  # fmt: skip
def test_times_that_are_skipped_or_come_twice(line: str, zone: str, begin: str, end: str, told: list[str]) -> None:
    assert fired(line, zone, begin, end) == told


@pytest.mark.parametrize(
    ("moment", "after", "before"),
    [
        # Within the second of the two hours the time that is named is over; it was in the first.
        ("2026-10-25T02:10+01:00", "2026-10-26T02:45+01:00", "2026-10-25T02:45+02:00"),
        ("2026-10-25T02:45+01:00", "2026-10-26T02:45+01:00", "2026-10-25T02:45+02:00"),
        ("2026-10-25T02:44+02:00", "2026-10-25T02:45+02:00", "2026-10-24T02:45+02:00"),
        ("2026-10-25T02:45+02:00", "2026-10-26T02:45+01:00", "2026-10-25T02:45+02:00"),
        ("2026-03-29T03:00+02:00", "2026-03-30T02:45+02:00", "2026-03-29T03:00+02:00"),
    ],
)
def test_a_named_time_counts_once_seen_from_within_a_change(moment: str, after: str, before: str) -> None:
    time = CronTime("45 2 * * *", BERLIN)
    assert (time.after(at(moment)), time.before(at(moment))) == (at(after), at(before))


@pytest.mark.parametrize("zone", [BERLIN, NEW_YORK, "Australia/Lord_Howe", "Asia/Kolkata"])
@pytest.mark.parametrize("line", ["30 2 * * *", "15,45 1-3 * * *", "0 0 * * MON", "10 2 29 3 SUN", "59 23 L * *"])
def test_named_times_are_those_of_the_library_over_a_year(line: str, zone: str) -> None:
    start = datetime(2026, 1, 1, tzinfo=ZoneInfo(zone))
    expected = [one.astimezone(UTC) for one in islice(CronSim(line, start), 500)]
    found, moment = [], start.astimezone(UTC)
    while len(found) < len(expected):
        following = CronTime(line, zone).after(moment)
        assert following is not None
        assert following > moment
        found.append(moment := following)
    assert found == expected


def test_an_occurrence_is_not_after_itself_and_is_before_itself() -> None:
    time, moment = CronTime("0 3 * * *"), at("2026-05-01T03:00Z")
    assert time.after(moment) == at("2026-05-02T03:00Z")
    assert time.before(moment) == moment
    assert time.before(moment - timedelta(microseconds=1)) == at("2026-04-30T03:00Z")
    assert time.after(moment - timedelta(microseconds=1)) == moment
    assert time.before(moment + timedelta(seconds=30, microseconds=5)) == moment


def test_both_days_named_are_one_of_the_two() -> None:
    told = fired("0 0 13 * FRI", "UTC", "2026-03-01T12:00Z", "2026-03-14T00:00Z")
    assert told == ["2026-03-06T00:00+00:00", "2026-03-13T00:00+00:00"]


@pytest.mark.parametrize(
    ("line", "zone", "said"),
    [
        ("0 3 * * *", "UTC", None),
        ("*/5 8-17 * JAN-MAR MON-FRI", BERLIN, None),
        ("0 0 29 2 *", "UTC", None),
        ("0 0 30 2 MON", "UTC", None),
        ("0 0 LW * 5L", "UTC", None),
        ("0 0 30 2 *", "UTC", "'0 0 30 2 *' never fires: no date meets it"),
        ("0 0 31 4,6,9,11 *", "UTC", "never fires"),
        ("0 0 */20 * 1L", "UTC", "never fires"),
        ("0 0 32 2 *", "UTC", "'32' is no day of month; write 1 to 31"),
        ("61 * * * *", "UTC", "'61' is no minute; write 0 to 59"),
        ("* 24 * * *", "UTC", "'24' is no hour; write 0 to 23"),
        ("* * * 13 *", "UTC", "'13' is no month; write 1 to 12 or JAN to DEC"),
        ("* * * * MOON", "UTC", "'MOON' is no day of week"),
        ("*/0 * * * *", "UTC", "'*/0' is no minute"),
        ("* * * * * *", "UTC", "write five fields"),
        ("@daily", "UTC", "write five fields"),
        ("", "UTC", "write five fields"),
        (3, "UTC", "3 is no text"),
        ("0 3 * * *", "Europe/Berlyn", "'Europe/Berlyn' is no zone; write a name of the IANA database"),
        ("0 3 * * *", "Europe", "'Europe' is no zone"),
        ("0 3 * * *", "../etc/passwd", "is no zone"),
        ("0 3 * * *", "", "'' is no zone"),
        ("0 3 * * *", None, "None is no zone"),
    ],
)
def test_mistakes_say_what_to_write(line: str, zone: str, said: str | None) -> None:
    found = list(CronTime(line, zone).mistakes())
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


def test_a_line_with_a_mistake_has_no_times() -> None:
    for wrong in (CronTime("0 0 30 2 *"), CronTime("0 3 * * *", "Nowhere")):
        with pytest.raises(InvalidInputError, match=r"never fires|is no zone"):
            wrong.after(at("2026-01-01T00:00Z"))
        with pytest.raises(InvalidInputError, match=r"never fires|is no zone"):
            wrong.before(at("2026-01-01T00:00Z"))


def test_a_moment_needs_a_zone() -> None:
    with pytest.raises(InvalidInputError, match="has no time zone"):
        CronTime("0 3 * * *").after(datetime(2026, 1, 1))  # noqa: DTZ001


def test_the_calendar_ends() -> None:
    last = datetime(9999, 12, 31, 12, tzinfo=UTC)
    assert CronTime("0 3 * * *").after(last) is None
    assert CronTime("0 3 * * *").before(last) == datetime(9999, 12, 31, 3, tzinfo=UTC)
    assert CronTime("0 3 * * *").before(datetime(1, 1, 1, 1, tzinfo=UTC)) is None


def test_it_survives_json_and_is_described() -> None:
    time = CronTime("0 3 * * *", BERLIN)
    assert msgspec.json.decode(msgspec.json.encode(time), type=CronTime) == time
    assert msgspec.to_builtins(time) == {"type": "cron", "line": "0 3 * * *", "zone": BERLIN}
    assert time.describe() == "at 03:00 every day (Europe/Berlin)"
    assert CronTime("0 3 * *").describe() == "at '0 3 * *' (UTC)"


def test_what_is_kept_of_an_occurrence_is_what_would_be_found() -> None:
    nightly, other = CronTime("0 3 * * *", "Europe/Berlin"), CronTime("0 3 * * *")
    at = datetime(2026, 3, 28, tzinfo=UTC)
    for minutes in (0, 10, 125, 130, 1_500, 1_570, 5, 100_000):
        for time in (nightly, other):
            moment = at + timedelta(minutes=minutes)
            assert time.around(moment) == (time.before(moment), time.after(moment))
