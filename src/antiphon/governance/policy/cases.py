"""Test cases of policies: run them, and say which policies no case makes decide."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import msgspec

from antiphon.governance.policy.document import PolicyCase, default_document
from antiphon.governance.policy.engine import Decider
from antiphon.governance.policy.parts import parts_of
from antiphon.governance.policy.request import Decision


class CaseResult(msgspec.Struct, frozen=True):
    """Result of one case.

    Attributes:
        problem: a sentence, or ``None`` when it came out as expected.
        narrowed: rules over rows and masks of the project's own that deny or mask what a default case lets through.
    """

    name: str
    decision: Decision
    problem: str | None
    narrowed: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """True when the decision was the expected one."""
        return self.problem is None


class TestReport(msgspec.Struct, frozen=True):
    """Results of all cases. ``undecided`` are policies that decided none, so that nothing says what they are for."""

    __test__ = False

    digest: str
    results: tuple[CaseResult, ...]
    undecided: tuple[str, ...]

    @property
    def failed(self) -> tuple[CaseResult, ...]:
        """Cases that came out otherwise."""
        return tuple(result for result in self.results if not result.passed)


def run_cases(decider: Decider, cases: Sequence[PolicyCase]) -> TestReport:
    """Decide every case and hold it against what it expects."""
    results = tuple(run_case(decider, case) for case in cases)
    deciding = {name for result in results for name in result.decision.policies}
    deciding |= {name for result, case in zip(results, cases, strict=True) if case.masked for name in _hiding(decider)}
    undecided = tuple(part.name for part in decider.parts.policies if part.name not in deciding)
    return TestReport(decider.digest, results, undecided)


def run_case(decider: Decider, case: PolicyCase) -> CaseResult:
    """Decide one case."""
    decision = decider.decide(case.principal.principal(), case.action, case.resource, context_of(case))
    narrowed = _narrowing(decider, case, decision)
    return CaseResult(case.name, decision, None if narrowed else _problem(case, decision), narrowed)


def context_of(case: PolicyCase) -> dict[str, Any]:
    """A case's context as the decider reads it."""
    return {**case.context, "keys": case.keys} if case.keys else dict(case.context)


def _narrowing(decider: Decider, case: PolicyCase, decision: Decision) -> tuple[str, ...]:
    """The project's own rules over rows and columns that narrow a default case.

    The default cases name no entity, so that a rule over its keys cannot but deny them; and a masked column is not
    above anybody's clearance. Neither is a mistake. What such a rule would give, what a default policy denies against
    its case, and a rule that denies whatever the entity is, stay one.
    """
    if decision.errors or case not in default_document().cases:
        return ()
    defaults = _default_names()
    own = {
        part.name
        for part in decider.parts.policies
        if part.effect == "forbid" and part.name not in defaults and (part.reads_row or part.mask)
    }
    if decision.allowed:
        masks = own.intersection(_hiding(decider)) if decision.masked else ()
        return tuple(sorted(masks)) if case.expect == "deny" else ()
    denying = own.intersection(decision.policies)
    others = set(decision.policies) - denying
    return tuple(sorted(denying)) if others <= set(case.by if case.by is not None else others) else ()


@cache
def _default_names() -> frozenset[str]:
    return frozenset(part.name for part in parts_of(default_document().cedar).policies)


def _problem(case: PolicyCase, decision: Decision) -> str | None:
    was = "allow" if decision.allowed else "deny"
    if was != case.expect:
        return f"expected {case.expect}, was {was} ({decision.reason})"
    if case.by is not None and set(case.by) != set(decision.policies):
        expected = ", ".join(sorted(case.by)) or "no policy"
        return f"expected to be decided by {expected}, was by {decision.reason}"
    if case.masked is not None and set(case.masked) != set(decision.masked):
        masked = ", ".join(decision.masked) or "nothing"
        return f"expected {', '.join(sorted(case.masked)) or 'nothing'} to be masked, was {masked}"
    return None


def _hiding(decider: Decider) -> tuple[str, ...]:
    return tuple(part.name for part in decider.parts.policies if part.mask)
