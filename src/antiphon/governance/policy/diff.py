"""Differences between two policy documents: their text, and decisions about test cases and recent requests."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Literal

import msgspec

from antiphon.core.ids import canonical
from antiphon.governance.policy.cases import context_of
from antiphon.governance.policy.document import PolicyCase, PolicyDocument
from antiphon.governance.policy.engine import Decider
from antiphon.governance.policy.recent_requests import PolicyRequest
from antiphon.governance.policy.request import Decision


class PolicyDecisionChange(msgspec.Struct, frozen=True):
    """A request that is decided otherwise: ``what`` describes it, ``origin`` says where it came from."""

    what: str
    origin: Literal["case", "recent"]
    before: Decision
    after: Decision

    @property
    def sentence(self) -> str:
        """The change in words."""
        was, now = ("allowed" if said.allowed else "denied" for said in (self.before, self.after))
        masked = "" if self.before.masked == self.after.masked else f", masked {', '.join(self.after.masked) or 'none'}"
        return f"{self.what}: {was} ({self.before.reason}) → {now} ({self.after.reason}){masked}"


class PolicyDiff(msgspec.Struct, frozen=True):
    """Differences between two documents. ``text`` is a unified diff; ``tried`` counts the requests."""

    before: str
    after: str
    text: str
    changed: tuple[PolicyDecisionChange, ...]
    tried: int


def compare(before: PolicyDocument, after: PolicyDocument, recent: Iterable[PolicyRequest] = ()) -> PolicyDiff:
    """Decide everything with both.

    Raises:
        InvalidInputError: one of them does not parse or does not fit the schema.
    """
    old, new = Decider(before), Decider(after)
    cases: dict[str, PolicyCase] = {case.name: case for document in (before, after) for case in document.cases}
    tried: list[tuple[str, Literal["case", "recent"], PolicyRequest]] = [
        (name, "case", PolicyRequest(case.principal.principal(), case.action, case.resource, context_of(case)))
        for name, case in cases.items()
    ]
    for one in recent:
        tried.append((f"{one.principal.id} ({one.principal.role}) {one.action} {one.resource}", "recent", one))
    changed: list[PolicyDecisionChange] = []
    for what, origin, one in tried:
        was, now = (each.decide(one.principal, one.action, one.resource, one.context) for each in (old, new))
        if (was.allowed, was.masked) != (now.allowed, now.masked):
            changed.append(PolicyDecisionChange(what, origin, was, now))
    text = "\n".join(difflib.unified_diff(_lines(before), _lines(after), "before", "after", lineterm=""))
    return PolicyDiff(old.digest, new.digest, text, tuple(changed), len(tried))


def _lines(document: PolicyDocument) -> list[str]:
    attributes = [f"# {name}: {canonical(tags).decode()}" for name, tags in sorted(document.attributes.items())]
    return [*document.cedar.splitlines(), *attributes]
