"""What releases need from other rooms. ``app`` passes the implementations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from antiphon.catalog.releases import Release
from antiphon.core.scope import Scope
from antiphon.governance.identity.principal import Principal


class Audit(Protocol):
    """Records an act in the transaction that did it (``governance.audit.AuditLog.append``)."""

    def __call__(
        self,
        scope: Scope,
        principal: str,
        action: str,
        subject: str,
        detail: Mapping[str, Any] | None = None,
        *,
        within: Any = None,
    ) -> Any: ...


class Promoting(Protocol):
    """Asks policy whether somebody may make a release reach users (``force``: past gates that it did not pass)."""

    def __call__(self, release: Release, passed: bool, by: Principal, reason: str, force: bool) -> None:
        """Raises ``ForbiddenError``."""
        ...


FeatureExists = Callable[[Scope, str, str], bool]
"""Whether a definition version of a view, given in this order, can still be read in a scope."""
