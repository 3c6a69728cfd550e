from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from tests.catalogs import opened_again

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.core.clock import ManualClock, SystemClock
from antiphon.core.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError, UnavailableError
from antiphon.core.scope import Scope
from antiphon.governance.audit.log import AuditLog
from antiphon.governance.identity.principal import Principal
from antiphon.governance.policy import versions as policy_sets
from antiphon.governance.policy.document import PolicyDocument, default_document
from antiphon.governance.policy.live import BOUND_SECONDS, LEASE_SECONDS, LivePolicies
from antiphon.governance.policy.recent_requests import RecentRequests
from antiphon.governance.policy.request import Resource
from antiphon.governance.policy.versions import PolicySets

PROD = Scope("default", "prod")
DEV = Scope("default", "dev")
SERVICE = Principal("desk-app", "default", "service")
RULE = '@id("no-desk") forbid (principal in Role::"service", action == Action::"answer", resource) '
CLOSED = PolicyDocument(default_document().cedar + RULE + 'when { resource.name == "closed" };')


@pytest.fixture
def audit(database: Database) -> AuditLog:
    return AuditLog(database, b"s" * 32)


@pytest.fixture
def sets(database: Database, audit: AuditLog) -> PolicySets:
    return PolicySets(database, audit.append)


def acts(audit: AuditLog, scope: Scope) -> list[tuple[Any, str, Any]]:
    return [(entry.principal, entry.action, entry.subject) for entry in reversed(audit.query(scope))]


def test_policies_are_proposed_approved_by_another_and_in_force(sets: PolicySets, audit: AuditLog) -> None:
    assert sets.in_force(PROD) is None
    proposed = sets.propose(PROD, CLOSED, principal="ann", rationale="closed at night")
    assert (proposed.number, proposed.state, proposed.author, proposed.decided_by) == (1, "proposed", "ann", None)
    assert sets.in_force(PROD) is None, "nothing acts before it is approved"
    approved = sets.approve(PROD, 1, principal="bob", reason="agreed")
    assert (approved.state, approved.decided_by, approved.reason) == ("in_force", "bob", "agreed")
    assert sets.in_force(PROD) == approved
    assert approved.document == CLOSED
    assert sets.in_force(DEV) is None
    assert sets.in_force(Scope("other", "prod")) is None
    assert acts(audit, PROD) == [("ann", "policy.propose", "policy/1"), ("bob", "policy.approve", "policy/1")]


def test_a_new_version_supersedes_and_an_old_one_comes_back(sets: PolicySets) -> None:
    for number, document in enumerate((CLOSED, default_document()), start=1):
        sets.propose(PROD, document, principal="ann", rationale="why")
        sets.approve(PROD, number, principal="bob", reason="agreed")
    assert [(one.number, one.state) for one in sets.list(PROD)] == [(2, "in_force"), (1, "superseded")]
    sets.approve(PROD, 1, principal="bob", reason="back")
    assert [(one.number, one.state) for one in sets.list(PROD)] == [(2, "superseded"), (1, "in_force")]


@pytest.mark.parametrize("scope", [PROD, DEV])
def test_one_person_is_author_and_approver_in_dev_only(sets: PolicySets, scope: Scope) -> None:
    sets.propose(scope, CLOSED, principal="ann", rationale="why")
    if scope == DEV:
        assert sets.approve(scope, 1, principal="ann", reason="mine").state == "in_force"
        return
    with pytest.raises(ForbiddenError, match="another person must approve"):
        sets.approve(scope, 1, principal="ann", reason="mine")
    assert sets.in_force(scope) is None


