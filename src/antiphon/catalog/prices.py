"""Prices as they were recorded, in their order. Invariant: a record is never changed or removed; another one follows.

They are of an environment and all its tenants.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import func, select
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import ROWCOUNT, upsert
from antiphon.catalog.ledger import Resource
from antiphon.catalog.rows import value_of
from antiphon.core.errors import ConflictError
from antiphon.core.scope import ANY

_table = schema.prices


class PriceRecord(msgspec.Struct, frozen=True):
    """A price that somebody recorded.

    Attributes:
        model: that it is for; empty: for every model that has none of its own.
        amount: of one unit (``operations/cost/price_book.py``), as a decimal number.
        since: the hour from which it holds, which may be long before ``recorded_at``.
        principal: who recorded it.
    """

    sequence: int
    resource: Resource
    model: str
    amount: str
    currency: str
    since: datetime
    recorded_at: datetime
    principal: str
    reason: str


class Prices:
    """Repository of recorded prices."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list(self, environment: str, *, within: Connection | None = None) -> Sequence[PriceRecord]:
        """Every record, the first one first."""
        found = select(_table).where(_table.c.tenant == ANY, _table.c.environment == environment)
        return [value_of(PriceRecord, row) for row in self._database.rows(found.order_by(_table.c.sequence), within)]

    def newest(self, environment: str, *, within: Connection | None = None) -> int:
        """The number of the last record; 0 before the first."""
        owned = (_table.c.tenant == ANY) & (_table.c.environment == environment)
        return int(self._database.scalar(select(func.coalesce(func.max(_table.c.sequence), 0)).where(owned), within))

    def record(
        self,
        environment: str,
        resource: Resource,
        model: str,
        amount: str,
        currency: str,
        since: datetime,
        principal: str,
        reason: str,
        *,
        within: Connection,
    ) -> PriceRecord:
        """Record a price as of now.

        Raises:
            ConflictError: another process has just recorded one.
        """
        sequence = 1 + self.newest(environment, within=within)
        now = self._database.clock.now()
        made = PriceRecord(sequence, resource, model, amount, currency, since, now, principal, reason)
        values = msgspec.structs.asdict(made) | {"tenant": ANY, "environment": environment}
        added = upsert(_table).values(values).on_conflict_do_nothing().execution_options(**ROWCOUNT)
        if within.execute(added).rowcount != 1:
            raise ConflictError("Another process has just recorded a price.", where="prices", next_step="Try again.")
        return made
