"""Spending of a budget: the charges of the ledger that concern it, by the prices that are known now.

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


class KnownPrices:
    """The price book of an environment as it was read last, one for all budgets of a process."""

    def __init__(self, database: Database, environment: str) -> None:
        self._prices = Prices(database)
        self._environment = environment
        self._newest = 0
        self.book = PriceBook(())

    def read(self, within: Connection) -> PriceBook:
        """The book as of now: the same one while no price is recorded."""
        newest = self._prices.newest(self._environment, within=within)
        if newest != self._newest:
            self.book = PriceBook(self._prices.list(self._environment, within=within))
            self._newest = newest
        return self.book


class BudgetCharges:
    """The charges of one budget. Safe to share between threads."""

    def __init__(self, database: Database, scope: Scope, budget: Budget, prices: KnownPrices | None = None) -> None:
        self._database = database
        self._scope = scope
        self._budget = budget
        self._ledger = Ledger(database)
        self._prices = prices or KnownPrices(database, scope.environment)
        self._book = self._prices.book
        self._begins: datetime | None = None
        self._through: datetime | None = None
        self._past = 0
        self._lock = threading.Lock()

    def micros(self, *, within: Connection | None = None) -> int:
        """Micro-units that are charged in the present period."""
        now = self._database.clock.now()
        with self._lock, self._database.reading(within) as connection:
            book = self._prices.read(connection)
            if book is not self._book:
                self._book, self._through = book, None
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
