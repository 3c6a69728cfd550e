"""The policies in force as a process sees them: parsed once, renewed by a lease.

Invariants: a version that was approved decides in every process that reaches the catalog within :data:`LEASE_SECONDS`.
One that does not reach it decides by what it knows for at most ``bound`` seconds, then denies by raising. What somebody
asked is decided by one version from beginning to end.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from typing import Any

from antiphon.core.clock import Clock
from antiphon.core.leases import Leases, Renewer
from antiphon.core.scope import Scope
from antiphon.governance.identity.principal import Principal
from antiphon.governance.policy.engine import Decider
from antiphon.governance.policy.request import Decision, Resource
from antiphon.governance.policy.versions import PolicySets

LEASE_SECONDS = 0.25
BOUND_SECONDS = 30.0
_MOST_REMEMBERED = 256


class LivePolicies:
    """Decides by the policies in force in a principal's tenant. Safe to share between threads.

    Every question raises ``UnavailableError`` when the catalog is away and no policies were seen within the bound.

    Args:
        scope: whose policies :attr:`digest` is of; its environment is every request's.
        bound: for how many seconds known policies are believed while the catalog is away.
        renewer: reads again which are in force before a lease ends.
    """

    def __init__(
        self,
        versions: PolicySets,
        clock: Clock,
        scope: Scope,
        *,
        bound: float = BOUND_SECONDS,
        renewer: Renewer | None = None,
    ) -> None:
        self._versions = versions
        self._scope = scope
        # The number of the version in force, ``None`` for the default policies, and what decides by it.
        self._leases: Leases[str, tuple[int | None, Decider]] = Leases(
            clock, seconds=LEASE_SECONDS, bound=bound, most=_MOST_REMEMBERED, renewer=renewer
        )

    @property
    def digest(self) -> str:
        """Of the policies in force in the own scope: what a release pins."""
        return self.decider().digest

    def decider(self, tenant: str | None = None) -> Decider:
        """The decider in force in a tenant, the own one by default."""
        tenant = self._scope.tenant if tenant is None else tenant
        leased = self._leases.look(tenant, partial(self._read, tenant))
        assert leased is not None
        return leased[1]

    def decide(
        self, principal: Principal, action: str, resource: str | Resource, context: Mapping[str, Any] | None = None
    ) -> Decision:
        """As :meth:`Decider.decide`, by the policies in force; the environment is this process's."""
        return self.decider(principal.tenant).decide(principal, action, resource, self._here(context))

    def require(
        self, principal: Principal, action: str, resource: str | Resource, context: Mapping[str, Any] | None = None
    ) -> Decision:
        """As :meth:`Decider.require`, by the policies in force.

        Raises:
            ForbiddenError: the decision is to deny.
        """
        return self.decider(principal.tenant).require(principal, action, resource, self._here(context))

    def forget(self) -> None:
        """Ask the catalog at the next request, for a process that approved policies itself."""
        self._leases.forget()

    def _here(self, context: Mapping[str, Any] | None) -> Mapping[str, Any]:
        if context is not None and context.get("environment") == self._scope.environment:
            return context
        return {**(context or {}), "environment": self._scope.environment}

    def _read(self, tenant: str) -> tuple[int | None, Decider]:
        scope = Scope(tenant, self._scope.environment)
        number, before = self._versions.in_force_number(scope), self._leases.last(tenant)
        if before is not None and before[0] == number:
            return before
        return number, _default() if number is None else Decider(self._versions.get(scope, number).document)


@cache
def _default() -> Decider:
    return Decider()
