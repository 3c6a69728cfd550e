"""What the gateway needs to show, propose and approve policies. ``app`` passes the implementation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from antiphon.core.scope import Scope
from antiphon.governance.policy_diff import PolicyDiff
from antiphon.governance.policy_document import PolicyDocument
from antiphon.governance.policy_explain import Explanation
from antiphon.governance.policy_sets import PolicyVersion
from antiphon.governance.principal import Principal


class Policies(Protocol):
    """Versions of policies and what they decide; 0 is the default policies."""

    def list(self, scope: Scope, limit: int = 100) -> Sequence[PolicyVersion]: ...

    def get(self, scope: Scope, number: int) -> PolicyVersion: ...

    def propose(self, scope: Scope, document: PolicyDocument, *, by: Principal, reason: str) -> PolicyVersion: ...

    def approve(self, scope: Scope, number: int, *, by: Principal, reason: str) -> PolicyVersion: ...

    def reject(self, scope: Scope, number: int, *, by: Principal, reason: str) -> PolicyVersion: ...

    def diff(self, scope: Scope, before: int, after: PolicyDocument) -> PolicyDiff: ...

    def explain(
        self, scope: Scope, principal: Principal, action: str, resource: str, context: Mapping[str, Any]
    ) -> Explanation: ...


def acting(versions: Sequence[PolicyVersion]) -> PolicyVersion:
    """The version in force."""
    return next(version for version in versions if version.state == "in_force")
