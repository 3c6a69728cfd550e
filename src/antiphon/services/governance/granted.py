"""Views and models of other tenants, as the tenant that they are granted to reaches them: found, and decided by their
owner.

Invariants:
- A name of another tenant's (``OWNER/NAME``) is there exactly while a grant of its owner to this tenant holds and the
  owner is served; whether the owner has such a thing is not told otherwise.
- Both tenants' policies must permit a reading of a view, and an answer of a model. The owner's see the grant, and the
  reader under a name and with a clearance that the reader's tenant cannot choose.
- Nothing is believed for longer than :data:`LEASE_SECONDS` after it was read, but while the catalog is away.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from itertools import groupby
from typing import Any

import msgspec

from antiphon.catalog.database import Database
from antiphon.catalog.features.definitions import AppliedProjects, DefinitionVersions
from antiphon.catalog.features.publications import Publications
from antiphon.catalog.learning.models import ModelVersion, ModelVersions
from antiphon.catalog.releases.releases import Releases
from antiphon.core.errors import AntiphonError, InvalidInputError, NotFoundError
from antiphon.core.leases import Leases, Renewer
from antiphon.core.scope import Scope
from antiphon.definitions.feature_view import FeatureViewSpec
from antiphon.definitions.granted import model_owner, owner_of
from antiphon.governance.audit.record import Outcome
from antiphon.governance.identity.grants import GrantKind, Grants, TenantGrant
from antiphon.governance.identity.principal import NO_LIMITS, Principal
from antiphon.governance.identity.tenants import Tenants
from antiphon.governance.policy.live import BOUND_SECONDS, LivePolicies
from antiphon.governance.policy.request import (
    LEVELS,
    Decision,
    PolicyColumn,
    Resource,
    application_resource,
    view_columns,
)

LEASE_SECONDS = 0.25
"""For so long a process believes what it read of an owner's grants."""

NOT_GRANTED = "not-granted"
"""Stands where a policy's id would, when another tenant's thing is not granted, or its owner's policies refuse."""

_MOST_OWNERS = 1_000
_MOST_MODELS = 1_000
_EVIDENCE_SECONDS = 60.0
_MOST_READERS = 10_000


class GrantedModel(msgspec.Struct, frozen=True):
    """A model version that is granted.

    Attributes:
        resource: the version as its owner's policies meet it, with the features that it was trained on.
        purpose: the one that it was trained for.
    """

    version: ModelVersion
    resource: Resource
    purpose: str


class OwnedGrants(msgspec.Struct, frozen=True):
    """Grants of one owner by kind, name and grantee, with the definitions of the granted views and the granted models
    by name."""

    grants: dict[tuple[GrantKind, str, str], TenantGrant]
    views: dict[str, FeatureViewSpec]
    models: dict[str, GrantedModel]


