"""The ledger: what was used, as exact integers by the hour, added in the transaction of what it measures.

Invariants:
- A usage is in the ledger if and only if what it measures (a receipt, the end of a run's attempt, a reading of a meter)
  is committed, and once: it is added right before that transaction commits, and undone with it.
- Its hour is that of the commit, so that an hour that is over does not change.
- Quantities are integers, and nothing is rounded after they were measured.
- What was used stays: erasing a tenant or a person takes the names from the rows, in transactions that leave their sum.

Money is no part of it: prices may change backwards in time, what was used may not (``operations/cost``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

import msgspec
from sqlalchemy import ColumnElement, delete, func, select, tuple_
from sqlalchemy.engine import Connection, RowMapping

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import driver_sql, in_parts
from antiphon.catalog.rows import value_of
from antiphon.core.clock import microseconds
from antiphon.core.scope import ANY, Scope

Resource = Literal[
    "engine",
    "engine_idle",
    "engine_measured",
    "gpu",
    "gpu_idle",
    "gpu_measured",
    "prompt_token",
    "cached_prompt_token",
    "completion_token",
    "answer",
    "worker",
    "training_processor",
    "memory",
    "storage",
    "saved_engine",
    "saved_gpu",
    "saved_prompt_token",
    "saved_completion_token",
]
"""A measure: time of engines, GPUs, workers and processors in microseconds, tokens, answers, byte-seconds of memory and
of what is stored. ``saved_`` is what an answer that was served again had taken; it is told and not charged.
``engine_measured`` is all time of engines, which the charges of ``engine`` and ``engine_idle`` add up to; so it is with
``gpu_measured``, of engines of ours that declare GPUs."""

SharedTime = Literal["engine", "gpu"]
"""Time that is measured as a whole, of which answers take parts."""

IDLE_TIME: dict[SharedTime, Resource] = {"engine": "engine_idle", "gpu": "gpu_idle"}
WHOLE_TIME: dict[SharedTime, Resource] = {"engine": "engine_measured", "gpu": "gpu_measured"}

ERASED = "*erased"
"""Owner of what erased tenants used, and principal of what erased persons did; no name can be this."""

HOUR = timedelta(hours=1)
_HOUR = 3_600_000_000
_RENAMED_AT_ONCE = 500
_table = schema.ledger_entries


class MeteredUsage(msgspec.Struct, frozen=True):
    """A quantity that was used, and by what.

    Attributes:
        work: the run or batch job that it was used for; of storage, the part.
    """

    resource: Resource
    quantity: int
    application: str = ""
    release: str = ""
    path: str = ""
    role: str = ""
    principal: str = ""
    engine: str = ""
    model: str = ""
    work: str = ""


class LedgerEntry(MeteredUsage, frozen=True, kw_only=True):
    """The sum of an hour."""

    tenant: str
    hour: datetime


class TenantEngineTime(msgspec.Struct, frozen=True):
    """Microseconds of an engine, or of its GPUs, that a tenant's answers took in an hour."""

    hour: datetime
    tenant: str
    engine: str
    quantity: int


_DIMENSIONS = tuple(name for name in MeteredUsage.__struct_fields__ if name != "quantity")
_KEY = ("tenant", "environment", "hour", *_DIMENSIONS)
_ADD = (
    f"INSERT INTO ledger_entries ({', '.join(_KEY)}, quantity) VALUES ({', '.join('?' * (len(_KEY) + 1))}) "
    f"ON CONFLICT ({', '.join(_KEY)}) DO UPDATE SET quantity = ledger_entries.quantity + excluded.quantity"
)


