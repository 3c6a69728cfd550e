"""The time at which work begins that may wait: late enough for its deadline, in a quiet time where one is expected.

Invariant: work never begins later than its deadline leaves time for, whatever is forecast; and it waits only for a
time that is expected to be clearly quieter than now.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

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
    starts = [now, *map(moment_of, range(quarter_of(now) + 1, quarter_of(latest) + 1))]
    free = [at for at in starts if not any(hold.begins < at + takes and at < hold.until for hold in holds)]
    if not free:
        return now
    for at in free:
        if any(begin <= at and at + takes <= end for begin, end in preferred):
            return at
    if forecast is None:
        return now
    loads = {at: forecast.mean(at, at + max(takes, QUARTER)) for at in free}
    best = min(free, key=lambda at: (loads[at], at))
    present = forecast.mean(now, now + max(takes, QUARTER))
    return best if best > now and loads[best] <= WORTH_WAITING * present else now
