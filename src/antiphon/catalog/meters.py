"""Readings of meters as they were made last.

Invariant: a reading is moved from where it was, in the transaction that adds to the ledger what was used since then, so
that time counts once, whichever process reads and whatever is killed.
"""

from __future__ import annotations

from datetime import datetime

import msgspec
from sqlalchemy import delete, select, update
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import ROWCOUNT, upsert
from antiphon.catalog.rows import value_of
from antiphon.core.ids import content_hash

_table = schema.meter_readings


def nameless(process: str) -> str:
    """A name of a process that says neither its host nor whose it is; a process has random parts, so that nobody finds
    it by trying."""
    return content_hash(process)[:32]


class MeterState(msgspec.Struct, frozen=True):
    """Counts of a meter as they were read last.

    Attributes:
        meter: of what.
        process: whose counts they are; another process counts from zero.
        total, part: counts: of an engine microseconds of its life, and those of them in which it worked.
    """

    meter: str
    process: str
    total: int
    part: int
    read_at: datetime


class MeterReadings:
    """Repository of readings, by tenant (``*`` for meters of what all share) and environment."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, tenant: str, environment: str, meter: str, *, within: Connection) -> MeterState | None:
        """The last reading of a meter."""
        owned = (_table.c.tenant == tenant) & (_table.c.environment == environment) & (_table.c.meter == meter)
        row = self._database.first(select(_table).where(owned), within)
        return None if row is None else value_of(MeterState, row)

    def move(
        self, tenant: str, environment: str, last: MeterState | None, reading: MeterState, *, within: Connection
    ) -> bool:
        """Put a reading in the place of the last one; ``False`` where another process has done so."""
        values = msgspec.structs.asdict(reading)
        owner = {"tenant": tenant, "environment": environment}
        if last is None:
            added = upsert(_table).values(**owner, **values).on_conflict_do_nothing().execution_options(**ROWCOUNT)
            return within.execute(added).rowcount == 1
        unchanged = [_table.c[name] == value for name, value in {**owner, **msgspec.structs.asdict(last)}.items()]
        return within.execute(update(_table).where(*unchanged).values(**values)).rowcount == 1

    def names(self, tenant: str, environment: str, prefix: str) -> list[str]:
        """The meters whose name begins so."""
        owned = (_table.c.tenant == tenant) & (_table.c.environment == environment)
        named = select(_table.c.meter).where(owned, _table.c.meter.startswith(prefix, autoescape=True))
        return [row.meter for row in self._database.rows(named.order_by(_table.c.meter))]

    def forget(self, tenant: str, environment: str, kind: str, before: datetime) -> None:
        """Remove the meters of a kind that nobody has read since."""
        owned = (_table.c.tenant == tenant) & (_table.c.environment == environment)
        old = _table.c.meter.startswith(kind, autoescape=True) & (_table.c.read_at < before)
        self._database.write(delete(_table).where(owned, old))

    def remove(self, tenant: str, environment: str, meter: str) -> None:
        """Forget a meter that nobody reads any more; one that were read again would count from the beginning."""
        owned = (_table.c.tenant == tenant) & (_table.c.environment == environment) & (_table.c.meter == meter)
        self._database.write(delete(_table).where(owned))
