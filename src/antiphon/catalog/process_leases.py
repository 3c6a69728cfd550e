"""Leases of processes: what one process of an environment does at a time, and which process has a name.

Invariant: a lease has one holder; another takes it over once it is over, or once its holder is known to be gone. What
is done under it must bear that two do it for a moment: a holder that was paused does not know yet that it has lost it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import upsert
from antiphon.core.scope import ANY, Scope

FORGOTTEN = timedelta(days=1)
"""Leases that have been over for so long are removed: of processes that were killed and never came back."""

_table = schema.leases
_columns = _table.c.name, _table.c.holder, _table.c.epoch, _table.c.until, _table.c.detail
_put = upsert(_table).on_conflict_replace("holder", "epoch", "until", "detail")


class ProcessLease(msgspec.Struct, frozen=True):
    """A lease as it stands: the epoch counts its holders; ``detail`` is what the holder says of itself."""

    name: str
    holder: str
    epoch: int
    until: datetime
    detail: str | None


class ProcessLeases:
    """Repository of the leases of one environment."""

    def __init__(self, database: Database, environment: str) -> None:
        self._database = database
        self._environment = environment
        self._scope = Scope(environment=environment)
        self._own = (_table.c.tenant == ANY) & (_table.c.environment == environment)

    def acquire(
        self,
        name: str,
        holder: str,
        seconds: float,
        gone: Callable[[str], bool] = lambda holder: False,
        detail: str | None = None,
    ) -> bool:
        """Take a lease or renew it, for so many seconds; tells whether ``holder`` has it now.

        Args:
            gone: tells whether another holder is known to have ended.
            detail: kept with the lease, for those who list it.
        """
        # Those who stand by look without taking the write lock.
        if self._taken(self.find(name), holder, gone):
            return False
        return bool(self.acquire_all({name: detail}, holder, seconds, gone))

    def acquire_all(
        self,
        details: Mapping[str, str | None],
        holder: str,
        seconds: float,
        gone: Callable[[str], bool] = lambda holder: False,
        *,
        within: Connection | None = None,
    ) -> frozenset[str]:
        """As :meth:`acquire` for several leases in one transaction, each with its detail; the names of those that
        ``holder`` has now."""
        with self._database.writing(within) as connection:
            listed = connection.execute(select(*_columns).where(self._own, _table.c.name.in_(details)))
            known = {row.name: _lease(row) for row in listed}
            now = self._database.clock.now()
            until = now + timedelta(seconds=seconds)
            renewed = [name for name, found in known.items() if found.holder == holder]
            for detail in dict.fromkeys(details[name] for name in renewed):
                kept = update(_table).where(self._own, _table.c.name.in_([n for n in renewed if details[n] == detail]))
                connection.execute(kept.values(until=until, detail=detail))
            owner = {"tenant": ANY, "environment": self._environment, "holder": holder, "until": until}
            taken = [
                owner | {"name": name, "epoch": found.epoch + 1 if (found := known.get(name)) else 1, "detail": detail}
                for name, detail in details.items()
                if name not in renewed and not self._taken(known.get(name), holder, gone)
            ]
            if taken:
                connection.execute(_put, taken)
                self._database.ring("leases", self._scope)
            if len(known) < len(details):  # New names are what could grow.
                connection.execute(delete(_table).where(self._own, _table.c.until < now - FORGOTTEN))
        return frozenset([*renewed, *(row["name"] for row in taken)])

    def _taken(self, found: ProcessLease | None, holder: str, gone: Callable[[str], bool]) -> bool:
        if found is None or found.holder == holder:
            return False
        return found.until >= self._database.clock.now() and not gone(found.holder)

    def release(self, name: str, holder: str) -> None:
        """Give a lease back, if this holder has it."""
        self.release_all([name], holder)

    def release_all(self, names: Collection[str], holder: str, *, within: Connection | None = None) -> int:
        """As :meth:`release`, of several leases in one transaction; returns how many it had."""
        held = (_table.c.name.in_(names)) & (_table.c.holder == holder)
        with self._database.writing(within) as connection:
            if released := self._database.write(delete(_table).where(self._own, held), connection):
                self._database.ring("leases", self._scope)
        return released

    def find(self, name: str, *, within: Connection | None = None) -> ProcessLease | None:
        """The lease of a name, if it was ever taken and not given back; it may be over."""
        row = self._database.first(select(*_columns).where(self._own, _table.c.name == name), within)
        return None if row is None else _lease(row)

    def living(self, prefix: str, *, within: Connection | None = None) -> tuple[ProcessLease, ...]:
        """The leases of all names that begin so and are not over, by name."""
        return self._listed(prefix, _table.c.until >= self._database.clock.now(), within=within)

    def listed(self, prefix: str) -> tuple[ProcessLease, ...]:
        """The leases of all names that begin so, by name, also those that are over and nobody took since."""
        return self._listed(prefix)

    def _listed(
        self, prefix: str, *conditions: ColumnElement[bool], within: Connection | None = None
    ) -> tuple[ProcessLease, ...]:
        begins = _table.c.name.startswith(prefix, autoescape=True)
        listed = select(*_columns).where(self._own, begins, *conditions).order_by(_table.c.name)
        return tuple(_lease(row) for row in self._database.rows(listed, within))


def _lease(row: Any) -> ProcessLease:
    return ProcessLease(row.name, row.holder, row.epoch, row.until, row.detail)
