"""Terms of budgets: what may be declared, and when a day or a month begins."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from antiphon.core.errors import InvalidInputError
from antiphon.operations.budgets.terms import (
    checked_limit,
    checked_name,
    checked_percent,
    checked_zone,
    period_of,
)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("period", "zone", "now", "begins", "renews"),
    [
        ("day", "UTC", "2026-12-31T23:59:59", "2026-12-31T00:00", "2027-01-01T00:00"),
        ("month", "UTC", "2026-12-31T23:59:59", "2026-12-01T00:00", "2027-01-01T00:00"),
        ("day", "Europe/Berlin", "2026-12-02T22:59:59", "2026-12-01T23:00", "2026-12-02T23:00"),
        ("day", "Europe/Berlin", "2026-12-02T23:00:00", "2026-12-02T23:00", "2026-12-03T23:00"),
        # A day of 25 hours, and one of 23.
        ("day", "Europe/Berlin", "2026-10-25T12:00", "2026-10-24T22:00", "2026-10-25T23:00"),
        ("day", "Europe/Berlin", "2026-03-29T12:00", "2026-03-28T23:00", "2026-03-29T22:00"),
        ("month", "America/New_York", "2026-11-30T12:00", "2026-11-01T04:00", "2026-12-01T05:00"),
        # Half an hour off: midnight is at 18:30, and the ledger counts whole hours.
        ("day", "Asia/Kolkata", "2026-12-02T18:10", "2026-12-02T18:00", "2026-12-03T18:00"),
        ("day", "Asia/Kolkata", "2026-12-02T18:40", "2026-12-02T18:00", "2026-12-03T18:00"),
        ("day", "Asia/Kolkata", "2026-12-02T17:59", "2026-12-01T18:00", "2026-12-02T18:00"),
    ],
)
def test_a_period_begins_and_renews_with_whole_hours(
    period: str, zone: str, now: str, begins: str, renews: str
) -> None:
    assert period_of(period, zone, at(now)) == (at(begins), at(renews))  # type: ignore[arg-type]


@pytest.mark.parametrize(("text", "micros"), [("0", 0), ("250", 250_000_000), ("0.000001", 1), ("1e3", 1_000_000_000)])
def test_a_limit_is_in_micro_units(text: str, micros: int) -> None:
    assert checked_limit(text) == micros


@pytest.mark.parametrize("text", ["-1", "much", "nan", "inf", "1e30", "0.0000001", "1000000001", ""])
def test_a_limit_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError):
        checked_limit(text)


def test_other_terms_that_cannot_be_are_refused() -> None:
    for name in ("", "Upper", "a b", "../a", "x" * 65):
        with pytest.raises(InvalidInputError):
            checked_name(name)
    for zone in ("Mars/Base", "../etc/passwd", "/etc/passwd", ""):
        with pytest.raises(InvalidInputError):
            checked_zone(zone)
    for percent in (0, 101, -5):
        with pytest.raises(InvalidInputError):
            checked_percent(percent, "warn")
    assert (checked_name("desk-1.b_c"), checked_zone("UTC"), checked_percent(100, "warn")) == ("desk-1.b_c", "UTC", 100)
