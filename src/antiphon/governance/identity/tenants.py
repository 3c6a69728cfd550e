"""Tenants of an installation, and whether they are served.

A tenant without a row of its own, which its first principal made, is active. Nothing of a suspended or deleted tenant
is served: its keys, sessions and tokens are refused within the lease of revocation, and its runs are not claimed.
"""

from __future__ import annotations

import builtins
from datetime import datetime
from functools import partial
from typing import Literal

import msgspec
from msgspec import structs
from sqlalchemy import func, select, union, update
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.batch.jobs import ENDED
from antiphon.catalog.database import Database
from antiphon.catalog.dialect import upsert
from antiphon.core.clock import Clock, from_microseconds, microseconds
from antiphon.core.errors import (
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    OverloadedError,
    UnavailableError,
)
from antiphon.core.leases import Leases, Renewer
from antiphon.core.scope import ANY, Scope
from antiphon.governance.identity.principal import LARGEST_QUOTA, NO_ALLOWANCE, Allowance

TenantState = Literal["active", "suspended", "deleted", "erased"]
LEASE_SECONDS = 1.0
"""For so long a process believes a tenant's share and quota."""

RETRY_BATCH_SECONDS = 60.0
"""Time after which an order beyond the quota of batches is worth another try."""

_LARGEST_SHARE = 1_000.0
_MOST_TENANTS = 10_000
_ALWAYS = 1e9

_table = schema.tenants
_runs, _jobs = schema.runs, schema.jobs


class TenantQuota(msgspec.Struct, frozen=True):
    """Bounds of a tenant, all of its principals together; ``None`` is without bound.

    Attributes:
        requests_per_minute, tokens_per_minute, tokens_per_day: as of an API key's allowance.
        stored_bytes: of its files; the settings' bound holds where there is none.
        batches: batches and table jobs that have not ended.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    stored_bytes: int | None = None
    batches: int | None = None

    @property
    def allowance(self) -> Allowance:
        """Its bounds of requests and tokens."""
        return Allowance(self.requests_per_minute, self.tokens_per_minute, self.tokens_per_day)


NO_QUOTA = TenantQuota()
"""A quota without bounds."""


class Tenant(msgspec.Struct, frozen=True):
    """A tenant with its state, and the principal, time and reason of its last change; ``changed_at`` is ``None`` before
    the first.

    Attributes:
        share: of the engine, its gate and the queue of batch work beside other tenants; 1 is as much as another.
    """

    id: str
    state: TenantState
    reason: str = ""
    changed_by: str | None = None
    changed_at: datetime | None = None
    share: float = 1.0
    quota: TenantQuota = NO_QUOTA


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
        quota = NO_QUOTA if row.quota is None else msgspec.json.decode(row.quota, type=TenantQuota)
        changed_at = from_microseconds(row.changed_at)
        return Tenant(tenant, row.state, row.reason, row.changed_by, changed_at, row.share, quota)

    def state(self, tenant: str) -> TenantState:
        """The state of a tenant; of one without a row it is active."""
        found: TenantState | None = self._database.scalar(select(_table.c.state).where(_table.c.tenant == tenant))
        return found or "active"

    def create(
        self, tenant: str, *, by: str, share: float = 1.0, quota: TenantQuota = NO_QUOTA, within: Connection
    ) -> Tenant:
        """Make a tenant, without principals yet.

        Raises:
            InvalidInputError: the name, the share or the quota is malformed.
            ConflictError: there is, or was, one of that name.
        """
        Scope(tenant=tenant)
        check_terms(share, quota)
        try:
            there = self.get(tenant, within=within)
        except NotFoundError:
            made = Tenant(tenant, "active", "", by, self._database.clock.now(), share, quota)
            return self._put(made, within)
        raise ConflictError(f"There is a tenant {tenant!r}, which is {there.state}.", next_step="Choose another name.")

    def change(self, tenant: str, state: TenantState, *, reason: str, by: str, within: Connection) -> Tenant:
        """Give a tenant another state. A deleted one keeps its state; its runs are cancelled.

        Raises:
            NotFoundError: there is none of that name. ConflictError: it is deleted.
        """
        before = self.get(tenant, within=within)
        if before.state in ("deleted", "erased"):
            raise ConflictError(f"The tenant {tenant!r} is {before.state}.", next_step="Make one of another name.")
        if state == "deleted":
            now, own = self._database.clock.now(), _runs.c.tenant == tenant
            ended = {"status": "cancelled", "ended_at": now, "updated_at": now, "epoch": _runs.c.epoch + 1}
            within.execute(update(_runs).where(own, _runs.c.status == "queued").values(ended))
            within.execute(update(_runs).where(own, _runs.c.status == "running").values(cancel_requested=True))
        now = self._database.clock.now()
        return self._put(structs.replace(before, state=state, reason=reason, changed_by=by, changed_at=now), within)

    def mark_erased(self, tenant: str, *, reason: str, by: str, within: Connection) -> Tenant:
        """Say that what a deleted tenant stored is erased.

        Raises:
            NotFoundError: there is none of that name. ConflictError: it is not deleted.
        """
        before, now = self.get(tenant, within=within), self._database.clock.now()
        require_deleted(before)
        after = structs.replace(before, state="erased", reason=reason, changed_by=by, changed_at=now)
        return self._put(after, within)

    def set_terms(
        self, tenant: str, *, share: float | None, quota: TenantQuota | None, by: str, within: Connection
    ) -> Tenant:
        """Give a tenant another share or quota; what is ``None`` stays. In force within :data:`LEASE_SECONDS`.

        Raises:
            NotFoundError: there is none of that name. InvalidInputError: the share or the quota is malformed.
        """
        before = self.get(tenant, within=within)
        after = structs.replace(
            before,
            share=before.share if share is None else share,
            quota=before.quota if quota is None else quota,
            changed_by=before.changed_by or by,
            changed_at=before.changed_at or self._database.clock.now(),
        )
        check_terms(after.share, after.quota)
        return self._put(after, within)

    def require_room(self, tenant: str, *, within: Connection) -> None:
        """Refuse another batch or table job of a tenant that has as many as its quota allows.

        Raises:
            OverloadedError: it has.
        """
        row = within.execute(select(_table.c.quota).where(_table.c.tenant == tenant)).first()
        most = None if row is None or row.quota is None else msgspec.json.decode(row.quota, type=TenantQuota).batches
        if most is None:
            return
        if (count := self.open_batches(tenant, within=within)) >= most:
            raise OverloadedError(
                f"The tenant has {count} batches that have not ended; its quota is {most}.",
                retry_after=RETRY_BATCH_SECONDS,
                where="quota",
                next_step="Order it when one has ended, or cancel one.",
            )

    def open_batches(self, tenant: str, *, within: Connection | None = None) -> int:
        """The number of a tenant's batches and table jobs that have not ended."""
        open_ones = (_jobs.c.tenant == tenant) & _jobs.c.status.not_in(ENDED)
        return int(self._database.scalar(select(func.count()).select_from(_jobs).where(open_ones), within) or 0)

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

    def _put(self, tenant: Tenant, within: Connection) -> Tenant:
        assert tenant.changed_at is not None
        values = {
            "state": tenant.state,
            "reason": tenant.reason,
            "changed_by": tenant.changed_by,
            "changed_at": microseconds(tenant.changed_at),
            "share": tenant.share,
            "quota": None if tenant.quota == NO_QUOTA else msgspec.json.encode(tenant.quota).decode(),
        }
        statement = upsert(_table).values(tenant=tenant.id, environment=ANY, **values)
        within.execute(statement.on_conflict_do_update(set_=values))
        return tenant


