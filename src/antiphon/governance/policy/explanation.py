"""Explanations of a decision: policies that decided, others that matched, and the decision without the first."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal

import msgspec

from antiphon.governance.identity.principal import KEY_SCOPE, Principal
from antiphon.governance.policy.engine import ACTIONS, Decider
from antiphon.governance.policy.parts import parts_of, policy_set
from antiphon.governance.policy.request import Decision, Resource


class PolicyVerdict(msgspec.Struct, frozen=True):
    """Result of one policy for one request, and whether it decided."""

    name: str
    effect: Literal["permit", "forbid"]
    outcome: Literal["matched", "did not match", "failed"]
    decided: bool


class Explanation(msgspec.Struct, frozen=True):
    """A decision with every policy's part in it, and why, in words (``sentence``).

    ``otherwise``: what would have been decided by the policies that did not decide."""

    decision: Decision
    policies: tuple[PolicyVerdict, ...]
    sentence: str
    otherwise: str


def explain(
    decider: Decider, principal: Principal, action: str, resource: Resource, context: Mapping[str, Any]
) -> Explanation:
    """Decide and explain the decision."""
    decision = decider.decide(principal, action, resource, context)
    verdicts = _verdicts(decider, decision, principal, action, resource, context)
    return Explanation(
        decision, verdicts, _sentence(decision, principal, action, resource), _otherwise(decision, verdicts)
    )


def _verdicts(
    decider: Decider,
    decision: Decision,
    principal: Principal,
    action: str,
    resource: Resource,
    context: Mapping[str, Any],
) -> tuple[PolicyVerdict, ...]:
    if action not in ACTIONS or KEY_SCOPE in decision.policies:
        return ()
    met = decider.met(principal, action, resource, context)
    if isinstance(met, Decision):
        # A column denied: what the policies say about seeing it is what decided.
        return tuple(
            PolicyVerdict(part.name, part.effect, "matched", True)
            for part in decider.parts.policies
            if part.name in met.policies
        )
    found = []
    for part, alone in zip(decider.parts.policies, _alone(decider.document.cedar), strict=True):
        said = decider.evaluate(principal, action, met[0], context, alone)
        outcome: Literal["matched", "did not match", "failed"] = (
            "failed" if said.errors else "matched" if said.policies else "did not match"
        )
        found.append(PolicyVerdict(part.name, part.effect, outcome, part.name in decision.policies))
    return tuple(found)


@lru_cache(maxsize=8)
def _alone(cedar: str) -> tuple[Any, ...]:
    """Each policy as a set of its own."""
    return tuple(policy_set({part.position: part.tree}) for part in parts_of(cedar).policies)


def _sentence(decision: Decision, principal: Principal, action: str, resource: Resource) -> str:
    who = f"{principal.id} ({principal.role}, cleared for {principal.clearance})"
    may = "may" if decision.allowed else "may not"
    if decision.policies == (KEY_SCOPE,):
        why = principal.limits.refusal(action, str(resource)) or "its key is for something else"
    elif decision.errors:
        why = f"denied because it could not be evaluated: {decision.errors[0]}"
    elif decision.policies:
        why = f"by {', '.join(decision.policies)}"
    else:
        why = "no policy permits it"
    masked = f"; masked: {', '.join(decision.masked)}" if decision.masked else ""
    return f"{who} {may} {action} {resource}: {why}{masked}."


def _otherwise(decision: Decision, verdicts: tuple[PolicyVerdict, ...]) -> str:
    others = [one for one in verdicts if one.outcome == "matched" and not one.decided]
    failed = [one.name for one in verdicts if one.outcome == "failed"]
    forbids = [one.name for one in others if one.effect == "forbid"]
    permits = [one.name for one in others if one.effect == "permit"]
    if failed:
        return f"The conditions of {', '.join(failed)} cannot be evaluated: any failure denies."
    if decision.allowed:
        return "Without it nothing would have permitted this." if not permits else f"Also by {', '.join(permits)}."
    if forbids:
        return f"Also forbidden by {', '.join(forbids)}."
    if permits and decision.policies:
        return f"Without {', '.join(decision.policies)} it would have been allowed by {', '.join(permits)}."
    return "Nothing else matched: it would have been denied all the same."
