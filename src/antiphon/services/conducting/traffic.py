"""Online traffic of one tenant by the quarter of an hour, and the forecast made of it.

Receipts of a quarter that is over do not become more: each is counted once in a process.
"""

from __future__ import annotations

import threading
from datetime import datetime

from antiphon.core.scope import Scope
from antiphon.orchestration.conductor.forecast import HISTORY, QUARTER, LoadForecast, learn, moment_of, quarter_of
from antiphon.services.project.store import Store


class Traffic:
    """Counts requests as time goes on, and forecasts from them once a quarter."""

    def __init__(self, store: Store, scope: Scope) -> None:
        self._store = store
        self._scope = scope
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
                self._counts |= self._store.receipts.by_quarter(self._scope, moment_of(quarter_of(since)))
                self._counts = {at: count for at, count in self._counts.items() if at > now - HISTORY}
                self._counted = present
                self._forecast = learn(self._counts, now)
            return self._forecast
