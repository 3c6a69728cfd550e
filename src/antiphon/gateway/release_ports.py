"""The moves of rollouts and live pointers, as the gateway needs them."""

from __future__ import annotations

from typing import Protocol

from antiphon.catalog.releases import Activation
from antiphon.catalog.rollouts import Rollout
from antiphon.core.scope import Scope
from antiphon.governance.principal import Principal
from antiphon.releases.rollout import Expected, RolledBack


class Transitions(Protocol):
    """Moves rollouts and the live pointer, with their audit entry (``releases.rollout.RolloutTransitions``)."""

    def begin(
        self,
        scope: Scope,
        release: str,
        *,
        principal: str,
        reason: str,
        force: bool = False,
        by: Principal | None = None,
    ) -> Rollout: ...

    def hold(self, scope: Scope, rollout: str, *, principal: str, reason: str) -> Rollout: ...

    def resume(self, scope: Scope, rollout: str, *, principal: str, reason: str) -> Rollout: ...

    def abort(self, scope: Scope, rollout: str, *, principal: str, reason: str) -> Rollout: ...

    def undo(
        self, scope: Scope, rollout: str, *, principal: str, reason: str, expected: Expected | None = None
    ) -> Rollout: ...

    def activate(
        self,
        scope: Scope,
        application: str,
        release: str,
        *,
        principal: str,
        reason: str,
        by: Principal | None = None,
    ) -> Activation: ...

    def rollback(self, scope: Scope, application: str, *, principal: str, reason: str) -> RolledBack: ...
