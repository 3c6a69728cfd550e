"""Forecasts what the next days cost, with the interval in which their sum lies 9 times of 10, from days that are over.

Method: the mean of each weekday once there are three weeks, else of all days; the interval is the prediction interval
of a sum of independent days about their mean, by Student's t, whose quantile is the expansion of Abramowitz and Stegun,
*Handbook of Mathematical Functions*, 26.7.5. Days that depend on each other make it too narrow.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from math import sqrt
from statistics import NormalDist, fmean

import msgspec

LEAST_DAYS = 7
"""Days that are over without which nothing is forecast."""

WEEKDAYS_FROM = 21

_Z = NormalDist().inv_cdf(0.95)


class CostForecast(msgspec.Struct, frozen=True):
    """The sum of the days from ``first`` on, in micro-units: expected, and the bounds of 9 times of 10."""

    first: date
    days: int
    currency: str
    expected: int
    low: int
    high: int
    from_days: int


def forecast(daily: Mapping[date, int], today: date, days: int, currency: str) -> CostForecast | None:
    """The forecast of so many days from today on; ``None`` before there were :data:`LEAST_DAYS`.

    Args:
        daily: micro-units by day; a day between that is not there cost nothing.
    """
    past = {day: micros for day, micros in daily.items() if day < today}
    if not past:
        return None
    first = min(past)
    known = [(day, past.get(day, 0)) for day in (first + timedelta(n) for n in range((today - first).days))]
    if len(known) < LEAST_DAYS:
        return None
    by_weekday = len(known) >= WEEKDAYS_FROM

    def of(day: date) -> int:
        return day.weekday() if by_weekday else 0

    means = {kind: fmean(micros for day, micros in known if of(day) == kind) for kind in {of(day) for day, _ in known}}
    free = len(known) - len(means)
    variance = sum((micros - means[of(day)]) ** 2 for day, micros in known) / free
    expected = sum(means[of(today + timedelta(n))] for n in range(days))
    # Of the days themselves, and of the mean that was estimated.
    spread = _student(free) * sqrt(variance * (days + days**2 / len(known)))
    low, high = max(0.0, expected - spread), expected + spread
    return CostForecast(today, days, currency, round(expected), round(low), round(high), len(known))


def _student(free: int) -> float:
    z = _Z
    return z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
