from __future__ import annotations

from typing import Any, get_args

import pytest
from tests.harness.small_desk import DESK

from antiphon.core.errors import ForbiddenError, InvalidInputError
from antiphon.governance.identity.principal import KEY_SCOPE, Limits, Principal
from antiphon.governance.policy import engine as policy_module
from antiphon.governance.policy.cases import run_cases
from antiphon.governance.policy.document import PolicyDocument, default_document
from antiphon.governance.policy.engine import Action, Decider, Decision, PolicyColumn, Resource
from antiphon.governance.policy.request import application_resource

MASKED = '@id("hide") @mask("null") forbid (principal, action == Action::"see", resource) when {CONDITION};'
ROW = """
@id("only-own-origin") forbid (principal, action == Action::"answer", resource)
unless { resource.hasTag("origin") && principal.hasTag("origin")
  && resource.getTag("origin") == principal.getTag("origin") };
"""
OVERFLOW = """
@id("broken") forbid (principal, action, resource)
when { context.purpose == "x" && 9223372036854775807 + 1 == 2 };
"""


def who(role: str = "admin", **fields: Any) -> Principal:
    given: dict[str, Any] = {"id": "ann", "tenant": "default", "clearance": "restricted"}
    return Principal(role=role, **given | fields)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def decider() -> Decider:
    return Decider()


def test_the_default_policies_decide_as_their_cases_say(decider: Decider) -> None:
    report = run_cases(decider, default_document().cases)
    assert [result.problem for result in report.failed] == []
    assert report.undecided == ()
    asked = {case.action for case in default_document().cases}
    assert asked >= set(get_args(Action))


def test_unknown_actions_roles_and_strange_names_are_denied_or_decided(decider: Decider) -> None:
    fly = decider.decide(who(), "fly", "application/desk")
    assert not fly.allowed
    assert "unknown action 'fly'; there are administer, answer" in fly.reason
    assert not decider.decide(who("king"), "read", "application/desk").allowed
    assert decider.decide(who(), "read", 'application/a"b\n\\::\u2028😀').allowed
    assert decider.decide(who(), "read", "").allowed
    assert not decider.decide(who(), "read", "application/\ud800").allowed


def test_require_says_who_may_not_do_what_and_why(decider: Decider) -> None:
    with pytest.raises(ForbiddenError, match=r"ann \(viewer\) may not answer application/desk: no policy permits it"):
        decider.require(who("viewer"), "answer", "application/desk")
    with pytest.raises(ForbiddenError, match="own-tenant-only"):
        decider.require(who(), "read", "application/desk", {"tenant": "other"})
    assert decider.require(who("viewer"), "read", "application/desk").allowed


def test_a_key_gives_no_more_than_it_is_for(decider: Decider) -> None:
    asker = who(limits=Limits(actions=("answer",), resources=("application/desk",)))
    assert decider.decide(asker, "answer", "application/desk").allowed
    assert decider.decide(asker, "answer", "application/other").policies == (KEY_SCOPE,)
    assert not decider.decide(asker, "administer", "key/*").allowed


@pytest.mark.parametrize("defended", [True, False])
def test_a_condition_that_fails_denies(monkeypatch: pytest.MonkeyPatch, defended: bool) -> None:
    if not defended:  # what the engine alone would say: it skips the forbid that failed
        monkeypatch.setattr(
            policy_module.Decider, "_said", lambda self, result: Decision(bool(result.allowed), (), self.digest)
        )
    decider = Decider('@id("all") permit (principal, action, resource);' + OVERFLOW)
    failed = decider.decide(who(), "read", "a/b", {"purpose": "x"})
    assert failed.allowed is not defended
    if defended:
        assert "overflow" in failed.errors[0]
        assert failed.policies == ()
    assert decider.decide(who(), "read", "a/b", {"purpose": "y"}).allowed


def test_what_the_engine_cannot_read_denies_where_policies_read_it() -> None:
    moment = '@id("old") forbid (principal, action, resource) when { context.as_of < 0 };'
    decider = Decider(default_document().cedar + ROW + moment)
    for unreadable in ({"as_of": 2**70}, {"keys": {"origin": "\ud800"}}):
        said = decider.decide(who(), "answer", "application/desk", unreadable)
        assert (said.allowed, bool(said.errors)) == (False, True)


