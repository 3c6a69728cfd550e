"""The audit log: who saw or changed what, and proof of it."""

from __future__ import annotations

from typing import Annotated

import msgspec

from antiphon.core.errors import InvalidInputError, NotFoundError
from antiphon.gateway.http.bounds import Number
from antiphon.gateway.operation import OperationCall, operation
from antiphon.governance.audit.log import MOST, AuditFilter
from antiphon.governance.audit.proof import AuditProof
from antiphon.governance.audit.record import AuditEntry


class AuditQuery(AuditFilter, frozen=True):
    """Selects records, latest first."""

    before: Number | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=MOST)] = 50


class AuditPage(msgspec.Struct, frozen=True):
    """Records, latest first; ``next`` is the ``before`` of the following page, ``None`` on the last."""

    records: tuple[AuditEntry, ...]
    next: int | None


class AuditCheckpoint(msgspec.Struct, frozen=True):
    """The newest signed checkpoint as it is witnessed, and the public key that it holds under."""

    note: str
    size: int
    key: str


@operation("GET", "/admin/audit", "Who saw or changed what, latest first.", "audit")
def _query(call: OperationCall, query: AuditQuery) -> AuditPage:
    return page(call, query)


def page(call: OperationCall, criteria: AuditFilter) -> AuditPage:
    """One page of the caller's own scope."""
    found = tuple(call.services.access.trail.query(call.scope, criteria))
    return AuditPage(found, found[-1].sequence if len(found) == criteria.limit and found[-1].sequence > 0 else None)


@operation("GET", "/admin/audit/checkpoint", "The newest checkpoint.", "audit")
def _checkpoint(call: OperationCall) -> AuditCheckpoint:
    trail = call.services.access.trail
    newest = trail.checkpoint(call.scope)
    if newest is None:
        raise NotFoundError(
            "There is no checkpoint yet.",
            where="audit",
            next_step="The worker signs one soon after the first record; `antiphon audit checkpoint` does at once.",
        )
    return AuditCheckpoint(newest.note, newest.size, trail.key.verifier(call.scope))


@operation(
    "GET",
    "/admin/audit/{sequence}/proof",
    "Proof that a record is in the log; the stand-alone verifier checks it.",
    "audit",
)
def _proof(call: OperationCall) -> AuditProof:
    text = call.path["sequence"]
    if not text.isdecimal() or len(text) > 18:
        raise InvalidInputError(
            f"{text[:40]!r} is not a record's number.", where="sequence", next_step="Records are counted from 0."
        )
    return call.services.access.trail.proof(call.scope, int(text))