def test_what_was_rejected_or_decided_does_not_move(sets: PolicySets) -> None:
    sets.propose(PROD, CLOSED, principal="ann", rationale="why")
    assert sets.reject(PROD, 1, principal="bob", reason="no").state == "rejected"
    with pytest.raises(ConflictError, match="rejected"):
        sets.approve(PROD, 1, principal="bob", reason="after all")
    with pytest.raises(ConflictError, match="no proposal"):
        sets.reject(PROD, 1, principal="bob", reason="no")
    with pytest.raises(NotFoundError):
        sets.approve(PROD, 7, principal="bob", reason="agreed")
    sets.propose(PROD, CLOSED, principal="ann", rationale="again")
    sets.approve(PROD, 2, principal="bob", reason="agreed")
    with pytest.raises(ConflictError, match="in force already"):
        sets.propose(PROD, CLOSED, principal="ann", rationale="again")
    with pytest.raises(ConflictError, match="in force"):
        sets.approve(PROD, 2, principal="bob", reason="agreed")


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (PolicyDocument("permit ("), "may not act"),
        (PolicyDocument('@id("v") permit (principal in Role::"viewer", action, resource);'), "no administrator"),
        (PolicyDocument("", cases=default_document().cases), "expected allow, was deny"),
    ],
)
def test_what_may_not_act_is_not_even_proposed(sets: PolicySets, document: PolicyDocument, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        sets.propose(PROD, document, principal="ann", rationale="why")
    assert sets.list(PROD) == []


def test_what_no_longer_may_act_is_not_approved(sets: PolicySets, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = PolicyDocument("", cases=default_document().cases)
    with monkeypatch.context() as without_check:
        without_check.setattr(policy_sets.PolicySets, "_check", lambda self, scope, document: None)
        sets.propose(PROD, broken, principal="ann", rationale="why")
    with pytest.raises(InvalidInputError, match="may not act"):
        sets.approve(PROD, 1, principal="bob", reason="agreed")


def test_no_rationale_no_proposal(sets: PolicySets) -> None:
    with pytest.raises(InvalidInputError, match="rationale"):
        sets.propose(PROD, CLOSED, principal="ann", rationale="  ")


def test_a_change_without_its_audit_record_does_not_happen(database: Database) -> None:
    def fails(*arguments: Any, **named: Any) -> None:
        raise UnavailableError("The log is away.")

    sets = PolicySets(database, fails)
    with pytest.raises(UnavailableError):
        sets.propose(PROD, CLOSED, principal="ann", rationale="why")
    assert sets.list(PROD) == []


def test_the_policies_in_force_decide_within_the_lease(
    sets: PolicySets, database: Database, clock: ManualClock
) -> None:
    live = LivePolicies(sets, clock, PROD)
    closed = Resource("application", "closed")
    before = live.digest
    assert live.decide(SERVICE, "answer", closed).allowed
    sets.propose(PROD, CLOSED, principal="ann", rationale="why")
    sets.approve(PROD, 1, principal="bob", reason="agreed")
    clock.advance(timedelta(seconds=LEASE_SECONDS * 1.01))
    said = live.decide(SERVICE, "answer", closed)
    assert (said.allowed, said.policies, said.digest) == (False, ("no-desk",), CLOSED.digest)
    assert live.decide(SERVICE, "answer", "application/open").allowed
    assert live.digest != before
    with pytest.raises(ForbiddenError, match="no-desk"):
        live.require(SERVICE, "answer", closed)


def test_another_process_decides_by_a_change_within_a_second(sets: PolicySets) -> None:
    other = opened_again(sets._database)
    live = LivePolicies(PolicySets(other, lambda *_, **__: None), SystemClock(), PROD)
    assert live.decide(SERVICE, "answer", "application/closed").allowed
    sets.propose(PROD, CLOSED, principal="ann", rationale="why")
    sets.approve(PROD, 1, principal="bob", reason="agreed")
    began = SystemClock().monotonic()
    while live.decide(SERVICE, "answer", "application/closed").allowed:
        assert SystemClock().monotonic() - began < 1.0
    other.close()


def test_policies_of_other_tenants_are_their_own(sets: PolicySets, clock: ManualClock) -> None:
    sets.propose(PROD, CLOSED, principal="ann", rationale="why")
    sets.approve(PROD, 1, principal="bob", reason="agreed")
    live = LivePolicies(sets, clock, PROD)
    other = Principal("desk-app", "other", "service")
    assert live.decide(other, "answer", "application/closed").allowed
    assert not live.decide(other, "answer", "application/closed", {"tenant": "default"}).allowed


def test_the_environment_is_the_process_s_own(sets: PolicySets, clock: ManualClock) -> None:
    live = LivePolicies(sets, clock, PROD)
    ann = Principal("ann", "default", "admin")
    own = Resource("release", "r", author="ann", passed=True, reasoned=True)
    assert not live.decide(ann, "promote", own, {"environment": "dev"}).allowed
    assert LivePolicies(sets, clock, DEV).decide(ann, "promote", own).allowed


class _Away:
    """Versions of a catalog that is away after its first answer."""

    def __init__(self, first: int) -> None:
        self.left = first

    def in_force_number(self, scope: Scope) -> int | None:
        if self.left == 0:
            raise UnavailableError("The catalog is away.")
        self.left -= 1
        return None

    def get(self, scope: Scope, number: int) -> Any:
        raise AssertionError


def test_without_the_catalog_it_decides_for_a_while_then_closes(clock: ManualClock) -> None:
    live = LivePolicies(_Away(1), clock, PROD)
    assert live.decide(SERVICE, "answer", "application/desk").allowed
    clock.advance(timedelta(seconds=BOUND_SECONDS))
    assert live.decide(SERVICE, "answer", "application/desk").allowed
    clock.advance(timedelta(seconds=1))
    with pytest.raises(UnavailableError):
        live.decide(SERVICE, "answer", "application/desk")
    with pytest.raises(UnavailableError):
        LivePolicies(_Away(0), clock, PROD).decide(SERVICE, "read", "a/b")


def test_recent_requests_are_kept_once_and_sealed_by_scope(database: Database) -> None:
    recent = RecentRequests(database, every=None)
    desk = Resource("application", "desk")
    for origin in ("JFK", "JFK", "EWR"):
        recent.remember(PROD, SERVICE, "answer", desk, {"purpose": "inform", "keys": {"origin": origin}})
    assert recent.flush() == 2
    assert recent.flush() == 0
    found = recent.list(PROD)
    assert {one.context["keys"]["origin"] for one in found} == {"JFK", "EWR"}
    assert {(one.principal, one.action, one.resource) for one in found} == {(SERVICE, "answer", desk)}
    assert recent.list(DEV) == []


def test_only_the_latest_requests_stay(database: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("antiphon.governance.policy.recent_requests.MOST_KEPT", 3)
    recent = RecentRequests(database, every=None)
    for number in range(5):
        recent.remember(PROD, SERVICE, "answer", Resource("application", f"a{number}"), {})
        recent.flush()
        clock.advance(timedelta(seconds=1))
    assert [one.resource.name for one in recent.list(PROD, 10)] == ["a4", "a3", "a2"]


def test_what_waits_is_written_by_itself_and_at_the_end(database: Database) -> None:
    recent = RecentRequests(database, every=0.01)
    recent.remember(PROD, SERVICE, "answer", Resource("application", "a"), {})
    written = threading.Event()
    for _ in range(500):
        if recent.list(PROD):
            break
        written.wait(0.01)
    assert [one.resource.name for one in recent.list(PROD)] == ["a"]
    recent.remember(PROD, SERVICE, "answer", Resource("application", "b"), {})
    recent.close()
    assert {one.resource.name for one in recent.list(PROD)} == {"a", "b"}


def test_the_tables_are_what_the_migration_makes(database: Database) -> None:
    with database.read() as connection:
        for table in (schema.policy_versions, schema.policy_moves, schema.policy_requests):
            assert connection.execute(table.select()).all() == []
