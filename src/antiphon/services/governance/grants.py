"""Grants of one project's tenants to each other, each change on record with both."""

from __future__ import annotations

from datetime import datetime

import msgspec
from sqlalchemy.engine import Connection

from antiphon.core.errors import ConflictError, InvalidInputError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.features.selection import unknown_views
from antiphon.governance.identity.grants import GrantKind, Grants, TenantGrant
from antiphon.governance.identity.principal import Clearance, Principal
from antiphon.services.project.store import Store


class GrantLists(msgspec.Struct, frozen=True):
    """Grants that a tenant gives to others, and those that others give to it."""

    given: tuple[TenantGrant, ...]
    received: tuple[TenantGrant, ...]


class ProjectGrants:
    """Grants and revokes what belongs to the tenant that asks."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._database, self._audit = store.database, store.audit
        self._tenants = store.keys.principals.tenants
        self._grants = Grants(store.database)

    def list(self, *, by: Principal) -> GrantLists:
        """The grants of the asking tenant and those to it, ended ones included."""
        return self.of(self._scope(by))

    def of(self, scope: Scope) -> GrantLists:
        """The grants of one tenant and those to it, ended ones included."""
        return GrantLists(tuple(self._grants.given(scope)), tuple(self._grants.received(scope)))

    def create(
        self,
        kind: GrantKind,
        name: str,
        grantee: str,
        *,
        reason: str,
        by: Principal,
        until: datetime | None = None,
        clearance: Clearance = "internal",
    ) -> TenantGrant:
        """Let another tenant read a view or ask a model version, as far as policies permit it.

        Raises:
            NotFoundError: no such view is applied, or no such version registered; or, asked by the tenant that runs the
                installation, there is no such tenant: any other is not told which there are.
            InvalidInputError: the tenant is the own one or no name, the model is the installation's, or ``until`` has
                passed.
            ConflictError: it is granted already, or the view is Feast's.
        """
        scope = self._scope(by)
        Scope(tenant=grantee)
        now = self._database.clock.now()
        if grantee == scope.tenant:
            raise InvalidInputError(
                "A tenant reads its own without a grant.", where="grantee", next_step="Name another tenant."
            )
        if until is not None and until <= now:
            raise InvalidInputError(f"{until.isoformat()} has passed.", where="until", next_step="Name a later time.")
        if scope.tenant == self._store.scope.tenant:
            self._tenants.get(grantee)
        self._require_grantable(scope, kind, name)
        grant = TenantGrant(scope, kind, name, grantee, clearance, reason, by.id, now, until)
        with self._database.transaction() as connection:
            self._grants.create(grant, within=connection)
            self._record("grant.create", grant, reason, by, connection)
        self._store.granted.forget()
        return grant

    def revoke(self, kind: GrantKind, name: str, grantee: str, *, reason: str, by: Principal) -> TenantGrant:
        """Take a grant away: from a second later on no process lets the other tenant read.

        Raises:
            NotFoundError: there is none.
        """
        with self._database.transaction() as connection:
            grant = self._grants.revoke(self._scope(by), kind, name, grantee, within=connection)
            self._record("grant.revoke", grant, reason, by, connection)
        self._store.granted.forget()
        return grant

    def _require_grantable(self, scope: Scope, kind: GrantKind, name: str) -> None:
        if kind == "model":
            if name in self._store.settings.engine.models:
                raise InvalidInputError(
                    f"{name} is the installation's: every tenant may ask it.",
                    where=f"model {name}",
                    next_step="Grant a version that was trained here: `antiphon models list`.",
                )
            self._store.models.get(scope, name)
            return
        views = self._store.applied.project(scope).views
        if name not in views:
            raise unknown_views([name], views, str(scope))
        if views[name].source.kind == "feast":
            raise ConflictError(
                f"{name} is kept by Feast, which knows no tenants.", where=f"view {name}",
                next_step="Import its source (`antiphon features import-feast`), and grant the view then.",
            )  # fmt: skip

    def _record(self, action: str, grant: TenantGrant, reason: str, by: Principal, connection: Connection) -> None:
        detail = {
            "kind": grant.kind,
            "name": grant.name,
            "owner": grant.scope.tenant,
            "grantee": grant.grantee,
            "clearance": grant.clearance,
            "reason": reason,
        }
        self._database.ring("releases", grant.scope)  # The engine serves what is granted.
        scopes = [grant.scope]
        try:
            self._tenants.get(grant.grantee, within=connection)
            scopes.append(Scope(grant.grantee, grant.scope.environment))
        except NotFoundError:
            pass  # A log is not begun for a tenant that there is not.
        for scope in scopes:
            who = by.id if scope == grant.scope else f"{by.tenant}/{by.id}"
            self._audit.append(scope, who, action, f"{grant.kind}/{grant.granted_name}", detail, within=connection)

    def _scope(self, by: Principal) -> Scope:
        return Scope(by.tenant, self._store.scope.environment)
