"""A forecast of online load by time of day and of week, learned from what was asked, with an interval.

Invariant: it knows nothing of a quarter of an hour beyond the counts before it, so that a backtest is honest, and its
interval is made of the errors that the same rule made on the past, each without the quarter itself.

Method: weighted means of a slot's earlier counts, with weights that halve in two weeks, those of the week's slot
shrunk toward those of the day's times the share of that day of the week; the interval by the empirical quantiles of
leave-one-out ratios, as split conformal prediction does (Vovk, Gammerman and Shafer, *Algorithmic Learning in a Random
World*, 2005).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from itertools import accumulate
from math import ceil, exp, floor, log

import msgspec

from antiphon.core.clock import from_microseconds, microseconds

QUARTER = timedelta(minutes=15)
HISTORY = timedelta(weeks=6)
"""Counts that are older are not read."""

LEAST_HISTORY = timedelta(days=1)
"""Without a whole day nothing is forecast."""

_DAY, _WEEK = 96, 7 * 96
_HALF_LIFE = 14.0 * _DAY
_OWN = 0.5
"""Part of a slot in its own mean; its two neighbors have the rest."""

_PRIOR_WEEKS = 1.0
"""Weight of the day's shape beside each week that was seen."""

_LEVEL_QUARTERS, _LEVEL_PRIOR, _LEVEL_FADES = 8, 20.0, 24.0
"""The last two hours tell how today is beside other days; that fades within six."""

_AHEAD = _WEEK
_COVERED = 0.9
_RESIDUALS = 2 * _WEEK


class LoadEstimate(msgspec.Struct, frozen=True):
    """Requests that a quarter of an hour is expected to bring, with the bounds between which 90 of 100 lie."""

    expected: float
    low: float
    high: float


