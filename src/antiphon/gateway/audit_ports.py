"""The audit log as the gateway needs it: evidence of what passes through, and reading it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from antiphon.core.scope import Scope
from antiphon.governance.audit_proof import AuditProof
from antiphon.governance.audit_query import AuditFilter
from antiphon.governance.audit_record import AuditEntry, Outcome
from antiphon.governance.checkpoint import Checkpoint


class Trail(Protocol):
    """The audit log of this installation (``services.governance.audit_trail.AuditTrail``)."""

    def enqueue(
        self,
        scope: Scope,
        principal: str,
        action: str,
        subject: str,
        detail: Mapping[str, Any] | None = None,
        *,
        originator: str | None = None,
        outcome: Outcome = "done",
    ) -> Any:
        """Accept a record; :class:`OverloadedError` when the disk does not keep up."""
        ...

    def record(
        self,
        scope: Scope,
        principal: str,
        action: str,
        subject: str,
        detail: Mapping[str, Any] | None = None,
        *,
        originator: str | None = None,
        outcome: Outcome = "done",
    ) -> None:
        """Like :meth:`enqueue`; the record is on disk when this returns."""
        ...

    def query(self, scope: Scope, wanted: AuditFilter) -> Sequence[AuditEntry]: ...

    def checkpoint(self, scope: Scope) -> Checkpoint | None:
        """The newest signed one; ``None`` before the first."""
        ...

    def proof(self, scope: Scope, sequence: int) -> AuditProof:
        """Proof of one record; signs a checkpoint when none covers it yet."""
        ...

    def verifier_key(self, scope: Scope) -> str:
        """The public key of the scope's checkpoints, as others keep it."""
        ...
