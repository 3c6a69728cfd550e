"""One budget's share in this process: taken of in memory, drawn from the catalog, charged in the receipt's transaction.

Invariants:
- Nothing is dispatched on more than this process has drawn; what all processes hold and the ledger has charged together
  stay within the limit.
- A share is used only until its process would have to renew it: who was paused for longer dispatches nothing on it.

Far from the limit more is drawn than is needed, and the row of the share is lessened once a second by what was
charged: until then that counts twice, which is too much and never too little, and an answer touches no row. Within a
:data:`NEAR`-th of the limit exactly what is needed is drawn, the row is lessened with each charge, and what is free
goes back.
"""

from __future__ import annotations

import threading
from datetime import timedelta

import msgspec
from sqlalchemy.engine import Connection

from antiphon.catalog.budgets import Budget, BudgetShares
from antiphon.catalog.database import Database
from antiphon.core.ids import new_id
from antiphon.core.scope import Scope
from antiphon.operations.budgets.spending import BudgetCharges, KnownPrices

SHARES, NEAR = 64, 16
"""A draw takes a 64th of what is left, and only what is needed where less than a 16th of the limit is."""

LEASE_SECONDS = 15.0
"""Time for which a share is held after its process renewed it last."""

RENEW_SECONDS, WRITE_SECONDS = 4.0, 1.0
IDLE_SECONDS = 1.0
"""Time after which a share that nobody takes of goes back."""

REFUSED_SECONDS = 0.02
"""Time for which a refusal is repeated without asking the catalog."""


class DrawRefusal(msgspec.Struct, frozen=True):
    """A draw that found no room.

    Attributes:
        spent, held: of the budget, in micro-units; ``limit`` that of this path.
        settles: it fits as soon as others' reservations are charged or released.
    """

    budget: Budget
    need: int
    spent: int
    held: int
    limit: int
    settles: bool


