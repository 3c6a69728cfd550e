"""The time at which work begins that may wait: late enough for its deadline, in a quiet time where one is expected.

Invariant: work never begins later than its deadline leaves time for, whatever is forecast; and it waits only for a
time that is expected to be clearly quieter than now.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from math import ceil

from antiphon.catalog.run_holds import RunHold
from antiphon.orchestration.conductor.forecast import QUARTER, LoadForecast, moment_of, quarter_of

WORTH_WAITING = 0.8
"""A time is waited for where at most this share of the present load is expected."""

Span = tuple[datetime, datetime]


def latest_start(deadline: datetime, takes: timedelta, holds: Sequence[RunHold]) -> datetime:
    """The latest moment at which work may begin to end by a deadline, where holds interrupt it."""
    end, left = deadline, takes
    for hold in sorted(holds, key=lambda one: one.until, reverse=True):
        if hold.begins >= end:
            continue
        free = max(end - hold.until, timedelta())
        if free >= left:
            break
        left -= free
        end = min(end, hold.begins)
    return end - left


def quiet_start(
    now: datetime,
    latest: datetime,
    takes: timedelta,
    forecast: LoadForecast | None,
    holds: Sequence[RunHold] = (),
    preferred: Sequence[Span] = (),
) -> datetime:
    """The moment from now until the latest at which work is expected to be in users' way least.

    A time within a preferred window goes before every other; a start from which a hold would interrupt the work is no
    choice. Without a forecast and windows, and where nothing is clearly quieter, it is now.
    """
    if latest <= now:
        return now
    present, last = quarter_of(now), quarter_of(latest)

    def begins(quarter: int) -> datetime:
        return now if quarter == present else moment_of(quarter)

    def is_free(at: datetime) -> bool:
        return not any(hold.begins < at + takes and at < hold.until for hold in holds)

    quarters = range(present, last + 1)
    free = [one for one in quarters if is_free(begins(one))] if holds else quarters
    for quarter in free if preferred else ():
        at = begins(quarter)
        if any(begin <= at and at + takes <= end for begin, end in preferred):
            return at
    if forecast is None or not free:
        return now
    loads = forecast.means(present, last, max(ceil(takes / QUARTER), 1))
    best = min(free, key=lambda quarter: loads[quarter - present])
    return begins(best) if loads[best - present] <= WORTH_WAITING * loads[0] else now
