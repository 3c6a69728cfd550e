"""Grants of a tenant's views and models to other tenants: what is offered; the owner's policies decide each use.

Invariant: a grant is to read a view, or to ask a model. It stands in the owner's scope and is changed by the owner
alone; the tenant that it is for sees it and nothing else of the owner's.
"""

from __future__ import annotations

import builtins
from datetime import datetime
from typing import Literal

import msgspec
from sqlalchemy import ColumnElement, delete, insert, select
from sqlalchemy.engine import Connection

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.rows import row_of, value_of
from antiphon.core.errors import ConflictError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.governance.identity.principal import Clearance

GrantKind = Literal["view", "model"]
"""A feature view, and a registered model version."""

_table = schema.grants


class TenantGrant(msgspec.Struct, frozen=True):
    """One thing of a tenant that another may read, in one environment.

    Attributes:
        scope: the owner's.
        grantee: the tenant that may.
        clearance: the most that a principal of the grantee counts for under the owner's policies.
        until: the moment from which it does not hold any more; ``None``: until it is revoked.
    """

    scope: Scope
    kind: GrantKind
    name: str
    grantee: str
    clearance: Clearance
    reason: str
    made_by: str
    since: datetime
    until: datetime | None = None

    @property
    def granted_name(self) -> str:
        """The name by which the grantee reads it: ``OWNER/NAME``."""
        return f"{self.scope.tenant}/{self.name}"

    def holds(self, now: datetime) -> bool:
        """Tell whether it has not ended."""
        return self.until is None or now < self.until


class Grants:
    """Repository of grants."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, grant: TenantGrant, *, within: Connection) -> TenantGrant:
        """Keep a grant, in the place of one that has ended.

        Raises:
            ConflictError: it is granted already.
        """
        found = self.find(grant.scope, grant.kind, grant.name, grant.grantee, within=within)
        if found is not None and found.holds(self._database.clock.now()):
            raise ConflictError(
                f"The {grant.kind} {grant.name!r} is granted to {grant.grantee!r} already.",
                where=str(grant.scope),
                next_step="Revoke it first: `antiphon grants revoke`.",
            )
        if found is not None:
            self._remove(found, within)
        within.execute(insert(_table).values(row_of(_table, grant)))
        return grant

    def revoke(self, scope: Scope, kind: GrantKind, name: str, grantee: str, *, within: Connection) -> TenantGrant:
        """Take a grant away; its readers are refused within the lease of ``services.governance.granted``.

        Raises:
            NotFoundError: there is none.
        """
        found = self.find(scope, kind, name, grantee, within=within)
        if found is None:
            raise NotFoundError(
                f"The {kind} {name!r} is not granted to {grantee!r}.",
                where=str(scope),
                next_step="See `antiphon grants list`.",
            )
        self._remove(found, within)
        return found

    def find(
        self, scope: Scope, kind: GrantKind, name: str, grantee: str, *, within: Connection | None = None
    ) -> TenantGrant | None:
        """One grant of this owner, if there is one; it may have ended."""
        named = schema.owned(_table, scope, kind=kind, name=name, grantee=grantee)
        with self._database.reading(within) as connection:
            row = connection.execute(select(_table).where(named)).first()
        return None if row is None else value_of(TenantGrant, row)

    def given(self, scope: Scope, *, within: Connection | None = None) -> builtins.list[TenantGrant]:
        """The grants of an owner to others, by kind and name."""
        return self._select(schema.owned(_table, scope), within)

    def received(self, scope: Scope) -> builtins.list[TenantGrant]:
        """The grants of others to the tenant of this scope, in its environment."""
        mine = (_table.c.grantee == scope.tenant) & (_table.c.environment == scope.environment)
        return self._select(mine, None)

    def _select(self, condition: ColumnElement[bool], within: Connection | None) -> builtins.list[TenantGrant]:
        statement = select(_table).where(condition)
        statement = statement.order_by(_table.c.tenant, _table.c.kind, _table.c.name, _table.c.grantee)
        with self._database.reading(within) as connection:
            return [value_of(TenantGrant, row) for row in connection.execute(statement)]

    def _remove(self, grant: TenantGrant, within: Connection) -> None:
        named = schema.owned(_table, grant.scope, kind=grant.kind, name=grant.name, grantee=grant.grantee)
        within.execute(delete(_table).where(named))
