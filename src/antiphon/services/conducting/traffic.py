"""Online traffic of one tenant, or of one of its applications, by the quarter of an hour, and the forecast made of it.

Receipts of a quarter that is over do not become more: each is counted once in a process.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import datetime, timedelta

import msgspec

from antiphon.core.scope import Scope
from antiphon.orchestration.conductor.forecast import HISTORY, QUARTER, LoadForecast, learn, moment_of, quarter_of
from antiphon.services.project.store import Store


class Traffic:
    """Counts requests as time goes on, and forecasts from them once a quarter."""

    def __init__(self, store: Store, scope: Scope, application: str | None = None) -> None:
        self._store = store
        self._scope = scope
        self._application = application
        self._lock = threading.Lock()
        self._counts: dict[datetime, int] = {}
        self._counted: datetime | None = None
        self._forecast: LoadForecast | None = None

    def forecast(self) -> LoadForecast | None:
        """The forecast as of the present quarter; ``None`` before there was a day of requests."""
        now = self._store.database.clock.now()
        present = moment_of(quarter_of(now))
        with self._lock:
            if self._counted is None or present > self._counted:
                # What was answered in the last quarter may have been committed after it was counted.
                since = now - HISTORY if self._counted is None else self._counted - QUARTER
                first = moment_of(quarter_of(since))
                self._counts |= self._store.receipts.by_quarter(self._scope, first, self._application)
                self._counts = {at: count for at, count in self._counts.items() if at > now - HISTORY}
                self._counted = present
                self._forecast = learn(self._counts, now)
            return self._forecast


class TrafficForecasts:
    """Keeps the traffic of tenants and applications in a process that forecasts again and again."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: dict[tuple[Scope, str], Traffic] = {}

    def of(self, scope: Scope, application: str = "") -> LoadForecast | None:
        """The forecast of an application's requests, of all without one; ``None`` before there was a day of them."""
        kept = self._kept.setdefault((scope, application), Traffic(self._store, scope, application or None))
        return kept.forecast()


class HourlyLoad(msgspec.Struct, frozen=True):
    """Requests that an hour is expected to bring; the bounds are those of its quarters together, wider than its own."""

    begins: datetime
    expected: float
    low: float
    high: float


def hourly_forecast(
    store: Store, scope: Scope, hours: int, traffic: TrafficForecasts | None = None
) -> tuple[HourlyLoad, ...]:
    """The forecast by the hour from now on; nothing before there was a day of requests."""
    forecast = (traffic or TrafficForecasts(store)).of(scope)
    return () if forecast is None else tuple(_hours(forecast, store.database.clock.now(), hours))


def _hours(forecast: LoadForecast, now: datetime, hours: int) -> Iterator[HourlyLoad]:
    first = now.replace(minute=0, second=0, microsecond=0)
    for number in range(hours):
        begins = first + timedelta(hours=number)
        quarters = [forecast.at(begins + QUARTER * part) for part in range(4)]
        sums = (sum(getattr(one, name) for one in quarters) for name in ("expected", "low", "high"))
        yield HourlyLoad(begins, *sums)