class BudgetAccount:
    """The share of one budget that this process holds. Safe to share between threads."""

    def __init__(self, database: Database, scope: Scope, budget: Budget, prices: KnownPrices) -> None:
        self.scope = scope
        self.budget = budget
        self.holder = new_id("share")
        self.spending = BudgetCharges(database, scope, budget, prices)
        self._database = database
        self._shares = BudgetShares(database)
        self._drawing, self._lock = threading.Lock(), threading.Lock()
        self._free = self._reserved = self._unwritten = 0
        self._drawn = self.retired = False
        self._valid_until = self._renew_at = self._used_at = self._write_at = 0.0
        self._near = self._batch_waits = True
        self._refused: dict[bool, tuple[float, DrawRefusal]] = {}

    def take(self, need: int, *, batch: bool) -> bool:
        """Reserve of what was drawn before, if it is enough."""
        now = self._database.clock.monotonic()
        with self._lock:
            if self.retired or need > self._free or now >= self._valid_until or (batch and self._batch_waits):
                return False
            self._free -= need
            self._reserved += need
            self._used_at = now
            return True

    def draw(self, need: int, *, batch: bool) -> DrawRefusal | None:
        """Reserve, drawing what is lacking; ``None`` once it is reserved. It waits for the catalog.

        Raises:
            UnavailableError: the catalog is away.
        """
        with self._drawing:
            if self.take(need, batch=batch):
                return None
            if self.retired:
                return self._retired(need)
            clock, budget = self._database.clock, self.budget
            until, refused = self._refused.get(batch, (0.0, None))
            if refused is not None and need >= refused.need and clock.monotonic() < until:
                return refused
            limit = budget.batch_micros if batch else budget.limit_micros
            self.spending.micros()  # What is long to sum is summed before the write transaction.
            lease = clock.now() + timedelta(seconds=LEASE_SECONDS)
            with self._database.transaction() as connection:
                if self._drawn and not self._shares.renew(
                    self.scope, budget.name, self.holder, lease, within=connection
                ):
                    self.retired = True
                    return self._retired(need)
                self._write_charges(connection)
                held = self._shares.held(self.scope, budget.name, within=connection)
                spent = self.spending.micros(within=connection)
                with self._lock:
                    lacking = max(0, need - self._free)
                room = limit - spent - held
                if lacking > room:
                    refusal = DrawRefusal(budget, need, spent, held, limit, spent + need <= limit)
                    self._refused[batch] = clock.monotonic() + REFUSED_SECONDS, refusal
                    return refusal
                near = room < budget.limit_micros // NEAR
                amount = max(lacking, 0 if near or batch else room // SHARES)
                self._shares.draw(self.scope, budget.name, self.holder, amount, lease, within=connection)
            with self._lock:
                now = clock.monotonic()
                self._drawn, self._near = True, near
                self._batch_waits = spent + held + amount > budget.batch_micros
                self._renew_at, self._valid_until = now + RENEW_SECONDS, now + LEASE_SECONDS - 1.0
                self._used_at = now
                self._free += amount - need
                self._reserved += need
            return None

    def release(self, amount: int) -> None:
        """Release a reservation: nothing is charged of it."""
        with self._lock:
            self._reserved -= amount
            self._free += amount

    def charged(self, reserved: int, amount: int) -> bool:
        """So much of what was reserved is charged by the transaction under way; tells whether it is to lessen the
        share's row as well."""
        with self._lock:
            self._reserved -= reserved
            self._free += reserved - amount
            if not self._near:
                self._unwritten += amount
            return self._near

    def retire(self) -> None:
        """Dispatch nothing on it any more: another account takes its place, and what is under way is charged to it."""
        with self._lock:
            self.retired = True

    def keep(self) -> bool:
        """Renew the share, and give back what nobody needs here; ``False`` once it is retired and nothing is left."""
        clock = self._database.clock
        now = clock.monotonic()
        with self._lock:
            if not self._drawn:
                return not self.retired
            idle = self.retired or self._near or now - self._used_at > IDLE_SECONDS
            written = not self._unwritten or now < self._write_at
            if written and not (idle and (self._free or not self._reserved)) and now < self._renew_at:
                return True
            self._write_at = now + WRITE_SECONDS
        self.spending.micros()  # Prices are read again, and hours that are over summed.
        with self._drawing, self._database.transaction() as connection:
            lease = clock.now() + timedelta(seconds=LEASE_SECONDS)
            living = self._shares.renew(self.scope, self.budget.name, self.holder, lease, within=connection)
            self._write_charges(connection)
            held = self._shares.held(self.scope, self.budget.name, within=connection)
            # A price that was recorded for the past may have used the limit up.
            idle = idle or held + self.spending.micros(within=connection) > self.budget.limit_micros
            with self._lock:
                given, whole = max(0, self._free) if idle else 0, idle and not self._reserved
                if whole:
                    self._free, self._drawn = 0, False
                else:
                    self._free -= given
            if whole or given:
                self._shares.return_share(
                    self.scope, self.budget.name, self.holder, None if whole else given, within=connection
                )
        with self._lock:
            self.retired = self.retired or not living
            self._renew_at, self._valid_until = now + RENEW_SECONDS, now + LEASE_SECONDS - 1.0
            return self._drawn or not self.retired

    def close(self) -> None:
        """Give everything back."""
        with self._drawing, self._database.transaction() as connection:
            self._shares.return_share(self.scope, self.budget.name, self.holder, None, within=connection)
            with self._lock:
                self._free, self._drawn, self.retired = 0, False, True

    def _write_charges(self, within: Connection) -> None:
        # Not the charges' own transaction: they are committed by now, or were undone and are lost to the share.
        with self._lock:
            amount, self._unwritten = self._unwritten, 0
        if amount:
            self._shares.return_share(self.scope, self.budget.name, self.holder, amount, within=within)

    def _retired(self, need: int) -> DrawRefusal:
        return DrawRefusal(self.budget, need, 0, 0, self.budget.limit_micros, True)