class LoadForecast:
    """The forecast as of one moment.

    Args:
        counts: requests by the number of their quarter since 1970; one without any may be left out.
        first: the earliest quarter that was observed.
        now: the moment; its own quarter is not over, and is not learned from.
    """

    def __init__(self, counts: Mapping[int, int], first: int, now: datetime) -> None:
        self._counts = counts
        self._first = first
        self._end = quarter_of(now)
        day, week, days = _Sums(_DAY), _Sums(_WEEK), _Sums(7)
        for quarter in range(first, self._end):
            weight, count = self._weight(quarter), counts.get(quarter, 0)
            day.add(quarter % _DAY, weight, count)
            week.add(quarter % _WEEK, weight, count)
            days.add(quarter // _DAY % 7, weight, count)
        self._day, self._week = day.smoothed(), week.smoothed()
        self._share = days.shares()
        self._level = self._recent_level()
        self._low, self._high = self._ratios()
        # Sums from the present quarter on: a mean of many quarters is asked for at every look, by every schedule.
        self._ahead = list(accumulate((self._expected(self._end + n) for n in range(_AHEAD)), initial=0.0))

    def at(self, moment: datetime) -> LoadEstimate:
        """The load of the quarter of an hour that holds a moment."""
        expected = self._expected(quarter_of(moment))
        return LoadEstimate(expected, max((expected + 1) * self._low - 1, 0.0), (expected + 1) * self._high - 1)

    def means(self, first: int, last: int, width: int) -> list[float]:
        """Requests of a quarter, on average over so many of them from each of these quarters on."""
        begin, end = first - self._end, last - self._end
        if begin >= 0 and end + width < len(self._ahead):
            sums = self._ahead
            return [(sums[at + width] - sums[at]) / width for at in range(begin, end + 1)]
        return [sum(map(self._expected, range(at, at + width))) / width for at in range(first, last + 1)]

    def ahead(self, quarters: int) -> float:
        """Requests that so many quarters are expected to bring, from the present one on."""
        return self._ahead[quarters]

    def first_with(self, count: float, quarters: int) -> datetime | None:
        """The first beginning, in a week, of so many quarters that are expected to bring so many requests."""
        sums = self._ahead
        for at in range(_AHEAD - quarters + 1):
            if sums[at + quarters] - sums[at] >= count:
                return moment_of(self._end + at)
        return None

    def _expected(self, quarter: int) -> float:
        fading = exp(-max(quarter - self._end, 0) / _LEVEL_FADES)
        return self._rate(quarter) * float(self._level**fading)

    def _weight(self, quarter: int) -> float:
        return exp(-log(2) * (self._end - quarter) / _HALF_LIFE)

    def _rate(self, quarter: int, without: bool = False) -> float:
        """The mean of a slot's counts; without this quarter's own, where that is asked for."""
        weight = _OWN * self._weight(quarter) if without else 0.0
        own = weight * self._counts.get(quarter, 0)
        day_weight, day_sum = self._day[quarter % _DAY]
        week_weight, week_sum = self._week[quarter % _WEEK]
        day_mean = (day_sum - own) / (day_weight - weight) if day_weight - weight > 1e-9 else 0.0
        prior = _PRIOR_WEEKS * day_mean * self._share[quarter // _DAY % 7]
        return (max(week_sum - own, 0.0) + prior) / (max(week_weight - weight, 0.0) + _PRIOR_WEEKS)

    def _recent_level(self) -> float:
        recent = range(max(self._end - _LEVEL_QUARTERS, self._first), self._end)
        actual = sum(self._counts.get(quarter, 0) for quarter in recent)
        usual = sum(self._rate(quarter, without=True) for quarter in recent)
        return (actual + _LEVEL_PRIOR) / (usual + _LEVEL_PRIOR)

    def _ratios(self) -> tuple[float, float]:
        past = range(max(self._end - _RESIDUALS, self._first), self._end)
        ratios = sorted(
            (self._counts.get(quarter, 0) + 1) / (self._rate(quarter, without=True) + 1) for quarter in past
        )
        tail, last = (1 - _COVERED) / 2, len(ratios) - 1
        # The next one is exchangeable with those: the quantiles of one more than there are.
        low = ratios[max(floor((last + 2) * tail) - 1, 0)]
        return low, ratios[min(ceil((last + 2) * (1 - tail)) - 1, last)]


class _Sums:
    """Weights and weighted counts of the slots of a cycle."""

    def __init__(self, slots: int) -> None:
        self._weights, self._sums = [0.0] * slots, [0.0] * slots

    def add(self, slot: int, weight: float, count: int) -> None:
        self._weights[slot] += weight
        self._sums[slot] += weight * count

    def smoothed(self) -> list[tuple[float, float]]:
        """Each slot with half of its own and a quarter of either neighbor's."""

        def mixed(values: list[float]) -> list[float]:
            last = len(values) - 1
            sides = zip([values[last], *values[:last]], values, [*values[1:], values[0]], strict=True)
            return [_OWN * own + (1 - _OWN) / 2 * (before + after) for before, own, after in sides]

        return list(zip(mixed(self._weights), mixed(self._sums), strict=True))

    def shares(self) -> list[float]:
        """Each slot's mean as a share of the mean of all, shrunk toward 1 as by a quarter of a day."""
        whole = sum(self._sums) / max(sum(self._weights), 1e-9)
        prior = _DAY / 4
        return [
            1.0 if whole <= 0 else (part / whole + prior) / (weight + prior)
            for weight, part in zip(self._weights, self._sums, strict=True)
        ]


def learn(counts: Mapping[datetime, int], now: datetime) -> LoadForecast | None:
    """Forecasts from requests by the beginning of their quarter; ``None`` without a whole day of them."""
    numbered = {quarter_of(moment): count for moment, count in counts.items()}
    if not numbered or moment_of(min(numbered)) > now - LEAST_HISTORY:
        return None
    return LoadForecast(numbered, max(min(numbered), quarter_of(now - HISTORY)), now)


def quarter_of(moment: datetime) -> int:
    """The number of a moment's quarter of an hour since 1970."""
    return microseconds(moment) // _QUARTER


def moment_of(quarter: int) -> datetime:
    """The beginning of a quarter of an hour."""
    return from_microseconds(quarter * _QUARTER)


_QUARTER = int(QUARTER.total_seconds() * 1e6)
