"""Tenants of an installation, and whether they are served.

A tenant without a row of its own, which its first principal made, is active. Nothing of a suspended or deleted tenant
is served: its keys, sessions and tokens are refused within the lease of revocation, and its runs are not claimed.
"""

from __future__ import annotations

import builtins
from datetime import datetime
from typing import Literal

import msgspec
from sqlalchemy import func, select, union, update
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import upsert
from antiphon.core.clock import from_microseconds, microseconds
from antiphon.core.errors import ConflictError, ForbiddenError, NotFoundError
from antiphon.core.scope import ANY, Scope

TenantState = Literal["active", "suspended", "deleted"]

_table = schema.tenants
_runs = schema.runs


class Tenant(msgspec.Struct, frozen=True):
    """A tenant, who gave it its state, when and why. ``changed_at`` is ``None`` where nobody did."""

    id: str
    state: TenantState
    reason: str = ""
    changed_by: str | None = None
    changed_at: datetime | None = None


class ServedParts(msgspec.Struct, frozen=True):
    """Counts of what is served of a tenant, in all environments: applications with a live release, environments with
    published features, and runs that have not ended."""

    applications: int
    published: int
    runs: int

    def __bool__(self) -> bool:
        return bool(self.applications or self.published or self.runs)


class Tenants:
    """Repository of tenants."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list(self) -> builtins.list[Tenant]:
        """All tenants by name: those with a row, and those that have principals."""
        known = union(select(_table.c.tenant), select(schema.principals.c.tenant)).subquery()
        statement = select(known.c.tenant).order_by(known.c.tenant)
        with self._database.read() as connection:
            return [self.get(name, within=connection) for name in connection.execute(statement).scalars().all()]

    def get(self, tenant: str, *, within: Connection | None = None) -> Tenant:
        """One tenant.

        Raises:
            NotFoundError: there is none of that name.
        """
        with self._database.reading(within) as connection:
            row = connection.execute(select(_table).where(_table.c.tenant == tenant)).first()
            who = schema.principals
            if row is None and connection.execute(select(who.c.id).where(who.c.tenant == tenant)).first() is None:
                raise NotFoundError(f"There is no tenant {tenant!r}.", next_step="See `antiphon tenants list`.")
        if row is None:
            return Tenant(tenant, "active")
        return Tenant(tenant, row.state, row.reason, row.changed_by, from_microseconds(row.changed_at))

    def state(self, tenant: str) -> TenantState:
        """The state of a tenant; of one without a row it is active."""
        found: TenantState | None = self._database.scalar(select(_table.c.state).where(_table.c.tenant == tenant))
        return found or "active"

    def create(self, tenant: str, *, by: str, within: Connection) -> Tenant:
        """Make a tenant, without principals yet.

        Raises:
            InvalidInputError: the name is malformed. ConflictError: there is, or was, one of that name.
        """
        Scope(tenant=tenant)
        try:
            there = self.get(tenant, within=within)
        except NotFoundError:
            return self._put(tenant, "active", "", by, within)
        raise ConflictError(f"There is a tenant {tenant!r}, which is {there.state}.", next_step="Choose another name.")

    def change(self, tenant: str, state: TenantState, *, reason: str, by: str, within: Connection) -> Tenant:
        """Give a tenant another state. A deleted one keeps its state; its runs are cancelled.

        Raises:
            NotFoundError: there is none of that name. ConflictError: it is deleted.
        """
        if self.get(tenant, within=within).state == "deleted":
            raise ConflictError(f"The tenant {tenant!r} is deleted.", next_step="Make one of another name.")
        if state == "deleted":
            now, own = self._database.clock.now(), _runs.c.tenant == tenant
            ended = {"status": "cancelled", "ended_at": now, "updated_at": now, "epoch": _runs.c.epoch + 1}
            within.execute(update(_runs).where(own, _runs.c.status == "queued").values(ended))
            within.execute(update(_runs).where(own, _runs.c.status == "running").values(cancel_requested=True))
        return self._put(tenant, state, reason, by, within)

    def served(self, tenant: str, *, within: Connection | None = None) -> ServedParts:
        """Count what is served of a tenant."""
        pointers, published = schema.release_pointers, schema.publications
        live = select(pointers.c.environment, pointers.c.application).where(pointers.c.tenant == tenant).distinct()
        online = select(published.c.environment).where(published.c.tenant == tenant).distinct()
        under_way = select(_runs.c.id).where(_runs.c.tenant == tenant, _runs.c.status.in_(("queued", "running")))
        with self._database.reading(within) as connection:
            counts = [
                connection.execute(select(func.count()).select_from(one.subquery())).scalar_one()
                for one in (live, online, under_way)
            ]
        return ServedParts(*counts)

    def _put(self, tenant: str, state: TenantState, reason: str, by: str, within: Connection) -> Tenant:
        now = microseconds(self._database.clock.now())
        values = {"state": state, "reason": reason, "changed_by": by, "changed_at": now}
        statement = upsert(_table).values(tenant=tenant, environment=ANY, **values)
        within.execute(statement.on_conflict_do_update(set_=values))
        return Tenant(tenant, state, reason, by, from_microseconds(now))


def require_served(tenant: str, state: TenantState | None) -> None:
    """Refuse whatever is asked in the name of a tenant that is not served.

    Raises:
        ForbiddenError: it is suspended or deleted.
    """
    if state not in (None, "active"):
        raise ForbiddenError(
            f"The tenant {tenant!r} is {state}.",
            where="tenant",
            next_step="Ask who runs this installation."
            + (" `antiphon tenants resume` lets it go on." if state == "suspended" else ""),
        )
