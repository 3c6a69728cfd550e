"""Views of other tenants, as the tenant that they are granted to reaches them: found, and decided by their owner.

Invariants:
- A name of another tenant's (``OWNER/NAME``) is there exactly while a grant of its owner to this tenant holds and the
  owner is served; whether the owner has such a thing is not told otherwise.
- Both tenants' policies must permit a reading. The owner's see the grant, and the reader under a name and with a
  clearance that the reader's tenant cannot choose.
- Nothing is believed for longer than :data:`LEASE_SECONDS` after it was read, but while the catalog is away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from antiphon.catalog.database import Database
from antiphon.catalog.features.definitions import AppliedProjects, DefinitionVersions
from antiphon.catalog.features.publications import Publications
from antiphon.core.errors import AntiphonError
from antiphon.core.leases import Leases, Renewer
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.granted_view import owner_of
from antiphon.governance.audit.record import Outcome
from antiphon.governance.identity.grants import GrantKind, Grants, TenantGrant
from antiphon.governance.identity.principal import NO_LIMITS, Principal
from antiphon.governance.identity.tenants import Tenants
from antiphon.governance.policy.live import BOUND_SECONDS, LivePolicies
from antiphon.governance.policy.request import LEVELS, Decision, Resource, view_columns

LEASE_SECONDS = 0.25
"""For so long a process believes what it read of an owner's grants."""

NOT_GRANTED = "not-granted"
"""Stands where a policy's id would, when another tenant's thing is not granted, or its owner's policies refuse."""

_MOST_OWNERS = 1_000
_EVIDENCE_SECONDS = 60.0
_MOST_READERS = 10_000


class OwnedGrants(msgspec.Struct, frozen=True):
    """Grants of one owner by kind, name and grantee, with the definitions of the granted views by name."""

    grants: dict[tuple[GrantKind, str, str], TenantGrant]
    views: dict[str, FeatureViewSpec]