class GrantedResources:
    """Finds what other tenants grant to the tenants that this process serves, and decides the use of it. Safe to share
    between threads.

    Args:
        record: ``AuditTrail.enqueue``, for evidence with the owner.
        configured: the installation's models, which every tenant may ask, whatever they are named.
    """

    def __init__(
        self,
        environment: str,
        database: Database,
        *,
        tenants: Tenants,
        policies: LivePolicies,
        record: Callable[..., object],
        configured: Collection[str] = (),
        renewer: Renewer | None = None,
    ) -> None:
        self._environment = environment
        self._tenants, self._policies, self._record_act = tenants, policies, record
        self._grants, self._applied = Grants(database), AppliedProjects(database)
        self._definitions, self._publications = DefinitionVersions(database), Publications(database)
        self._versions, self._releases, self._configured = ModelVersions(database), Releases(database), configured
        self._trained: dict[tuple[Scope, str], GrantedModel] = {}
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

    def model(self, scope: Scope, name: str) -> GrantedModel | None:
        """The model that this scope may ask as ``OWNER/APPLICATION.vN``; ``None`` when there is none, or it is not
        granted."""
        found = self._find(scope, "model", name) if self.is_model(scope, name) else None
        return None if found is None else found[1].models.get(found[0].name)

    def models(self, scope: Scope) -> list[str]:
        """The names of the models that are granted to a scope."""
        names = [one.granted_name for one in self._grants.received(scope) if one.kind == "model"]
        return [name for name in names if self.model(scope, name) is not None]

    def is_model(self, scope: Scope, name: str) -> bool:
        """Tell whether this is the name of a trained model of another tenant's, granted or not."""
        return model_owner(name) not in (None, scope.tenant) and name not in self._configured

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
        """A decision of the reader's own policies, with those of each owner of what the resource reads or asks."""
        names = granted_names(resource)
        if not names or not decision.allowed:
            return decision
        masked = [*decision.masked]
        scope = Scope(principal.tenant, self._environment)
        for kind, name in names:
            if kind == "model" and not self.is_model(scope, name):
                continue
            said = self._decide(scope, principal, action, resource, kind, name, context)
            if said is None or not said.allowed:
                return msgspec.structs.replace(decision, allowed=False, policies=(NOT_GRANTED,), masked=())
            owner = owner_of(name)
            masked += [f"{owner}/{column}" for column in said.masked]
        return msgspec.structs.replace(decision, masked=tuple(masked)) if masked else decision

    def _decide(
        self,
        scope: Scope,
        principal: Principal,
        action: str,
        resource: Resource,
        kind: GrantKind,
        name: str,
        context: Mapping[str, Any],
    ) -> Decision | None:
        """The owner's decision about one view or model; ``None``: there is no grant. It is on record with the owner."""
        found = self._find(scope, kind, name)
        if found is None:
            return None
        grant, owned = found
        used = _used_view(owned, grant.name, name, resource) if kind == "view" else _used_model(owned, grant.name)
        if used is None:
            return None
        used = msgspec.structs.replace(used, tenant=grant.scope.tenant, granted_to=grant.grantee)
        here = {**context, "tenant": grant.scope.tenant, "environment": grant.scope.environment}
        reader = visitor(principal, grant)
        said = self._policies.decider(grant.scope.tenant).decide(reader, action, used, here)
        if kind == "model" and said.masked:  # What it learned of a column cannot be left out of an answer.
            said = msgspec.structs.replace(said, allowed=False, masked=())
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
            return OwnedGrants({}, {}, {})
        grants = {(one.kind, one.name, one.grantee): one for one in self._grants.given(owner)}
        names = {name for kind, name, _ in grants if kind == "view"}
        applied = self._applied.project(owner).views if grants else {}
        # One that is applied no longer is there for the releases that pin it, as long as it is published.
        views = {name: applied.get(name) or next(iter(self._definitions.list(owner, name)), None) for name in names}
        models = {name: self._model(owner, name, applied) for kind, name, _ in grants if kind == "model"}
        return OwnedGrants(
            grants,
            {name: view for name, view in views.items() if view is not None},
            {name: model for name, model in models.items() if model is not None},
        )

    def _model(self, owner: Scope, name: str, applied: Mapping[str, FeatureViewSpec]) -> GrantedModel | None:
        """A model version with its features by the tags that the owner declares now; of a view that is applied no
        longer, by those of the release that was made with it."""
        known = self._trained.get((owner, name)) or self._read_model(owner, name)
        if known is None:
            return None
        if len(self._trained) >= _MOST_MODELS:
            self._trained.clear()
        self._trained[(owner, name)] = known
        columns: list[PolicyColumn] = []
        for view, some in groupby(known.resource.columns, lambda column: column.name.partition(".")[0]):
            trained_on = list(some)
            features = {column.name.partition(".")[2] for column in trained_on}
            there = applied.get(view)
            columns += (
                trained_on if there is None else view_columns(there, there.features if "*" in features else features)
            )
        return msgspec.structs.replace(known, resource=msgspec.structs.replace(known.resource, columns=tuple(columns)))

    def _read_model(self, owner: Scope, name: str) -> GrantedModel | None:
        try:
            version = self._versions.get(owner, name)
        except NotFoundError:
            return None
        for release in reversed(self._releases.list(owner, version.application)):  # The first is the training's.
            pin = release.bundle.model
            if pin.version == name and pin.purposes:
                trained = application_resource(release.bundle.application, trained_for=pin.purposes)
                resource = msgspec.structs.replace(trained, kind="model", name=name, models=())
                return GrantedModel(version, resource, pin.purposes[0])
        return None

    def _record(
        self, grant: TenantGrant, reader: Principal, action: str, said: Decision, context: Mapping[str, Any]
    ) -> None:  # fmt: skip
        """Keep evidence with the owner: of each reader the first use and the first refusal a minute."""
        now = self._clock.monotonic()
        outcome: Outcome = "done" if said.allowed else "denied"
        subject = f"{grant.kind}/{grant.name}"
        key = (grant.scope, subject, reader.id, f"{action} {outcome}")
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
        self._record_act(grant.scope, reader.id, "grant.read", subject, detail, outcome=outcome)


def not_granted(model: str, where: str) -> InvalidInputError:
    """The error for another tenant's model that this one may not use."""
    return InvalidInputError(
        f"There is no model {model!r} that is granted to this tenant.",
        where=where,
        next_step="See `antiphon grants list`; a model of a server that is named so goes into [engine] models.",
    )


def visitor(principal: Principal, grant: TenantGrant) -> Principal:
    """The grantee's principal as the owner's policies meet it: named with its tenant, so that it is none of the
    owner's principals, and with the grant's clearance at most. Its key's limits were asked before."""
    clearance = min(principal.clearance, grant.clearance, key=LEVELS.__getitem__)
    return msgspec.structs.replace(
        principal, id=f"{principal.tenant}/{principal.id}", clearance=clearance, limits=NO_LIMITS
    )


def _used_view(owned: OwnedGrants, own_name: str, name: str, resource: Resource) -> Resource | None:
    """The owner's view with those of its features that the resource reads of ``name``."""
    view = owned.views.get(own_name)
    if view is None:
        return None
    read = {column.name for column in resource.columns}
    whole = resource.kind == "application" or f"{name}.*" in read
    used = view.features if whole else [one for one in view.features if f"{name}.{one}" in read]
    # By the tags that the owner declares now, not by those that a release remembers.
    return Resource("view", own_name, columns=view_columns(view, used))


def _used_model(owned: OwnedGrants, own_name: str) -> Resource | None:
    model = owned.models.get(own_name)
    return None if model is None else model.resource


@lru_cache(maxsize=4_096)
def granted_names(resource: Resource) -> tuple[tuple[GrantKind, str], ...]:
    """The views of other tenants that a resource reads, as ``OWNER/VIEW``, and the models that answer it."""
    views = (column.name.partition(".")[0] for column in resource.columns)
    found: list[tuple[GrantKind, str]] = [("view", view) for view in views if owner_of(view) is not None]
    found += [("model", model) for model in resource.models]
    return tuple(dict.fromkeys(found))
