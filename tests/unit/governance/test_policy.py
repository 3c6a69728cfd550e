from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from antiphon.core.errors import Forbidden, InvalidInput, SetupError
from antiphon.governance.identity import Principal, Role
from antiphon.governance.policy import Action, Decider

ALLOWED: dict[str, set[str]] = {
    "admin": {"answer", "feedback", "administer", "publish", "release", "batch", "read"},
    "engineer": {"answer", "feedback", "publish", "release", "batch", "read"},
    "service": {"answer", "feedback", "batch", "read"},
    "viewer": {"read"},
}


def who(role: str, tenant: str = "default") -> Principal:
    return Principal("ann", tenant, role)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def decider() -> Decider:
    return Decider()


@pytest.mark.parametrize("role", get_args(Role))
@pytest.mark.parametrize("action", get_args(Action))
def test_each_role_may_exactly_what_it_is_for(decider: Decider, role: str, action: str) -> None:
    decision = decider.decide(who(role), action, "application/desk", {"purpose": "inform"})
    assert decision.allowed == (action in ALLOWED[role])
    assert bool(decision.policies) == decision.allowed
    assert decision.digest == decider.digest


def test_a_service_publishes_to_streams_only(decider: Decider) -> None:
    assert decider.decide(who("service"), "publish", "stream/departures").allowed
    assert not decider.decide(who("service"), "publish", "publication/3").allowed
    assert not decider.decide(who("viewer"), "publish", "stream/departures").allowed


def test_nothing_crosses_a_tenant_not_even_for_admins(decider: Decider) -> None:
    decision = decider.decide(who("admin"), "read", "application/desk", {"tenant": "other"})
    assert not decision.allowed
    assert decision.policies == ("own-tenant-only",)


def test_unknown_actions_roles_and_strange_names_are_denied_or_decided(decider: Decider) -> None:
    assert not decider.decide(who("admin"), "fly", "application/desk").allowed
    assert not decider.decide(who("king"), "read", "application/desk").allowed
    assert decider.decide(who("admin"), "read", 'application/a"b\n\\::').allowed
    assert decider.decide(who("admin"), "read", "").allowed


def test_require_says_who_may_not_do_what(decider: Decider) -> None:
    with pytest.raises(Forbidden, match=r"ann \(viewer\) may not answer application/desk"):
        decider.require(who("viewer"), "answer", "application/desk")
    assert decider.require(who("viewer"), "read", "application/desk").allowed


def test_a_forbid_whose_condition_fails_denies() -> None:
    decider = Decider(
        "permit (principal, action, resource);\n"
        'forbid (principal, action, resource) when { context.purpose == "x" && 9223372036854775807 + 1 == 2 };'
    )
    failed = decider.decide(who("admin"), "read", "a/b", {"purpose": "x"})
    assert not failed.allowed
    assert "overflow" in failed.errors[0]
    assert decider.decide(who("admin"), "read", "a/b", {"purpose": "y"}).allowed


def test_purpose_decides_and_is_part_of_what_is_remembered(tmp_path: Path) -> None:
    extra = tmp_path / "extra.cedar"
    extra.write_text('@id("no-selling") forbid (principal, action, resource) when { context.purpose == "sell" };')
    decider = Decider.load([extra])
    assert decider.digest != Decider().digest
    for _ in range(2):
        assert decider.decide(who("service"), "answer", "application/desk", {"purpose": "inform"}).allowed
        sold = decider.decide(who("service"), "answer", "application/desk", {"purpose": "sell"})
        assert (sold.allowed, sold.policies) == (False, ("no-selling",))


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("permit (principal, acti", "unexpected end of input"),
        ("permit (principal, action, resource) when { principal.age > 3 };", "age"),
        ('permit (principal, action == Action::"fly", resource);', "fly"),
        ("permit (principal, action, resource) when { context.mood == 1 };", "mood"),
    ],
)
def test_a_policy_that_does_not_fit_is_refused_when_it_is_loaded(policy: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        Decider(policy)


def test_a_missing_policy_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="cannot be read"):
        Decider.load([tmp_path / "absent.cedar"])


def test_no_policies_deny_everything() -> None:
    assert not Decider("").decide(who("admin"), "read", "a/b").allowed