@pytest.mark.parametrize("first", ["JFK", "\ud800"])
def test_a_key_that_no_policy_reads_decides_nothing_whoever_asks_first(first: str) -> None:
    decider = Decider(PolicyDocument(default_document().cedar + ROW, {"ann": {"origin": "JFK"}}))
    for flight in (first, "JFK", "\ud800"):
        asked = {"keys": {"origin": "JFK", "flight": flight}, "as_of": 2**70}
        assert decider.decide(who(), "answer", "application/desk", asked).allowed


def test_what_decides_is_part_of_what_is_remembered() -> None:
    rule = (
        '@id("no-selling") forbid (principal, action, resource) '
        'when { context.purpose == "sell" && context.originator != "eve" && context.as_of < 10 };'
    )
    decider = Decider(default_document().cedar + rule)
    asked = {"purpose": "sell", "as_of": 3, "originator": "bob"}
    for _ in range(2):
        assert not decider.decide(who(), "answer", "application/desk", asked).allowed
        for other in ({"purpose": "inform"}, {"originator": "eve"}, {"as_of": 11}):
            assert decider.decide(who(), "answer", "application/desk", asked | other).allowed
    assert decider.digest != Decider().digest


def test_a_row_rule_decides_by_keys_and_by_the_principals_attributes() -> None:
    document = PolicyDocument(default_document().cedar + ROW, {"ann": {"origin": "JFK"}})
    decider = Decider(document)
    for _ in range(2):
        assert decider.decide(who(), "answer", "application/desk", {"keys": {"origin": "JFK"}}).allowed
        other = decider.decide(who(), "answer", "application/desk", {"keys": {"origin": "EWR"}})
        assert (other.allowed, other.policies) == (False, ("only-own-origin",))
    assert not decider.decide(who(), "answer", "application/desk").allowed
    assert not decider.decide(who(id="bob"), "answer", "application/desk", {"keys": {"origin": "JFK"}}).allowed
    assert decider.digest != Decider(PolicyDocument(document.cedar)).digest


def test_a_masked_column_is_absent_and_does_not_count() -> None:
    condition = '{ resource.sensitivity > principal.clearance && resource.name != "v.c" }'
    decider = Decider(default_document().cedar + MASKED.replace("{CONDITION}", condition))
    asker = who("service", clearance="internal")
    columns = (PolicyColumn("v.a", "internal"), PolicyColumn("v.b", "restricted", ("sell",)))
    said = decider.decide(asker, "answer", Resource("application", "desk", columns=columns), {"purpose": "inform"})
    assert (said.allowed, said.masked) == (True, ("v.b",))
    closed = Resource("application", "desk", columns=(*columns, PolicyColumn("v.c", "restricted")))
    assert decider.decide(asker, "answer", closed, {"purpose": "inform"}).policies == ("clearance",)
    engineer = who("engineer", clearance="internal")
    trained = decider.decide(engineer, "train", Resource("application", "desk", columns=columns), {"purpose": "inform"})
    assert (trained.allowed, trained.policies) == (False, ("hide",)), "one trains on whole rows or not at all"


def test_a_column_that_is_denied_otherwise_denies_everything() -> None:
    hidden = '@id("never") forbid (principal, action == Action::"see", resource) when { resource.name == "v.b" };'
    decider = Decider(default_document().cedar + hidden + MASKED.replace("{CONDITION}", '{ resource.name == "v.b" }'))
    said = decider.decide(
        who(), "answer", Resource("application", "desk", columns=(PolicyColumn("v.a"), PolicyColumn("v.b")))
    )
    assert (said.allowed, said.policies, said.masked) == (False, ("hide", "never"), ())


def test_a_view_without_tags_counts_as_internal(decider: Decider) -> None:
    resource = application_resource(DESK)
    assert [column.name for column in resource.columns] == ["congestion.*", "weather.*"]
    assert decider.decide(who("service", clearance="internal"), "answer", resource).allowed
    assert decider.decide(who("service", clearance="public"), "answer", resource).policies == ("clearance",)


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("permit (principal, acti", "unexpected end of input"),
        ("permit (principal, action, resource) when { principal.age > 3 };", "age"),
        ('permit (principal, action == Action::"fly", resource);', "fly"),
        ("permit (principal, action, resource) when { context.mood == 1 };", "mood"),
        ('permit (principal, action, resource) when { resource.getTag("origin") == "JFK" };', "safety of access"),
    ],
)
def test_a_policy_that_does_not_fit_is_refused_when_it_is_loaded(policy: str, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        Decider(policy)


def test_no_policies_deny_everything() -> None:
    assert not Decider("").decide(who(), "read", "a/b").allowed