class Ledger:
    """Repository of what was used."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add_with_commit(self, scope: Scope, usages: Iterable[MeteredUsage]) -> None:
        """Add usages with the write transaction that is open in this thread: all of it in one statement, right before
        the commit."""
        for usage in usages:
            self._database.gather(self._add_all, ((scope.tenant, scope.environment), usage))

    def add_shared_with_commit(self, environment: str, usages: Iterable[MeteredUsage]) -> None:
        """As :meth:`add_with_commit`, of what belongs to no tenant."""
        for usage in usages:
            self._database.gather(self._add_all, ((ANY, environment), usage))

    def _add_all(self, items: Sequence[tuple[tuple[str, str], MeteredUsage]], within: Connection) -> None:
        now = microseconds(self._database.clock.now())
        hour = now - now % _HOUR
        sums: dict[tuple[Any, ...], int] = {}
        for owner, usage in items:
            if usage.quantity:
                resource, quantity, *rest = msgspec.structs.astuple(usage)
                key = (*owner, hour, resource, *rest)
                sums[key] = sums.get(key, 0) + quantity
        if sums:
            # In one order for all writers: rows of a server stay locked until the commit.
            driver_sql(within, _ADD, [(*key, quantity) for key, quantity in sorted(sums.items())])

    def entries(
        self,
        scope: Scope,
        since: datetime,
        until: datetime,
        *,
        application: str | None = None,
        principal: str | None = None,
        within: Connection | None = None,
    ) -> list[LedgerEntry]:
        """A tenant's sums of the hours that begin in ``since <= hour < until``, by hour; all of them, or those of an
        application or a principal."""
        conditions = schema.given(_table, application=application, principal=principal)
        return self._entries(scope.tenant, scope.environment, since, until, *conditions, within=within)

    def of_work(self, scope: Scope, work: Sequence[str]) -> list[LedgerEntry]:
        """The sums of what these runs and batch jobs of a tenant used, by hour."""
        found: list[LedgerEntry] = []
        for named in in_parts(_table.c.work, work):
            statement = select(_table).where(schema.owned(_table, scope), named)
            found += [value_of(LedgerEntry, row) for row in self._database.rows(statement)]
        return sorted(found, key=lambda one: (one.hour, one.work))

    def shared(self, environment: str, since: datetime, until: datetime) -> list[LedgerEntry]:
        """As :meth:`entries`, of what belongs to no tenant."""
        return self._entries(ANY, environment, since, until)

    def _entries(
        self,
        tenant: str,
        environment: str,
        since: datetime,
        until: datetime,
        *conditions: ColumnElement[bool],
        within: Connection | None = None,
    ) -> list[LedgerEntry]:
        owned = (_table.c.tenant == tenant) & (_table.c.environment == environment)
        statement = select(_table).where(owned, *_span(since, until), *conditions).order_by(*_table.primary_key.columns)
        return [value_of(LedgerEntry, row) for row in self._database.rows(statement, within)]

    def erased(self, environment: str, since: datetime, until: datetime) -> list[LedgerEntry]:
        """As :meth:`entries`, of tenants that were erased."""
        return self._entries(ERASED, environment, since, until)

    def anonymize_tenant(self, tenant: str, models: Collection[str]) -> int:
        """Hand some rows of a tenant to :data:`ERASED`, with their resource, path and engine alone, and with those of
        these models, whose tokens have prices of their own. Returns how many; 0 once none is left."""

        def nameless(row: RowMapping) -> tuple[Any, ...]:
            model = row["model"] if row["model"] in models else ""
            kept = {"tenant": ERASED, "environment": row["environment"], "resource": row["resource"],
                    "path": row["path"], "engine": row["engine"], "model": model}  # fmt: skip
            return tuple(microseconds(row["hour"]) if name == "hour" else kept.get(name, "") for name in _KEY)

        return self._rename(_table.c.tenant == tenant, nameless)

    def anonymize_principal(self, scope: Scope, principal: str) -> int:
        """Take a principal's name from some rows of a scope. Returns how many; 0 once none is left."""

        def nameless(row: RowMapping) -> tuple[Any, ...]:
            renamed = {**row, "hour": microseconds(row["hour"]), "principal": ERASED}
            return tuple(renamed[name] for name in _KEY)

        return self._rename(schema.owned(_table, scope) & (_table.c.principal == principal), nameless)

    def _rename(self, those: ColumnElement[bool], key: Callable[[RowMapping], tuple[Any, ...]]) -> int:
        """Add rows to those of another key, and delete them, in one transaction."""
        keys = list(_table.primary_key.columns)
        some = select(_table).where(those).order_by(*keys).limit(_RENAMED_AT_ONCE)
        with self._database.transaction() as connection:
            # Locked in the order of all writers, so that what others add until then is in them.
            rows = connection.execute(some.with_for_update()).mappings().all()
            sums: dict[tuple[Any, ...], int] = {}
            for row in rows:
                sums[key(row)] = sums.get(key(row), 0) + row["quantity"]
            if rows:
                gone = [tuple(row[column.name] for column in keys) for row in rows]
                connection.execute(delete(_table).where(tuple_(*keys).in_(gone)))
                driver_sql(connection, _ADD, [(*named, quantity) for named, quantity in sorted(sums.items())])
        return len(rows)

    def engine_time(
        self, environment: str, since: datetime, until: datetime, of: SharedTime = "engine"
    ) -> list[TenantEngineTime]:
        """Time of engines, or of their GPUs, that answers of all tenants took, by hour, tenant and engine."""
        by = (_table.c.hour, _table.c.tenant, _table.c.engine)
        statement = (
            select(*by, func.sum(_table.c.quantity))
            .where(_table.c.environment == environment, _table.c.resource == of, *_span(since, until))
            .group_by(*by)
            .order_by(*by)
        )
        rows = self._database.rows(statement)
        return [TenantEngineTime(row[0], row[1], row[2], int(row[3])) for row in rows]

    def began(self, scope: Scope) -> datetime | None:
        """The first hour in which something of a tenant was used."""
        first: datetime | None = self._database.scalar(
            select(func.min(_table.c.hour)).where(schema.owned(_table, scope))
        )
        return first

    def measured_since(self, environment: str, of: SharedTime = "engine") -> dict[str, datetime]:
        """Engine to the first hour in which its time, or that of its GPUs, was measured."""
        measured = (_table.c.tenant == ANY) & (_table.c.environment == environment)
        statement = select(_table.c.engine, func.min(_table.c.hour)).where(
            measured, _table.c.resource == WHOLE_TIME[of]
        )
        rows = self._database.rows(statement.group_by(_table.c.engine))
        return {row[0]: row[1] for row in rows}


def _span(since: datetime, until: datetime) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return _table.c.hour >= since, _table.c.hour < until
