"""The tenant's principals: persons and service accounts, their role and clearance, and whether they still may.

A disabled principal is refused with every key, session and token within the lease of revocation.
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from datetime import datetime
from typing import Any, get_args

import msgspec
from sqlalchemy import insert, select, update
from sqlalchemy.engine import Connection, Row

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.core.clock import from_microseconds, microseconds
from antiphon.core.errors import ConflictError, InvalidInputError, NotFoundError
from antiphon.core.scope import ANY, Scope
from antiphon.governance.identity.principal import Clearance, Kind, Role, check_name
from antiphon.governance.identity.tenants import Tenants


class PrincipalRecord(msgspec.Struct, frozen=True):
    """A principal as it is kept. It is an identity of who made it, and of who made an administrator of it last
    (``promoted_by``)."""

    id: str
    tenant: str
    role: Role
    kind: Kind
    clearance: Clearance
    created_at: datetime
    disabled_at: datetime | None
    made_by: str | None = None
    promoted_by: str | None = None

    @property
    def makers(self) -> frozenset[str]:
        """Those whose identity it is, as far as that was kept."""
        return frozenset(maker for maker in (self.made_by, self.promoted_by) if maker is not None)


class Principals:
    """Repository of principals."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.tenants = Tenants(database)

    def create(
        self,
        tenant: str,
        name: str,
        role: str,
        *,
        kind: str = "service",
        clearance: str = "internal",
        made_by: str | None = None,
        within: Connection | None = None,
    ) -> PrincipalRecord:
        """Make a principal. The first one of a tenant makes the tenant.

        Raises:
            InvalidInputError: a malformed tenant or name, an unknown role, kind or clearance.
            ConflictError: the tenant has one of that name.
        """
        Scope(tenant=tenant)
        check_name(name)
        checked = _checked(role=role, kind=kind, clearance=clearance)
        now = microseconds(self._database.clock.now())
        with self._database.writing(within) as connection:
            if self.find(tenant, name, within=connection) is not None:
                raise ConflictError(
                    f"There is a principal {name!r}.",
                    where=tenant,
                    next_step="Change it with `antiphon principals set`, or choose another name.",
                )
            connection.execute(
                insert(schema.principals).values(
                    tenant=tenant, environment=ANY, id=name, created_at=now, made_by=made_by, **checked
                )
            )
            return self.get(tenant, name, within=connection)

    def ensure(
        self,
        tenant: str,
        name: str,
        role: str,
        *,
        kind: str,
        made_by: str | None,
        valid: Sequence[str],
        within: Connection,
    ) -> None:
        """Make the principal of a new key, unless there is one of this role; one without ``valid`` keys takes the role.

        Raises:
            ConflictError: it is disabled, or has a valid key with another role.
        """
        there = self.find(tenant, name, within=within)
        if there is None:
            self.create(tenant, name, role, kind=kind, made_by=made_by, within=within)
            return
        if there.disabled_at is not None:
            raise ConflictError(
                f"{name!r} is disabled.",
                where=tenant,
                next_step=f"`antiphon principals enable {name} --reason …` enables it.",
            )
        if there.role == role:
            return
        if valid:
            raise ConflictError(
                f"{name!r} has a valid key with the role {there.role}.",
                where=tenant,
                next_step=f"Revoke {valid[0]} first, choose another name, or give all its keys another role with "
                f"`antiphon principals set {name} --role {role}`.",
            )
        self.change(tenant, name, role=role, by=made_by, within=within)

    def change(
        self,
        tenant: str,
        name: str,
        *,
        role: str | None = None,
        clearance: str | None = None,
        disabled: bool | None = None,
        by: str | None = None,
        waits: bool = False,
        within: Connection | None = None,
    ) -> PrincipalRecord:
        """Give it another role or clearance, or disable or enable it; all its keys follow within the lease.

        Args:
            by: who makes an administrator of it, if it becomes one: it is an identity of theirs too from then on.
            waits: the keys of a new administrator then open nothing before another person approves them.

        Raises:
            NotFoundError: the tenant has no such principal.
            InvalidInputError: an unknown role or clearance.
        """
        values = _checked(role=role, clearance=clearance)
        with self._database.writing(within) as connection:
            before = self.get(tenant, name, within=connection)
            if disabled is not None and disabled != (before.disabled_at is not None):
                values["disabled_at"] = microseconds(self._database.clock.now()) if disabled else None
            if role == "admin" and before.role != "admin" and by is not None:
                values["promoted_by"] = by
                if waits:
                    keys = schema.api_keys
                    connection.execute(
                        update(keys)
                        .where(keys.c.tenant == tenant, keys.c.name == name, keys.c.revoked_at.is_(None))
                        .values(waits=1, approved_by=None)
                    )
            if values:
                connection.execute(update(schema.principals).where(_is(tenant, name)).values(**values))
            return self.get(tenant, name, within=connection)

    def get(self, tenant: str, name: str, *, within: Connection | None = None) -> PrincipalRecord:
        """One principal.

        Raises:
            NotFoundError: the tenant has no such principal.
        """
        found = self.find(tenant, name, within=within)
        if found is None:
            raise NotFoundError(
                f"There is no principal {name!r}.", where=tenant, next_step="See `antiphon principals list`."
            )
        return found

    def find(self, tenant: str, name: str, *, within: Connection | None = None) -> PrincipalRecord | None:
        """One principal, if there is one."""
        with self._database.reading(within) as connection:
            row = connection.execute(select(schema.principals).where(_is(tenant, name))).first()
        return None if row is None else _record(row)

    def list(self, tenant: str) -> builtins.list[PrincipalRecord]:
        """A tenant's principals by name, disabled ones included."""
        table = schema.principals
        statement = select(table).where(table.c.tenant == tenant, table.c.environment == ANY).order_by(table.c.id)
        with self._database.read() as connection:
            return [_record(row) for row in connection.execute(statement)]

    def has_tenant(self, tenant: str) -> bool:
        """Tell whether the tenant exists: was made, or has, or had, a principal."""
        try:
            self.tenants.get(tenant)
        except NotFoundError:
            return False
        return True


def _is(tenant: str, name: str) -> Any:
    table = schema.principals
    return (table.c.tenant == tenant) & (table.c.environment == ANY) & (table.c.id == name)


_CHOICES = {"role": get_args(Role), "kind": get_args(Kind), "clearance": get_args(Clearance)}


def _checked(**fields: str | None) -> dict[str, Any]:
    given = {field: value for field, value in fields.items() if value is not None}
    for field, value in given.items():
        if value not in _CHOICES[field]:
            raise InvalidInputError(
                f"{value!r} is not a {field}.", where=field, next_step=f"Use one of {', '.join(_CHOICES[field])}."
            )
    return given


def _record(row: Row[Any]) -> PrincipalRecord:
    return PrincipalRecord(
        id=row.id,
        tenant=row.tenant,
        role=row.role,
        kind=row.kind,
        clearance=row.clearance,
        created_at=from_microseconds(row.created_at),
        disabled_at=None if row.disabled_at is None else from_microseconds(row.disabled_at),
        made_by=row.made_by,
        promoted_by=row.promoted_by,
    )
