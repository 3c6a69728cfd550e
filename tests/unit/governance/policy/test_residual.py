from __future__ import annotations

from typing import Any

import pytest

from antiphon.governance.identity.principal import Limits, Principal
from antiphon.governance.policy import residual
from antiphon.governance.policy.document import PolicyDocument, default_document
from antiphon.governance.policy.engine import Decider
from antiphon.governance.policy.request import PolicyColumn, PolicyRow, Resource
from antiphon.governance.policy.residual import RowPolicy

ANN = Principal("ann", "default", "service")
DESK = Resource("application", "desk")
KEYS = ("origin", "dest")


def policy(condition: str, *, resource: Resource = DESK, principal: Principal = ANN, **context: Any) -> RowPolicy:
    rule = f'@id("rule") forbid (principal, action == Action::"answer", resource) when {{ {condition} }};'
    document = PolicyDocument(default_document().cedar + rule, {"ann": {"origin": "JFK"}})
    return RowPolicy(Decider(document), principal, "answer", resource, KEYS, {"purpose": "inform", **context})


def row(origin: str, dest: str = "LAX", as_of: int = 0) -> PolicyRow:
    return PolicyRow({"origin": origin, "dest": dest}, as_of)


@pytest.mark.parametrize(
    ("condition", "denied"),
    [
        ('resource.hasTag("origin") && resource.getTag("origin") == "JFK"', ["JFK"]),
        ('resource.hasTag("origin") && resource.getTag("origin") != "JFK"', ["jfk", "J_K", "J%K", "it's", ""]),
        ('resource.hasTag("origin") && resource.getTag("origin") like "J_*"', ["J_K"]),
        ('resource.hasTag("origin") && resource.getTag("origin") like "*%*"', ["J%K"]),
        ('resource.hasTag("origin") && ["JFK", "it\'s"].contains(resource.getTag("origin"))', ["JFK", "it's"]),
        ('resource.hasTag("origin") && resource.getTag("origin") == principal.getTag("origin") '
         '&& principal.hasTag("origin")', None),
        ('principal.hasTag("origin") && resource.hasTag("origin") '
         '&& resource.getTag("origin") == principal.getTag("origin")', ["JFK"]),
        ('!(resource.hasTag("origin") && resource.getTag("origin") like "J*")', ["jfk", "it's", ""]),
        ('resource.hasTag("absent")', []),
    ],
)  # fmt: skip
def test_the_predicate_denies_what_the_policy_forbids(condition: str, denied: list[str] | None) -> None:
    if denied is None:  # the guard stands behind what it guards: the schema refuses it
        with pytest.raises(Exception, match="safety of access"):
            policy(condition)
        return
    asked = ["JFK", "jfk", "J_K", "J%K", "it's", ""]
    found = policy(condition)
    assert found.outside is None
    assert [
        text for text, said in zip(asked, found.verdicts([row(text) for text in asked]), strict=True) if not said
    ] == (denied)
    decisions = found.decide([row(text) for text in asked])
    assert [text for text, said in zip(asked, decisions, strict=True) if not said.allowed] == denied
    assert {said.reason for said in decisions if not said.allowed} <= {"rule"}


def test_moments_are_compared_as_numbers() -> None:
    found = policy("context.as_of >= 10 && context.as_of < 100")
    assert found.verdicts([row("a", as_of=moment) for moment in (-5, 9, 10, 99, 100, 2**63 - 1)]) == [
        True, True, False, False, True, True
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("condition", "outside"),
    [
        ("context.as_of + 1 == 11", "'+'"),
        ('if context.as_of > 3 then resource.hasTag("x") else context.as_of == 10', "'if-then-else'"),
        ('resource.hasTag("origin") && resource.getTag("origin") like "a\\0*"', "zero character"),
    ],
)
def test_what_lies_outside_the_fragment_is_decided_row_by_row(condition: str, outside: str) -> None:
    found = policy(condition)
    assert found.predicate is None
    assert outside in str(found.outside)
    rows = [row("JFK", as_of=10), row("JFK", as_of=11)]
    assert found.verdicts(rows) == [None, None]
    assert [said.allowed for said in found.decide(rows)] == [found.one(each).allowed for each in rows]


def test_rows_about_which_the_predicate_says_nothing_are_decided_online() -> None:
    found = policy('resource.hasTag("origin") && resource.getTag("origin") like "J*"')
    rows = [row("JFK\0"), row("\ud800"), PolicyRow({"origin": "JFK"}), row("EWR", as_of=2**70)]
    assert found.verdicts(rows) == [None] * 4
    assert [said.allowed for said in found.decide(rows)] == [False, False, False, True]


def test_a_condition_that_fails_whatever_the_row_is_denies_every_row() -> None:
    found = policy("context.as_of > 3 || 9223372036854775807 + 1 == 2")
    assert not any(said.allowed for said in found.decide([row("a"), row("b", as_of=9)]))


def test_columns_purposes_and_keys_of_a_credential_deny_every_row() -> None:
    secret = Resource("application", "desk", columns=(PolicyColumn("v.a", "restricted"),))
    for found in (
        policy("false", resource=secret),
        policy("false", resource=Resource("application", "desk", columns=(PolicyColumn("v.a", purposes=("sell",)),))),
        policy("false", principal=Principal("ann", "default", "service", limits=Limits(("read",)))),
    ):
        assert found.verdicts([row("a")]) == [False]
        assert not found.decide([row("a")])[0].allowed


@pytest.mark.parametrize("rechecked", [True, False])
def test_a_predicate_that_is_wrong_lets_nothing_through_that_is_decided_again(
    monkeypatch: pytest.MonkeyPatch, rechecked: bool
) -> None:
    found = policy('resource.hasTag("origin") && resource.getTag("origin") == "JFK"')
    monkeypatch.setattr(residual.RowPolicy, "verdicts", lambda self, rows: [True] * len(rows))
    assert found.decide([row("JFK")], recheck=rechecked)[0].allowed is not rechecked


def test_a_predicate_that_denies_too_much_is_an_error_that_denies(monkeypatch: pytest.MonkeyPatch) -> None:
    found = policy("context.as_of == 77")
    monkeypatch.setattr(residual.RowPolicy, "verdicts", lambda self, rows: [False] * len(rows))
    said = found.decide([row("JFK")])[0]
    assert (said.allowed, said.errors) == (False, ("the predicate denies what the decider permits",))


def test_what_cannot_be_evaluated_partially_is_decided_row_by_row() -> None:
    found = policy("context.as_of == 77", resource=Resource("application", "\ud800"))
    assert "cannot be evaluated partially" in str(found.outside)
    assert not found.decide([row("JFK")])[0].allowed
