"""Budgets, and the shares of them that processes hold: drawn before work is dispatched, not charged yet.

Invariants:
- What the ledger has charged and what processes hold add up to no more than the limit. A charge lessens the share that
  it was reserved of in its own transaction.
- A share ends by itself: of a process that no longer renews it nothing counts after ``until``.

There is no counter of what is spent: that is the ledger itself (``operations/budgets/spending.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import msgspec
from sqlalchemy import delete, func, select, update
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import driver_sql, upsert
from antiphon.catalog.rows import row_of, value_of
from antiphon.core.scope import Scope

BudgetKind = Literal["tenant", "application", "key"]
BudgetPeriod = Literal["day", "month"]
LimitAction = Literal["refuse", "warn"]

_budgets, _shares = schema.budgets, schema.budget_shares
_put = upsert(_budgets).on_conflict_replace()
_LESS = "UPDATE budget_shares SET held = held - ? WHERE tenant = ? AND environment = ? AND budget = ? AND holder = ?"


class Budget(msgspec.Struct, frozen=True):
    """A limit of what may be charged in each day or month.

    Attributes:
        kind: of what it is a budget: of the whole tenant, of an application, or of the keys of one name.
        subject: the application or the keys' name; empty of a tenant.
        zone: of IANA's database, in which days and months begin.
        limit_micros: millionths of the currency.
        warn_percent, batch_percent: shares of the limit from which on it is warned of, and batch work waits; 100 for
            never before the limit.
        at_limit: ``warn`` refuses nothing.
        principal: who set it last.
    """

    name: str
    kind: BudgetKind
    subject: str
    period: BudgetPeriod
    zone: str
    currency: str
    limit_micros: int
    warn_percent: int
    batch_percent: int
    at_limit: LimitAction
    principal: str
    reason: str
    changed_at: datetime

    @property
    def batch_micros(self) -> int:
        """The limit of batch work."""
        return self.limit_micros * self.batch_percent // 100

    def concerns(self, application: str, principal: str) -> bool:
        """Tell whether an answer of this application to this principal is charged to it."""
        match self.kind:
            case "tenant":
                return True
            case "application":
                return self.subject == application
            case "key":
                return self.subject == principal


class Budgets:
    """Repository of budgets."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list(self, scope: Scope, *, within: Connection | None = None) -> Sequence[Budget]:
        """Every budget of a tenant, by name."""
        found = select(_budgets).where(schema.owned(_budgets, scope)).order_by(_budgets.c.name)
        return [value_of(Budget, row) for row in self._database.rows(found, within)]

    def find(self, scope: Scope, name: str, *, within: Connection | None = None) -> Budget | None:
        """The budget of a name."""
        row = self._database.first(select(_budgets).where(schema.owned(_budgets, scope, name=name)), within)
        return None if row is None else value_of(Budget, row)

    def put(self, scope: Scope, budget: Budget, *, within: Connection) -> None:
        """Set a budget, also in the place of the one of its name."""
        within.execute(_put, row_of(_budgets, budget, scope))

    def remove(self, scope: Scope, name: str, *, within: Connection) -> bool:
        """Remove a budget and the shares of it; tells whether there was one."""
        within.execute(delete(_shares).where(schema.owned(_shares, scope, budget=name)))
        return within.execute(delete(_budgets).where(schema.owned(_budgets, scope, name=name))).rowcount == 1


class BudgetShares:
    """Repository of the shares that processes hold."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def held(self, scope: Scope, budget: str, *, within: Connection | None = None) -> int:
        """Micro-units that all processes hold, without the shares that are over."""
        now = self._database.clock.now()
        owned = schema.owned(_shares, scope, budget=budget)
        living = select(func.coalesce(func.sum(_shares.c.held), 0)).where(owned, _shares.c.until >= now)
        return int(self._database.scalar(living, within))

    def draw(self, scope: Scope, budget: str, holder: str, amount: int, until: datetime, *, within: Connection) -> None:
        """Add to a holder's share, which is its own until then; shares that are over are removed."""
        over = _shares.c.until < self._database.clock.now()
        within.execute(delete(_shares).where(schema.owned(_shares, scope, budget=budget), over))
        drawn = upsert(_shares).values(
            tenant=scope.tenant, environment=scope.environment, budget=budget, holder=holder, held=amount, until=until
        )
        within.execute(drawn.on_conflict_do_update(set_={"held": _shares.c.held + amount, "until": until}))

    def renew(self, scope: Scope, budget: str, holder: str, until: datetime, *, within: Connection) -> bool:
        """Keep a holder's share until then; tells whether it has one that is not over."""
        own = schema.owned(_shares, scope, budget=budget, holder=holder) & (
            _shares.c.until >= self._database.clock.now()
        )
        return within.execute(update(_shares).where(own).values(until=until)).rowcount == 1

    def return_share(self, scope: Scope, budget: str, holder: str, amount: int | None, *, within: Connection) -> None:
        """Give back so much of a share, or all of it."""
        own = schema.owned(_shares, scope, budget=budget, holder=holder)
        if amount is None:
            within.execute(delete(_shares).where(own))
        else:
            within.execute(update(_shares).where(own).values(held=_shares.c.held - amount))

    def charge(self, charges: Sequence[tuple[int, Scope, str, str]], *, within: Connection) -> None:
        """Lessen shares by what is charged now: amount, scope, budget and holder of each."""
        rows = sorted(
            (scope.tenant, scope.environment, budget, holder, held) for held, scope, budget, holder in charges
        )
        driver_sql(within, _LESS, [(held, *owner) for *owner, held in rows])