class GrantedResources:
    """Finds what other tenants grant to the tenants that this process serves, and decides readings of it. Safe to share
    between threads.

    Args:
        record: ``AuditTrail.enqueue``, for evidence with the owner.
    """

    def __init__(
        self,
        environment: str,
        database: Database,
        *,
        tenants: Tenants,
        policies: LivePolicies,
        record: Callable[..., object],
        renewer: Renewer | None = None,
    ) -> None:
        self._environment = environment
        self._tenants, self._policies, self._record_act = tenants, policies, record
        self._grants, self._applied = Grants(database), AppliedProjects(database)
        self._definitions, self._publications = DefinitionVersions(database), Publications(database)
        self._clock = database.clock
        self._leases: Leases[Scope, OwnedGrants] = Leases(
            self._clock, seconds=LEASE_SECONDS, bound=BOUND_SECONDS, most=_MOST_OWNERS, renewer=renewer
        )
        self._recorded: dict[tuple[Scope, str, str, str], float] = {}

    def view(self, scope: Scope, name: str, version: str | None = None) -> FeatureViewSpec | None:
        """The definition of the view that this scope may read as ``OWNER/VIEW``, under that name; ``None`` when there
        is none, or it is not granted.

        Args:
            version: a definition version; the one that its owner applied last by default.
        """
        found = self._find(scope, "view", name)
        if found is None:
            return None
        grant, owned = found
        spec = owned.views.get(grant.name)
        if spec is not None and version not in (None, spec.definition_version):
            kept = self._definitions.list(grant.scope, grant.name)
            spec = next((one for one in kept if one.definition_version == version), None)
        return None if spec is None else msgspec.structs.replace(spec, name=name)

    def views(self, scope: Scope, versions: Mapping[str, str | None]) -> list[FeatureViewSpec]:
        """As :meth:`view`, of those among these names that are granted views; name to version."""
        found = [self.view(scope, name, version) for name, version in versions.items() if owner_of(name) is not None]
        return [view for view in found if view is not None]

    def published(self, scope: Scope, name: str, version: str) -> bool:
        """Tell whether a definition version of a granted view can be read now."""
        spec = self.view(scope, name, version)
        if spec is None:
            return False
        current = self._publications.current(Scope(str(owner_of(name)), scope.environment))
        return current is not None and f"{name.partition('/')[2]}@{version}" in current.snapshots

    def forget(self) -> None:
        """Ask the catalog at the next request, for a process that changed grants itself."""
        self._leases.forget()

    def narrow(
        self,
        decision: Decision,
        principal: Principal,
        action: str,
        resource: Resource,
        context: Mapping[str, Any],
    ) -> Decision:
        """A decision of the reader's own policies, with those of each owner of what the resource reads."""
        names = granted_names(resource)
        if not names or not decision.allowed:
            return decision
        masked = [*decision.masked]
        for name in names:
            said = self._decide(principal, action, resource, name, context)
            if said is None or not said.allowed:
                return msgspec.structs.replace(decision, allowed=False, policies=(NOT_GRANTED,), masked=())
            owner = owner_of(name)
            masked += [f"{owner}/{column}" for column in said.masked]
        return msgspec.structs.replace(decision, masked=tuple(masked)) if masked else decision

    def _decide(
        self, principal: Principal, action: str, resource: Resource, name: str, context: Mapping[str, Any]
    ) -> Decision | None:
        """The owner's decision about one view; ``None``: there is no grant. It is on record with the owner."""
        found = self._find(Scope(principal.tenant, self._environment), "view", name)
        if found is None:
            return None
        grant, owned = found
        view = owned.views.get(grant.name)
        if view is None:
            return None
        read = {column.name for column in resource.columns}
        whole = resource.kind == "application" or f"{name}.*" in read
        used = view.features if whole else [one for one in view.features if f"{name}.{one}" in read]
        viewed = Resource(
            "view",
            grant.name,
            grant.scope.tenant,
            # By the tags that the owner declares now, not by those that a release remembers.
            view_columns(view, used),
            granted_to=grant.grantee,
        )
        here = {**context, "tenant": grant.scope.tenant, "environment": grant.scope.environment}
        reader = visitor(principal, grant)
        said = self._policies.decider(grant.scope.tenant).decide(reader, action, viewed, here)
        self._record(grant, reader, action, said, context)
        return said

    def _find(self, scope: Scope, kind: GrantKind, name: str) -> tuple[TenantGrant, OwnedGrants] | None:
        """The grant in force by which a scope may read ``OWNER/NAME``."""
        owner, _, own_name = name.partition("/")
        try:
            owned_by = Scope(owner, scope.environment)
        except AntiphonError:
            return None
        owned = self._leases.look(owned_by, lambda: self._read(owned_by))
        grant = None if owned is None else owned.grants.get((kind, own_name, scope.tenant))
        if owned is None or grant is None or not grant.holds(self._clock.now()):
            return None
        return grant, owned

    def _read(self, owner: Scope) -> OwnedGrants:
        if self._tenants.state(owner.tenant) != "active":
            return OwnedGrants({}, {})
        grants = {(one.kind, one.name, one.grantee): one for one in self._grants.given(owner)}
        names = {name for kind, name, _ in grants if kind == "view"}
        applied = self._applied.project(owner).views if names else {}
        # One that is applied no longer is there for the releases that pin it, as long as it is published.
        views = {name: applied.get(name) or next(iter(self._definitions.list(owner, name)), None) for name in names}
        return OwnedGrants(grants, {name: view for name, view in views.items() if view is not None})

    def _record(
        self, grant: TenantGrant, reader: Principal, action: str, said: Decision, context: Mapping[str, Any]
    ) -> None:  # fmt: skip
        """Keep evidence with the owner: of each reader the first reading and the first refusal a minute."""
        now = self._clock.monotonic()
        outcome: Outcome = "done" if said.allowed else "denied"
        key = (grant.scope, grant.name, reader.id, f"{action} {outcome}")
        if now < self._recorded.get(key, float("-inf")) + _EVIDENCE_SECONDS:
            return
        if len(self._recorded) >= _MOST_READERS:
            self._recorded.clear()
        self._recorded[key] = now
        detail = {
            "action": action,
            "grantee": grant.grantee,
            "path": str(context.get("path") or ""),
            "policies": list(said.policies),
            "digest": said.digest,
        }
        self._record_act(grant.scope, reader.id, "grant.read", f"view/{grant.name}", detail, outcome=outcome)


def visitor(principal: Principal, grant: TenantGrant) -> Principal:
    """The grantee's principal as the owner's policies meet it: named with its tenant, so that it is none of the
    owner's principals, and with the grant's clearance at most. Its key's limits were asked before."""
    clearance = min(principal.clearance, grant.clearance, key=LEVELS.__getitem__)
    return msgspec.structs.replace(
        principal, id=f"{principal.tenant}/{principal.id}", clearance=clearance, limits=NO_LIMITS
    )


@lru_cache(maxsize=4_096)
def granted_names(resource: Resource) -> tuple[str, ...]:
    """The views of other tenants that a resource reads, as ``OWNER/VIEW``."""
    views = (column.name.partition(".")[0] for column in resource.columns)
    return tuple(dict.fromkeys(view for view in views if owner_of(view) is not None))
