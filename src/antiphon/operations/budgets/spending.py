"""What is spent of a budget: the charges of the ledger that concern it, by the prices that are known now.

Invariant: it equals, by the same rating, what the ledger says: charges and corrections that are booked in the period.
Nothing else counts it. Hours that are over do not change, so their sum is kept until a price is recorded.
"""

from __future__ import annotations

import threading
from datetime import datetime, timedelta

from sqlalchemy.engine import Connection

from antiphon.catalog.budgets import Budget
from antiphon.catalog.database import Database
from antiphon.catalog.ledger import Ledger
from antiphon.catalog.prices import Prices
from antiphon.core.scope import Scope
from antiphon.operations.budgets.terms import period_of
from antiphon.operations.cost.price_book import OPENING, PriceBook, hour_of, next_hour
from antiphon.operations.cost.rating import charges

SETTLED_AFTER = timedelta(minutes=5)
"""After its end an hour is taken as unchanging: whatever transaction began in it is over."""


class BudgetSpending:
    """The charges of one budget. Safe to share between threads."""

    def __init__(self, database: Database, scope: Scope, budget: Budget) -> None:
        self._database = database
        self._scope = scope
        self._budget = budget
        self._ledger, self._prices = Ledger(database), Prices(database)
        self._book, self._newest = PriceBook(()), 0
        self._begins: datetime | None = None
        self._through: datetime | None = None
        self._past = 0
        self._lock = threading.Lock()

    @property
    def book(self) -> PriceBook:
        """The prices as they were read last."""
        return self._book

    def micros(self, *, within: Connection | None = None) -> int:
        """Micro-units that are charged in the present period."""
        now = self._database.clock.now()
        with self._lock, self._database.reading(within) as connection:
            newest = self._prices.newest(self._scope.environment, within=connection)
            if newest != self._newest:
                records = self._prices.list(self._scope.environment, within=connection)
                self._book, self._newest, self._through = PriceBook(records), newest, None
            begins, _ = period_of(self._budget.period, self._budget.zone, now)
            if begins != self._begins or self._through is None:
                self._begins, self._past = begins, 0
                # A price that was recorded in this period may correct hours from long before it.
                corrected = [
                    one.since for one in self._book.records if one.since != OPENING and one.recorded_at >= begins
                ]
                self._through = min([begins, *corrected])
            settled = hour_of(now - SETTLED_AFTER)
            if settled > self._through:
                self._past += self._sum(self._through, settled, begins, connection)
                self._through = settled
            return self._past + self._sum(self._through, next_hour(now), begins, connection)

    def _sum(self, since: datetime, until: datetime, begins: datetime, within: Connection) -> int:
        budget = self._budget
        entries = self._ledger.entries(
            self._scope,
            since,
            until,
            application=budget.subject if budget.kind == "application" else None,
            principal=budget.subject if budget.kind == "key" else None,
            within=within,
        )
        found = charges(entries, self._book)
        return sum(one.micros for one in found if one.kind != "saved" and one.booked >= begins)
