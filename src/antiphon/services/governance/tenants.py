"""Tenants of an installation, administered by the tenant that the project's settings name, each change on record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from sqlalchemy.engine import Connection

from antiphon.core.errors import ConflictError, ForbiddenError
from antiphon.governance.identity.principal import Principal
from antiphon.governance.identity.tenants import Tenant
from antiphon.services.project.store import Store


class ProjectTenants:
    """Makes, suspends, resumes and deletes tenants. Whoever asks is of the project's own tenant."""

    def __init__(self, store: Store) -> None:
        self._database, self._keys, self._audit, self._scope = store.database, store.keys, store.audit, store.scope
        self._tenants = store.keys.principals.tenants

    def list(self, *, by: Principal) -> Sequence[Tenant]:
        """All tenants by name.

        Raises:
            ForbiddenError: another tenant asks.
        """
        self._require_own(by)
        return self._tenants.list()

    def create(self, tenant: str, *, by: Principal) -> Tenant:
        """Make a tenant, without principals yet.

        Raises:
            ForbiddenError: another tenant asks. InvalidInputError: a malformed name. ConflictError: there is one.
        """
        self._require_own(by)
        with self._database.transaction() as connection:
            made = self._tenants.create(tenant, by=by.id, within=connection)
            self._record(by, "tenant.create", made, connection)
        return made

    def suspend(self, tenant: str, *, reason: str, by: Principal) -> Tenant:
        """Refuse the tenant's requests within a second, and claim none of its runs, until it is resumed. A run that is
        under way goes on.

        Raises:
            ForbiddenError: another tenant asks. NotFoundError: there is none. ConflictError: it is deleted, or the
                project's own.
        """
        return self._change(tenant, "suspended", reason, by)

    def resume(self, tenant: str, *, reason: str, by: Principal) -> Tenant:
        """Let a suspended tenant go on; raises as :meth:`suspend`."""
        return self._change(tenant, "active", reason, by)

    def delete(self, tenant: str, *, reason: str, by: Principal, force: bool = False) -> Tenant:
        """Refuse the tenant's requests for good and cancel its runs. What it stored stays until it is erased.

        Raises:
            ConflictError: something of it is served and ``force`` is not given; it is deleted, or the project's own.
            ForbiddenError, NotFoundError: as :meth:`suspend`.
        """
        return self._change(tenant, "deleted", reason, by, force=force)

    def _change(
        self, tenant: str, state: Literal["active", "suspended", "deleted"], reason: str, by: Principal,
        *, force: bool = True,
    ) -> Tenant:  # fmt: skip
        self._require_own(by)
        if tenant == self._scope.tenant:
            raise ConflictError(
                f"{tenant!r} is the tenant of this project, whose administrators could not undo it.",
                where="tenant",
                next_step="Stop `antiphon up` to serve nobody.",
            )
        with self._database.transaction() as connection:
            served = self._tenants.served(tenant, within=connection)
            if state == "deleted" and served and not force:
                raise ConflictError(
                    f"The tenant {tenant!r} is served: {served.applications} applications are live, features are "
                    f"published in {served.published} environments, {served.runs} runs have not ended.",
                    where="tenant",
                    next_step="Suspend it, or delete it all the same: --force, or `force` over HTTP.",
                )
            changed = self._tenants.change(tenant, state, reason=reason, by=by.id, within=connection)
            action = {"active": "tenant.resume", "suspended": "tenant.suspend", "deleted": "tenant.delete"}[state]
            self._record(by, action, changed, connection)
        self._keys.forget()
        return changed

    def _require_own(self, by: Principal) -> None:
        if by.tenant != self._scope.tenant:
            raise ForbiddenError(
                "Tenants are administered by the tenant that runs this installation.", where="tenant",
                next_step=f"Ask an administrator of {self._scope.tenant!r}.",
            )  # fmt: skip

    def _record(self, by: Principal, action: str, tenant: Tenant, connection: Connection) -> None:
        detail = {"name": tenant.id, "state": tenant.state, "reason": tenant.reason}
        self._audit.append(self._scope, by.id, action, tenant.id, detail, within=connection)
