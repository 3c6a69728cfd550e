"""What releases need from other rooms. ``app`` passes the implementations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from antiphon.core.scope import Scope


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


FeatureExists = Callable[[Scope, str, str], bool]
"""Whether a definition version of a view, given in this order, can still be read in a scope."""
