"""Policies of one project as the commands, the admin interface and the dashboard use them.

Invariant: whoever approves or rejects is asked about by the policies in force, and by ``PolicySets`` whatever they say.
"""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from antiphon.catalog.batch.batches import Batches
from antiphon.core.errors import ForbiddenError, InvalidInputError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.governance.identity.principal import Principal
from antiphon.governance.identity.provenance import IdentityProvenance
from antiphon.governance.policy.diff import PolicyDiff, compare
from antiphon.governance.policy.document import PolicyDocument, default_document, read_document
from antiphon.governance.policy.engine import ACTIONS, Decider
from antiphon.governance.policy.explanation import Explanation, explain
from antiphon.governance.policy.request import Resource, application_resource, resource_of
from antiphon.governance.policy.validation import PolicyCheck, check
from antiphon.governance.policy.versions import PolicyVersion
from antiphon.services.project.store import Store
from antiphon.serving.records import Records


def records(store: Store) -> Records:
    """Rights to what was kept of this project's answers."""
    return Records(
        store.decider.decider, store.receipts, store.blobs, store.releases, Batches(store.database), store.applied
    )


DEFAULT = 0
"""The number of the default policies, which are in force while no version is."""


class PolicyService:
    """Versions of policies, what they change, and why something was decided."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sets = store.policy_sets

    def list(self, scope: Scope, limit: int = 100) -> builtins.list[PolicyVersion]:
        """Versions, latest first; the default policies come last, as number 0."""
        return [*self._sets.list(scope, limit), self.get(scope, DEFAULT)]

    def get(self, scope: Scope, number: int) -> PolicyVersion:
        """One version; 0 is the default policies.

        Raises:
            NotFoundError: there is none of this number.
        """
        if number != DEFAULT:
            return self._sets.get(scope, number)
        document = default_document()
        acting = self._sets.in_force_number(scope) is None
        return PolicyVersion(
            scope, DEFAULT, document.digest, document, "in_force" if acting else "superseded", "antiphon",
            "the default policies", datetime(1970, 1, 1, tzinfo=UTC), None, "", None,
        )  # fmt: skip

    def in_force(self, scope: Scope) -> PolicyVersion:
        """Returns the version in force."""
        return self._sets.in_force(scope) or self.get(scope, DEFAULT)

    def declared(self, *, defaults: bool = True, tests: tuple[Path, ...] = ()) -> PolicyDocument:
        """The document of the project's own files (``[policy]`` in ``antiphon.toml``), and of more test cases.

        Raises:
            SetupError, InvalidInputError: a file cannot be read or is not what its ending says.
        """
        settings, root = self._store.settings.policy, self._store.paths.root
        cases = [root / name for name in settings.tests]
        return read_document([root / name for name in settings.files], [*cases, *tests], defaults=defaults)

    def check(self, scope: Scope, document: PolicyDocument) -> PolicyCheck:
        """Checks a document for errors and doubtful rules."""
        return check(document, tenant=scope.tenant, environment=scope.environment)

    def propose(self, scope: Scope, document: PolicyDocument, *, by: Principal, reason: str) -> PolicyVersion:
        """Keep a version for somebody to approve.

        Raises:
            ForbiddenError: policy does not let this principal propose.
            As ``PolicySets.propose``.
        """
        self._require(
            scope, by, "propose", Resource("policy", "new", scope.tenant, author=by.id, reasoned=bool(reason))
        )
        return self._sets.propose(scope, document, principal=by.id, rationale=reason)

    def approve(self, scope: Scope, number: int, *, by: Principal, reason: str) -> PolicyVersion:
        """Put a version in force.

        Raises:
            ForbiddenError: policy does not let this principal approve, or outside of ``dev`` the version is its own, or
                that of somebody who made this identity.
            As ``PolicySets.approve``.
        """
        self._require(scope, by, "approve", self._version(scope, number, reason))
        author = self._sets.get(scope, number).author
        IdentityProvenance(self._store.keys).require_another(scope, author, by, f"Version {number} of the policies")
        approved = self._sets.approve(scope, number, principal=by.id, reason=reason)
        forget = getattr(self._store.decider, "forget", None)
        if forget is not None:
            forget()
        return approved

    def reject(self, scope: Scope, number: int, *, by: Principal, reason: str) -> PolicyVersion:
        """Refuse a proposal; one may withdraw one's own.

        Raises:
            ForbiddenError: policy does not let this principal approve others' proposals.
            As ``PolicySets.reject``.
        """
        found = self._sets.get(scope, number)
        if found.author != by.id:
            self._require(scope, by, "approve", self._version(scope, number, reason))
        return self._sets.reject(scope, number, principal=by.id, reason=reason)

    def diff(self, scope: Scope, before: int, after: PolicyDocument) -> PolicyDiff:
        """Compares a version with a document, also by recent requests."""
        return compare(self.get(scope, before).document, after, self._store.recent_requests.list(scope))

    def explain(
        self, scope: Scope, principal: Principal, action: str, resource: str, context: Mapping[str, Any]
    ) -> Explanation:
        """Explains why something is allowed or denied by the policies in force.

        Args:
            resource: ``kind/name``. What is known of ``application/NAME`` (its features, its purpose) and of
                ``release/ID`` (its author, its gates) is filled in.

        Raises:
            InvalidInputError: there is no such action, or the resource has no kind.
        """
        if action not in ACTIONS:
            raise InvalidInputError(
                f"{action!r} is not an action.", where="action", next_step=f"Use one of {', '.join(sorted(ACTIONS))}."
            )
        kind, _, name = resource.partition("/")
        if not kind or not name:
            raise InvalidInputError(
                f"{resource!r} is not a resource.", where="resource", next_step="Write KIND/NAME: application/desk."
            )
        known, purpose = self._known(scope, kind, name)
        context_of = {"purpose": purpose, "environment": scope.environment, "tenant": scope.tenant, **context}
        decider = Decider(self.in_force(scope).document)
        explained = explain(decider, principal, action, known, context_of)
        if kind != "prediction" or action != "read" or not explained.decision.allowed:
            return explained
        try:
            records(self._store).require_prediction(scope, principal, name)
        except NotFoundError:
            return explained
        except ForbiddenError as error:
            denied = msgspec.structs.replace(explained.decision, allowed=False)
            return Explanation(denied, explained.policies, error.what, "What forbids the answer forbids its record.")
        return explained

    def _known(self, scope: Scope, kind: str, name: str) -> tuple[Resource, str]:
        if kind == "application":
            live = self._store.releases.live(scope, name)
            if live is not None:
                application, trained_for = live.bundle.application, live.bundle.model.purposes
                return application_resource(application, trained_for=trained_for), application.purpose
        if kind == "release":
            try:
                release = self._store.releases.get(scope, name)
            except NotFoundError:
                return resource_of(f"{kind}/{name}"), ""
            passed = any(move.stage in ("validated", "live") for move in self._store.releases.stages(scope, release.id))
            known = Resource("release", release.id, author=release.author, passed=passed, reasoned=True)
            return known, release.bundle.application.purpose
        return resource_of(f"{kind}/{name}"), ""

    def _version(self, scope: Scope, number: int, reason: str) -> Resource:
        found = self._sets.get(scope, number)
        return Resource("policy", str(number), scope.tenant, author=found.author, reasoned=bool(reason.strip()))

    def _require(self, scope: Scope, by: Principal, action: str, resource: Resource) -> None:
        self._store.decider.require(by, action, resource, {"environment": scope.environment, "tenant": scope.tenant})
