"""API keys as they are kept, with what their principals are now."""

from __future__ import annotations

from datetime import date, datetime
from functools import cache
from typing import Any

import msgspec
from sqlalchemy import Select, func, select
from sqlalchemy.engine import Row

from antiphon.catalog import schema
from antiphon.core.clock import from_microseconds
from antiphon.core.scope import ANY
from antiphon.governance.identity.principal import (
    NO_ALLOWANCE,
    NO_LIMITS,
    Allowance,
    Clearance,
    Kind,
    Limits,
    Principal,
    Role,
    reserved,
)
from antiphon.governance.identity.revocation import LEEWAY
from antiphon.governance.identity.tenants import TenantState


class KeyRecord(msgspec.Struct, frozen=True):
    """An API key without its secret; ``hint`` is its end, to recognize it by.

    Attributes:
        role, kind, clearance: of its principal, as they are now.
        replaced_by: the key that it was rotated to.
        last_used_on: the day (UTC) of its last use, as far as it is written.
        disabled: whether its principal is. tenant_state: of its tenant.
        made_by: who made it, and so has seen its text; ``None`` for keys from before that was kept.
        waits: it opens nothing until another person has approved it; ``approved_by`` is who did.
    """

    id: str
    tenant: str
    name: str
    role: Role
    kind: Kind
    clearance: Clearance
    hint: str
    limits: Limits
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    replaced_by: str | None = None
    last_used_on: date | None = None
    disabled: bool = False
    allowance: Allowance = NO_ALLOWANCE
    made_by: str | None = None
    approved_by: str | None = None
    waits: bool = False
    tenant_state: TenantState = "active"

    @property
    def principal(self) -> Principal:
        """Principal of the key."""
        return Principal(
            self.name, self.tenant, self.role, self.kind, self.clearance, self.limits, self.id, self.allowance
        )

    def may_open(self, now: datetime) -> bool:
        """Tell whether the key is valid at this instant, or will be once it is approved."""
        return self.refusal(now) is None or (self.waits and self.revoked_at is None)

    def refusal(self, now: datetime) -> str | None:
        """Reason for which the key is not valid at this instant; ``None`` when it is."""
        if self.revoked_at is not None:
            return "revoked"
        if (kept := reserved(self.name)) is not None:
            return f"for {self.name}, a name that is kept for {kept}"
        if self.disabled:
            return f"of {self.name}, who is disabled"
        if self.expires_at is not None and self.expires_at <= now:
            return "expired"
        if self.waits:
            return "waiting for the approval of a person who neither made it nor gave its principal its role"
        if self.created_at > now + LEEWAY:
            return f"from the future (made at {self.created_at.isoformat()}): a clock is wrong here or there"
        return None


class KeyRotation(msgspec.Struct, frozen=True):
    """``key`` is shown this once; ``replaced`` holds until its ``expires_at``."""

    key: str
    record: KeyRecord
    replaced: KeyRecord


@cache
def select_keys() -> Select[Any]:
    """Keys with what their principals are now, and the newest instant seen."""
    keys, who, marks = schema.api_keys, schema.principals, schema.clock_marks
    owner = (who.c.tenant == keys.c.tenant) & (who.c.environment == ANY) & (who.c.id == keys.c.name)
    newest = select(marks.c.newest_at).where(marks.c.tenant == ANY, marks.c.environment == ANY).scalar_subquery()
    tenants = schema.tenants
    state = func.coalesce(tenants.c.state, "active").label("tenant_state")
    columns = keys, who.c.role, who.c.kind, who.c.clearance, who.c.disabled_at, newest.label("newest_at"), state
    return select(*columns).join_from(keys, who, owner).outerjoin(tenants, tenants.c.tenant == keys.c.tenant)


def key_record(row: Row[Any]) -> KeyRecord:
    """A row of :func:`select_keys`."""
    return KeyRecord(
        id=row.id,
        tenant=row.tenant,
        name=row.name,
        role=row.role,
        kind=row.kind,
        clearance=row.clearance,
        hint=row.hint,
        limits=NO_LIMITS if row.limits is None else msgspec.json.decode(row.limits, type=Limits),
        created_at=from_microseconds(row.created_at),
        expires_at=None if row.expires_at is None else from_microseconds(row.expires_at),
        revoked_at=None if row.revoked_at is None else from_microseconds(row.revoked_at),
        replaced_by=row.replaced_by,
        last_used_on=None if row.last_used_day is None else date.fromordinal(row.last_used_day),
        disabled=row.disabled_at is not None,
        made_by=row.made_by,
        approved_by=row.approved_by,
        waits=bool(row.waits),
        tenant_state=row.tenant_state,
        allowance=NO_ALLOWANCE if row.allowance is None else msgspec.json.decode(row.allowance, type=Allowance),
    )


def is_key(tenant: str, key: str) -> tuple[Any, Any, Any]:
    """The conditions that select one key."""
    table = schema.api_keys
    return table.c.tenant == tenant, table.c.environment == ANY, table.c.id == key


def stored_allowance(allowance: Allowance) -> str | None:
    """An allowance as it is kept; nothing for one without bounds."""
    return None if allowance == NO_ALLOWANCE else msgspec.json.encode(allowance).decode()