def require_deleted(tenant: Tenant) -> None:
    """Refuse to erase a tenant that is not deleted; one that is erased may be once more.

    Raises:
        ConflictError: it is active or suspended.
    """
    if tenant.state not in ("deleted", "erased"):
        raise ConflictError(
            f"The tenant {tenant.id!r} is {tenant.state}: only what a deleted one stored is erased.",
            where="tenant",
            next_step=f"`antiphon tenants delete {tenant.id} --reason …` deletes it.",
        )


class _Terms(msgspec.Struct, frozen=True):
    share: float = 1.0
    allowance: Allowance = NO_ALLOWANCE
    stored_bytes: int | None = None


_USUAL = _Terms()


class LiveTenants:
    """Shares and quotas in force, under a lease; while the catalog is away those known last. Safe to share between
    threads."""

    def __init__(self, tenants: Tenants, clock: Clock, *, renewer: Renewer | None = None) -> None:
        self._tenants = tenants
        self._leases: Leases[str, _Terms] = Leases(
            clock, seconds=LEASE_SECONDS, bound=_ALWAYS, most=_MOST_TENANTS, renewer=renewer
        )

    def share(self, tenant: str) -> float:
        """The share of a tenant; 1 where it is not known."""
        return self._look(tenant).share

    def allowance(self, tenant: str) -> Allowance:
        """The bounds of a tenant's requests and tokens."""
        return self._look(tenant).allowance

    def stored_bytes(self, tenant: str) -> int | None:
        """The bound of a tenant's files, where it has one of its own."""
        return self._look(tenant).stored_bytes

    def forget(self) -> None:
        """Ask the catalog at the next request."""
        self._leases.forget()

    def _look(self, tenant: str) -> _Terms:
        try:
            return self._leases.look(tenant, partial(self._read, tenant)) or _USUAL
        except UnavailableError:
            return _USUAL

    def _read(self, tenant: str) -> _Terms:
        try:
            found = self._tenants.get(tenant)
        except NotFoundError:
            return _USUAL
        return _Terms(found.share, found.quota.allowance, found.quota.stored_bytes)


def check_terms(share: float, quota: TenantQuota) -> None:
    """Refuse a share or a quota that is not one.

    Raises:
        InvalidInputError: says what it may be.
    """
    if not 0 < share <= _LARGEST_SHARE:
        raise InvalidInputError(
            f"{share} is not a share.",
            where="share",
            next_step=f"Name a number above 0 and at most {_LARGEST_SHARE:.0f}.",
        )
    for name, bound in structs.asdict(quota).items():
        if bound is not None and not 1 <= bound <= LARGEST_QUOTA:
            raise InvalidInputError(f"{bound} is not a quota.", where=name, next_step="Name at least 1.")


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
