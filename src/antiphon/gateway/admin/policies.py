"""Policies: versions, what a change would change, approval, and why something was decided."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec

from antiphon.core.errors import InvalidInputError
from antiphon.gateway.admin.shapes import ReasonRequest, read, read_all
from antiphon.gateway.http.bounds import Number
from antiphon.gateway.operation import OperationCall, operation
from antiphon.governance.policy.document import CasePrincipal, PolicyCase, PolicyDocument
from antiphon.governance.policy.explanation import PolicyVerdict
from antiphon.governance.policy.versions import PolicyVersion

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=2_000)]


class PolicyLine(msgspec.Struct, frozen=True):
    """A version in a list; ``decided_by`` moved it last."""

    number: int
    digest: str
    state: str
    author: str
    rationale: str
    created_at: datetime
    decided_by: str | None
    reason: str
    decided_at: datetime | None


class PolicyList(msgspec.Struct, frozen=True):
    """Versions, latest first; number 0 is the default policies."""

    versions: tuple[PolicyLine, ...]


class PolicyText(msgspec.Struct, frozen=True):
    """A version with everything that decides in it."""

    version: PolicyLine
    cedar: str
    attributes: dict[str, dict[str, str]]
    cases: int


class PolicyProposal(msgspec.Struct, frozen=True):
    """Policies to keep for approval, and why."""

    cedar: Annotated[str, msgspec.Meta(max_length=200_000)]
    reason: Text
    attributes: dict[str, dict[str, str]] = {}
    cases: tuple[PolicyCase, ...] = ()


class DifferenceQuery(msgspec.Struct, frozen=True):
    """The version to compare with; by default the one in force."""

    before: Number | None = None


class DecisionChange(msgspec.Struct, frozen=True):
    """A request that would be decided otherwise, in words; it comes from a test ``case`` or is a ``recent`` one."""

    origin: str
    sentence: str


class PolicyDifference(msgspec.Struct, frozen=True):
    """A unified diff of the text, and the decisions that change of all that were ``tried``."""

    text: str
    changed: tuple[DecisionChange, ...]
    tried: int


class ExplanationRequest(msgspec.Struct, frozen=True):
    """A request to explain; ``resource`` is ``kind/name``, ``keys`` are of the entity that is asked about."""

    principal: CasePrincipal
    action: str
    resource: str
    context: dict[str, str] = {}
    keys: dict[str, str] = {}


class PolicyExplanationResponse(msgspec.Struct, frozen=True):
    """A decision, in words and policy by policy."""

    allowed: bool
    sentence: str
    otherwise: str
    digest: str
    masked: tuple[str, ...]
    policies: tuple[PolicyVerdict, ...]


@operation("GET", "/admin/policies", "List versions of the policies, latest first.", "propose")
def _list(call: OperationCall) -> PolicyList:
    return PolicyList(read_all(call.services.access.policies.list(call.scope), PolicyLine))


@operation(
    "POST", "/admin/policies", "Propose policies; they act once another person approved them.", "propose", status=201
)
def _propose(call: OperationCall, body: PolicyProposal) -> PolicyLine:
    policies, document = call.services.access.policies, PolicyDocument(body.cedar, body.attributes, body.cases)
    return read(policies.propose(call.scope, document, by=call.principal, reason=body.reason), PolicyLine)


@operation(
    "POST",
    "/admin/policies/explain",
    "Say which policies decide about a request, and what would be decided without them.",
    "propose",
)
def _explain(call: OperationCall, body: ExplanationRequest) -> PolicyExplanationResponse:
    context: dict[str, Any] = dict(body.context)
    if body.keys:
        context["keys"] = body.keys
    # Nobody learns about another tenant's policies: whoever is meant is asked about in one's own.
    who = msgspec.structs.replace(body.principal.principal(), tenant=call.scope.tenant)
    found = call.services.access.policies.explain(call.scope, who, body.action, body.resource, context)
    return read(msgspec.structs.asdict(found.decision) | msgspec.structs.asdict(found), PolicyExplanationResponse)


@operation("GET", "/admin/policies/{number}", "One version with its text; 0 is the default.", "propose")
def _get(call: OperationCall) -> PolicyText:
    found = call.services.access.policies.get(call.scope, _number(call))
    document = found.document
    return PolicyText(read(found, PolicyLine), document.cedar, document.attributes, len(document.cases))


@operation(
    "GET",
    "/admin/policies/{number}/diff",
    "What a version changes: text, and decisions about test cases and recent requests.",
    "propose",
)
def _diff(call: OperationCall, query: DifferenceQuery) -> PolicyDifference:
    policies = call.services.access.policies
    before = acting(policies.list(call.scope)).number if query.before is None else query.before
    return read(policies.diff(call.scope, before, policies.get(call.scope, _number(call)).document), PolicyDifference)


@operation("POST", "/admin/policies/{number}/approve", "Put a version in force, everywhere within a second.", "approve")
def _approve(call: OperationCall, body: ReasonRequest) -> PolicyLine:
    policies = call.services.access.policies
    return read(policies.approve(call.scope, _number(call), by=call.principal, reason=body.reason), PolicyLine)


@operation("POST", "/admin/policies/{number}/reject", "Refuse a proposal for good.", "approve")
def _reject(call: OperationCall, body: ReasonRequest) -> PolicyLine:
    policies = call.services.access.policies
    return read(policies.reject(call.scope, _number(call), by=call.principal, reason=body.reason), PolicyLine)


def version_number(text: str, where: str, next_step: str) -> int:
    """The number of a version.

    Raises:
        InvalidInputError: it is none.
    """
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise InvalidInputError(f"{text!r} is no version.", where=where, next_step=next_step)
    return int(text)


def _number(call: OperationCall) -> int:
    return version_number(call.path["number"], "number", "Give a number of /admin/policies.")


def acting(versions: Sequence[PolicyVersion]) -> PolicyVersion:
    """Returns the version in force."""
    return next(version for version in versions if version.state == "in_force")
