"""Costs of answers by the hour, from the ledger, for objectives of cost.

An answer counts that users got, online and in batches, of the release or of what stood in for it. Its price is that
which holds in its hour as it is known now: a correction counts where the answer was, so that a price which is recorded
for last month raises no alert today. Shadow answers, evaluations, training and idle engines are no answer's cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import groupby

from antiphon.catalog.database import Database
from antiphon.catalog.ledger import Ledger
from antiphon.catalog.serving.receipt import SEEN_ROLES, STAND_IN_ROLES
from antiphon.core.clock import parse_duration
from antiphon.core.scope import Scope
from antiphon.definitions.objectives import ObjectiveSpec
from antiphon.operations.budgets.spending import SETTLED_AFTER, KnownPrices
from antiphon.operations.cost.amounts import MICROS
from antiphon.operations.cost.price_book import hour_of, next_hour
from antiphon.operations.cost.rating import Charge, charges
from antiphon.operations.objectives.burn import CountHistory, Counts

_ROLES = (*SEEN_ROLES, *STAND_IN_ROLES)


class AnswerCosts:
    """Costs of one tenant's answers; hours that are over are kept until a price is recorded."""

    def __init__(self, database: Database, scope: Scope) -> None:
        self._database = database
        self._scope = scope
        self._ledger = Ledger(database)
        self._prices = KnownPrices(database, scope.environment)
        self._book = self._prices.book
        self._hours: dict[ObjectiveSpec, dict[datetime, Counts]] = {}
        self._settled: dict[ObjectiveSpec, datetime] = {}

    def read(self, objectives: Iterable[ObjectiveSpec], now: datetime) -> None:
        """Take in what the ledger has up to a moment."""
        listed = list(objectives)
        for gone in self._hours.keys() - set(listed):
            del self._hours[gone], self._settled[gone]
        if not listed:
            return
        with self._database.read() as connection:
            book = self._prices.read(connection)
            if book is not self._book:
                self._book, self._hours, self._settled = book, {}, {}
            for objective in listed:
                begin = hour_of(now - parse_duration(objective.window))
                since = self._settled.get(objective, begin)
                entries = self._ledger.entries(
                    self._scope, since, next_hour(now), application=objective.application, within=connection
                )
                known = self._hours.setdefault(objective, {})
                of_answers = [one for one in entries if one.role in _ROLES]
                for start, of_hour in groupby(charges(of_answers, book), key=lambda one: one.entry.hour):
                    known[start] = _counted(objective, list(of_hour))
                for old in [start for start in known if start < begin]:
                    del known[old]
                self._settled[objective] = max(since, hour_of(now - SETTLED_AFTER))

    def of(self, objective: ObjectiveSpec) -> CountHistory:
        """Those of an objective."""
        hours = self._hours.get(objective, {})
        return CountHistory(hours, hours, "money")


def _counted(objective: ObjectiveSpec, of_hour: Sequence[Charge]) -> Counts:
    """The money of an hour, in answers that could have been had for it, and the answers that there were. Where nothing
    that was used has a price, the hour says nothing."""
    assert objective.most is not None
    used = [one for one in of_hour if one.kind != "saved" and one.entry.resource != "answer"]
    if used and not any(one.currency for one in used):
        return Counts()
    answers = sum(one.entry.quantity for one in of_hour if one.kind == "usage" and one.entry.resource == "answer")
    return Counts(sum(one.micros for one in used) / (objective.most * MICROS), float(answers))
