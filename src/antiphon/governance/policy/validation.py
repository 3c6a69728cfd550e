"""Validation of a set of policies before it is in force: every problem at once, and warnings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from antiphon.core.errors import InvalidInputError
from antiphon.governance.identity.principal import Principal
from antiphon.governance.policy.cases import TestReport, run_cases
from antiphon.governance.policy.document import PolicyDocument
from antiphon.governance.policy.engine import Decider
from antiphon.governance.policy.parts import ParsedPolicy
from antiphon.governance.policy.request import Resource

NEEDED = ("administer", "propose", "approve")
"""Actions that some administrator must have under any policies: without them no one could change the policies again."""


class PolicyCheck(msgspec.Struct, frozen=True):
    """Problems of a policy document, for which it may not act, and ``warnings``: what is probably a mistake."""

    digest: str
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    report: TestReport | None

    @property
    def sound(self) -> bool:
        """True when the policies may come into force."""
        return not self.problems


def check(document: PolicyDocument, *, tenant: str, environment: str) -> PolicyCheck:
    """Parse, type-check, look for a lock-out, run the cases, and look for policies that never match."""
    try:
        decider = Decider(document)
    except InvalidInputError as error:
        return PolicyCheck(document.digest, (error.what,), (), None)
    problems = [*_names(decider), *_locked_out(decider, tenant, environment)]
    report = run_cases(decider, document.cases)
    problems += [f"case {result.name!r}: {result.problem}" for result in report.failed]
    never = [(part.name, why) for part in decider.parts.policies if (why := never_matches(part)) is not None]
    warnings = [f"policy {name!r} can never match: {why}" for name, why in never]
    untested = [name for name in report.undecided if name not in dict(never)]
    warnings += [f"policy {name!r} decides no test case: write one that it decides" for name in untested]
    return PolicyCheck(document.digest, tuple(problems), tuple(warnings), report)


def _names(decider: Decider) -> Iterator[str]:
    names = [part.name for part in decider.parts.policies]
    for part in decider.parts.policies:
        if not part.named:
            yield f'{part.name} has no name: write @id("…") above it, so that decisions can say who decided'
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"two policies are named {name!r}"
    for part in decider.parts.policies:
        if part.tree.get("annotations", {}).get("mask") is not None and not part.mask:
            yield f'policy {part.name!r}: only a forbid masks, and only with @mask("null")'


def _locked_out(decider: Decider, tenant: str, environment: str) -> Iterator[str]:
    """Administrators of whom none may do what it takes to change the policies again."""
    admins = [
        Principal(id=name, tenant=tenant, role="admin", kind=kind, clearance="restricted")
        for name in ("somebody", *sorted(decider.document.attributes))
        for kind in ("person", "service")
    ]
    resource = Resource("policy", "1", author="somebody-else", reasoned=True, passed=True)
    for action in NEEDED:
        decisions = [decider.decide(admin, action, resource, {"environment": environment}) for admin in admins]
        if not any(decision.allowed for decision in decisions):
            yield (
                f"no administrator could {action} any more ({decisions[0].reason}): "
                'permit it to Role::"admin" and keep forbids off it'
            )


def never_matches(part: ParsedPolicy) -> str | None:
    """Reason for which a policy that fits the schema matches nothing, as far as its text shows it."""
    actions = part.tree["action"]
    if actions["op"] == "in" and not actions.get("entities") and "entity" not in actions:
        return "its list of actions is empty"
    for condition in part.tree.get("conditions", []):
        value = constant(condition["body"])
        if value is not None and value != (condition["kind"] == "when"):
            return f"its {condition['kind']} is always {'true' if value else 'false'}"
    return None


def constant(tree: Mapping[str, Any]) -> bool | None:
    """The value of a condition that depends on nothing."""
    operator, operands = next(iter(tree.items()))
    if operator == "Value" and isinstance(operands, bool):
        return operands
    if operator == "!":
        inner = constant(operands["arg"])
        return None if inner is None else not inner
    if operator in ("&&", "||"):
        sides = [constant(operands["left"]), constant(operands["right"])]
        absorbing = operator == "||"
        if absorbing in sides:
            return absorbing
        return None if None in sides else not absorbing
    if operator in ("==", "!=", "<", "<=", ">", ">="):
        values = [side.get("Value") for side in (operands["left"], operands["right"])]
        if operands["left"] == operands["right"]:
            return operator in ("==", "<=", ">=")
        if operator in ("==", "!=") and None not in values:
            return bool(values[0] == values[1]) == (operator == "==")
    return None
