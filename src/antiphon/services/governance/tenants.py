"""Tenants of an installation, administered by the tenant that the project's settings name, each change on record."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Literal

import msgspec
from msgspec import structs
from sqlalchemy.engine import Connection

from antiphon.catalog.batch.files import Files
from antiphon.core.errors import ConflictError, ForbiddenError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.governance.identity.principal import Principal
from antiphon.governance.identity.tenants import NO_QUOTA, Tenant, TenantQuota, require_deleted
from antiphon.services.governance.grants import GrantLists, ProjectGrants
from antiphon.services.governance.tenant_erasure import Tell, TenantEraser, TenantErasure
from antiphon.services.project.store import Store


class TenantUse(msgspec.Struct, frozen=True):
    """A tenant with what it uses in this environment.

    Attributes:
        answers: predictions of the last hour, online and in batch.
        stored_bytes: of its files; ``batches``: and table jobs that have not ended.
        grants: to others, and of others to it.
    """

    tenant: Tenant
    answers: int
    stored_bytes: int
    batches: int
    grants: GrantLists


class ProjectTenants:
    """Makes, suspends, resumes and deletes tenants. Whoever asks is of the project's own tenant."""

    def __init__(self, store: Store) -> None:
        self._database, self._keys, self._audit, self._scope = store.database, store.keys, store.audit, store.scope
        self._tenants = store.keys.principals.tenants
        self._store, self._live = store, store.tenants
        self.grants = ProjectGrants(store)

    def list(self, *, by: Principal) -> Sequence[Tenant]:
        """All tenants by name.

        Raises:
            ForbiddenError: another tenant asks.
        """
        self._require_own(by)
        return self._tenants.list()

    def uses(self, *, by: Principal, limit: int | None = None, after: str = "") -> Sequence[TenantUse]:
        """Tenants by name with what they use, at most so many after a name; to the principal of another tenant than the
        project's its own."""
        tenants = self._tenants.list() if by.tenant == self._scope.tenant else [self._known(by.tenant)]
        return [self._use(tenant) for tenant in [one for one in tenants if one.id > after][:limit]]

    def _known(self, tenant: str) -> Tenant:
        try:
            return self._tenants.get(tenant)
        except NotFoundError:  # Its principals come with tokens.
            return Tenant(tenant, "active")

    def _use(self, tenant: Tenant) -> TenantUse:
        store, scope = self._store, Scope(tenant.id, self._scope.environment)
        return TenantUse(
            tenant,
            store.receipts.count(scope, since=self._database.clock.now() - timedelta(hours=1)),
            Files(self._database).used(scope),
            self._tenants.open_batches(tenant.id),
            self.grants.of(scope),
        )

    def create(self, tenant: str, *, by: Principal, share: float = 1.0, quota: TenantQuota = NO_QUOTA) -> Tenant:
        """Make a tenant, without principals yet.

        Raises:
            ForbiddenError: another tenant asks. InvalidInputError: a malformed name, share or quota.
            ConflictError: there is one.
        """
        self._require_own(by)
        with self._database.transaction() as connection:
            made = self._tenants.create(tenant, by=by.id, share=share, quota=quota, within=connection)
            self._record(by, "tenant.create", made, connection)
        return made

    def set_terms(
        self, tenant: str, *, reason: str, by: Principal, share: float | None = None, quota: TenantQuota | None = None
    ) -> Tenant:
        """Give a tenant, the own one too, another share or quota; what is ``None`` stays.

        Raises:
            ForbiddenError: another tenant asks. NotFoundError: there is none. InvalidInputError: it is malformed.
        """
        self._require_own(by)
        with self._database.transaction() as connection:
            if tenant == self._scope.tenant:
                with suppress(ConflictError):  # Its first principal makes it, and there may be none yet.
                    self._tenants.create(tenant, by=by.id, within=connection)
            changed = self._tenants.set_terms(tenant, share=share, quota=quota, by=by.id, within=connection)
            self._record(by, "tenant.change", structs.replace(changed, reason=reason), connection)
        self._live.forget()
        return changed

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

    def erase(
        self,
        tenant: str,
        *,
        reason: str,
        by: Principal,
        dry_run: bool = False,
        tell: Tell = lambda what, done: None,
    ) -> TenantErasure:
        """Remove everything that a deleted tenant stored, for good, or count it; one that was cut off goes on.

        The tree of its audit log and its row stay, without a text of its own.

        Raises:
            ForbiddenError: another tenant asks. NotFoundError: there is none.
            ConflictError: it is not deleted, or a run of it has not ended.
            UnavailableError: a store is away; what is left is removed when it is erased again.
        """
        self._require_own(by)
        require_deleted(self._tenants.get(tenant))
        eraser = TenantEraser(self._store, tenant, tell)
        if dry_run:
            return eraser.count()
        eraser.require_ended()
        erased = eraser.erase(by=by, reason=reason)
        with self._database.transaction() as connection:
            marked = self._tenants.mark_erased(tenant, reason=reason, by=by.id, within=connection)
            self._record(by, "tenant.erase", marked, connection)
        self._keys.forget()
        return erased

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
        detail: dict[str, object] = {"name": tenant.id, "state": tenant.state, "reason": tenant.reason}
        if action in ("tenant.create", "tenant.change"):
            detail["share"] = tenant.share
            detail["quota"] = [f"{name} {bound}" for name, bound in structs.asdict(tenant.quota).items() if bound]
        self._audit.append(self._scope, by.id, action, tenant.id, detail, within=connection)
