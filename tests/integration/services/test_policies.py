"""Policies of a real project: promotion, training, datasets and the service behind the commands."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from antiphon.core.errors import ForbiddenError, InvalidInputError
from antiphon.definitions.sensitivity import Tags
from antiphon.governance.identity.principal import Principal
from antiphon.governance.policy.live import LivePolicies
from antiphon.governance.policy.versions import PolicySets
from antiphon.services.apply.apply import ApplyReport, apply
from antiphon.services.governance import policies
from antiphon.services.governance.policy_versions import PolicyService
from antiphon.services.project.store import Store
from antiphon.services.rollouts import rollout_transitions

DEFINITIONS = """
from antiphon import Application, Decoding, Entity, Figure, Prompt, Source, count, feature_view

orders = Source.table(
    "orders", path="orders.csv", event_time="ordered", event_id="id", sensitivity="confidential", purposes=["tell"]
)


@feature_view(entity=Entity("shop", keys=["shop"]), source=orders, sensitivity={"late": "restricted"})
class Today:
    orders = count(window="24h")
    late = count(window="24h")


desk = Application(
    "desk", ungated="a test asks at once", purpose="tell", features=[Today], figures=[Figure("today.orders", step=5)],
    prompt=Prompt("{{ features.today.orders }}"), model="base",
)
"""
OPTED_OUT = """
@id("opted-out") forbid (principal, action == Action::"train", resource)
when { resource.hasTag("shop") && ["south", "east"].contains(resource.getTag("shop")) };
"""


class Project:
    def __init__(self, folder: Path, environment: str) -> None:
        self.folder = folder
        (folder / "antiphon.toml").write_text(
            f'[project]\nname = "shops"\nenvironment = "{environment}"\n[engine]\nkind = "simulated"\n'
            'models = ["base"]\n[encryption]\nmode = "plaintext"\n'
            '[policy]\nfiles = ["more.cedar"]\ntests = []\n'
        )
        (folder / "more.cedar").write_text("")
        (folder / "definitions.py").write_text(DEFINITIONS)
        self.store = Store.open(folder)
        self.sets = PolicySets(self.store.database, self.store.audit.append)
        # As a process has them: the policies in force, by lease.
        self.store.__dict__["decider"] = LivePolicies(self.sets, self.store.database.clock, self.store.scope)
        self.service = PolicyService(self.store)

    def apply(self, **options: Any) -> ApplyReport:
        return apply(self.store, principal="ann", **options)


@pytest.fixture(params=["dev", "prod"])
def project(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Project]:
    made = Project(tmp_path, request.param)
    yield made
    made.store.close()


def person(name: str, role: str = "admin") -> Principal:
    return Principal(name, "default", role, "person", "restricted")  # type: ignore[arg-type]


def test_tags_reach_the_release_and_change_no_definition_version(project: Project) -> None:
    tagged = project.apply().releases[0].bundle.application
    assert tagged.tags == {
        "today.orders": Tags("confidential", ("tell",)), "today.late": Tags("restricted", ("tell",))
    }  # fmt: skip
    plain = DEFINITIONS.replace(', sensitivity="confidential", purposes=["tell"]', "").replace(
        ', sensitivity={"late": "restricted"}', ""
    )
    (project.folder / "definitions.py").write_text(plain)
    untagged = project.apply().releases[0].bundle.application
    assert (untagged.tags, untagged.features) == ({}, tagged.features)


def test_what_one_wrote_oneself_goes_live_in_dev_only(project: Project) -> None:
    scope = project.store.scope
    applied = project.apply()
    release = applied.releases[0]
    live = project.store.releases.live(scope, "desk")
    if scope.environment == "dev":
        assert (applied.activated, live is not None) == (("desk",), True)
        return
    assert (applied.activated, applied.waiting, live) == ((), ("desk",), None)
    assert "promotion-by-another" in applied.notes[0]
    with pytest.raises(ForbiddenError, match="promotion-by-another"):
        project.apply(activate=True)
    transitions = rollout_transitions(project.store)
    with pytest.raises(ForbiddenError, match=r"bob \(engineer\) may not force release 1 of desk, which ann made"):
        transitions.activate(scope, "desk", release.id, principal="bob", reason="why", by=person("bob", "engineer"))
    with pytest.raises(ForbiddenError, match="promotion-with-rationale"):
        transitions.activate(scope, "desk", release.id, principal="bob", reason=" ", by=person("bob"))
    transitions.activate(scope, "desk", release.id, principal="bob", reason="looked at it", by=person("bob"))
    transitions.activate(scope, "desk", release.id, principal="e", reason="back", by=person("e", "engineer"))
    assert project.store.releases.live(scope, "desk") is not None


def test_a_rollout_is_begun_by_another_who_may(project: Project) -> None:
    scope, releases = project.store.scope, project.store.releases
    first = project.apply().releases[0]
    releases.activate(scope, "desk", first.id, "bob", "the first")
    gated = DEFINITIONS.replace("step=5", "step=10").replace('ungated="a test asks at once", ', "")
    (project.folder / "definitions.py").write_text(gated)
    second = project.apply(activate=False).releases[0]
    transitions = rollout_transitions(project.store)
    with pytest.raises(InvalidInputError, match="has not passed its gates"):
        transitions.begin(scope, second.id, principal="bob", reason="why", by=person("bob"))
    with pytest.raises(ForbiddenError, match="may not force"):
        transitions.begin(scope, second.id, principal="e", reason="why", force=True, by=person("e", "engineer"))
    releases.set_stage(scope, second.id, "validated", principal="ann", reason="its gates are passed")
    with pytest.raises(ForbiddenError, match="may not promote"):
        transitions.begin(scope, second.id, principal="eve", reason="why", by=person("eve", "viewer"))
    unattended = policies.unattended(project.store, transitions)
    if scope.environment == "prod":
        with pytest.raises(ForbiddenError, match="promotion-by-another"):
            unattended(scope, second.id, principal="ann", reason="trained")
    begun = transitions.begin(scope, second.id, principal="bob", reason="why", by=person("bob", "engineer"))
    assert begun.candidate == second.id


def test_training_asks_for_purpose_and_clearance(project: Project) -> None:
    scope = project.store.scope
    application = project.apply().releases[0].bundle.application
    may = policies.may_train(project.store)
    may(scope, "ann", application, person("ann"))
    may(scope, "ann", application, None)
    with pytest.raises(ForbiddenError, match="clearance"):
        may(scope, "bob", application, Principal("bob", "default", "engineer", clearance="confidential"))
    with pytest.raises(ForbiddenError, match="feature-purpose"):
        may(scope, "ann", msgspec.structs.replace(application, purpose="sell"), None)


def test_examples_that_may_not_be_learned_from_are_withheld_with_their_reason(project: Project) -> None:
    scope, decide = project.store.scope, policies.withheld(project.store)
    rows = [(("north",), 10), (("south",), 10), (("it's",), 10)]
    digest, reasons = decide(scope, "desk", ("shop",), rows)
    assert reasons == [None, None, None]
    (project.folder / "more.cedar").write_text(OPTED_OUT)
    project.service.propose(scope, project.service.declared(), by=person("ann"), reason="they asked for it")
    project.service.approve(scope, 1, by=person("bob"), reason="agreed")
    changed, reasons = decide(scope, "desk", ("shop",), rows)
    assert reasons == [None, "opted-out", None]
    assert changed != digest


def test_policies_go_from_files_to_in_force_and_are_pinned_by_releases(project: Project) -> None:
    scope, service = project.store.scope, project.service
    (project.folder / "more.cedar").write_text(OPTED_OUT)
    checked = service.check(scope, service.declared())
    assert checked.sound
    assert [warning for warning in checked.warnings if "opted-out" in warning] != []
    with pytest.raises(ForbiddenError, match="may not propose"):
        service.propose(scope, service.declared(), by=person("eve", "viewer"), reason="why")
    service.propose(scope, service.declared(), by=person("ann"), reason="why")
    with pytest.raises(ForbiddenError, match="may not approve"):
        service.approve(scope, 1, by=person("eve", "engineer"), reason="agreed")
    if scope.environment == "prod":
        with pytest.raises(ForbiddenError, match="approval-by-another"):
            service.approve(scope, 1, by=person("ann"), reason="agreed")
    assert service.in_force(scope).number == 0
    found = service.diff(scope, 0, service.get(scope, 1).document)
    assert '+@id("opted-out")' in found.text
    service.approve(scope, 1, by=person("bob"), reason="agreed")
    assert [(one.number, one.state) for one in service.list(scope)] == [(1, "in_force"), (0, "superseded")]
    assert project.apply().releases[0].bundle.policy_digest == service.in_force(scope).digest
    acts = [(entry.action, entry.principal) for entry in project.store.audit.query(scope)]
    assert ("policy.approve", "bob") in acts


def test_explain_knows_the_features_of_an_application_and_the_author_of_a_release(project: Project) -> None:
    scope, service = project.store.scope, project.service
    release = project.apply().releases[0]
    project.store.releases.activate(scope, "desk", release.id, "bob", "looked at it")
    clerk = Principal("clerk", "default", "service")
    told = service.explain(scope, clerk, "answer", "application/desk", {})
    assert (told.decision.allowed, told.decision.policies) == (False, ("clearance",))
    assert service.explain(scope, person("ann"), "answer", "application/desk", {}).decision.allowed
    sold = service.explain(scope, person("ann"), "answer", "application/desk", {"purpose": "sell"})
    assert sold.decision.policies == ("feature-purpose",)
    own = service.explain(scope, person("ann"), "force", f"release/{release.id}", {})
    assert own.decision.allowed == (scope.environment == "dev")
    with pytest.raises(InvalidInputError, match="not an action"):
        service.explain(scope, clerk, "fly", "application/desk", {})
    with pytest.raises(InvalidInputError, match="not a resource"):
        service.explain(scope, clerk, "read", "desk", {})
