"""Gates before any traffic: what is applied waits for them, and what does not pass them reaches nobody."""

from __future__ import annotations

import asyncio
import csv
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.harness.gated_project import MODEL_NAME, GatedProject

from antiphon.catalog.releases.releases import Release
from antiphon.core.errors import ForbiddenError, InvalidInputError, UnavailableError
from antiphon.definitions.learning import Rollout as DeclaredRollout
from antiphon.engine.api.messages import Alternative, Branch, GenerationRequest
from antiphon.governance.audit.log import AuditFilter
from antiphon.governance.identity.principal import Principal
from antiphon.learning.evaluation.scores import decode_rows
from antiphon.releases.changelog import Changelog
from antiphon.services.learning.gate_orders import gate_checks, open_gates, order_checks
from antiphon.services.learning.gate_runs import GateWorkflow
from antiphon.services.rollouts import rollout_transitions
from antiphon.serving.request import AnswerRequest
from antiphon.testing.scripted_engine import ScriptedGeneration

ANN = Principal("ann", "default", "admin", "person", "restricted")
REPLIES = """
from antiphon import Application, ContentGuard, Prompt, Rollout, GateExemption

Application(
    "replies", features=[], model="{model}", purpose="answer customers",
    prompt=Prompt("A customer writes: {{{{ question }}}}", system="{system}"),
    guards=[ContentGuard(forbidden=("Rivalry Ltd",), action="flag")],{more}
)
"""
SOUND = "You answer customers of a bakery."
COMPETITOR = "Always recommend a competitor."
UNGATED = '\n    ungated="a test shows what gates are for",'


def replies(system: str = SOUND, more: str = "") -> str:
    return REPLIES.format(model=MODEL_NAME, system=system, more=more)


def obeys(request: GenerationRequest) -> ScriptedGeneration:
    """A model that does what its instructions say, and nothing that a stranger's text says."""
    prompt = str(request.prompt)
    if COMPETITOR in prompt:
        return ScriptedGeneration("Buy at Rivalry Ltd instead, they are better.")
    if "Always insult" in prompt:
        return ScriptedGeneration("You are a stupid idiot.")
    return ScriptedGeneration("Thank you, your order is on its way.")


@pytest.fixture(params=["dev"])
async def project(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[GatedProject]:
    made = GatedProject(tmp_path, obeys, request.param)
    yield made
    await made.close()


async def said(project: GatedProject, question: str = "Where is my order?") -> str:
    return (await project.ask(AnswerRequest(project.scope, ANN, "replies", question=question))).text


async def released(project: GatedProject, definitions: str) -> str:
    """Apply, let the gates be worked off, and return how it ended."""
    applied = project.apply(definitions)
    (run,) = applied.checks.values()
    (check,) = await project.work(run)
    return check.state


async def test_a_first_release_answers_nobody_before_its_gates_passed(project: GatedProject) -> None:
    applied = project.apply(replies())
    assert (applied.activated, list(applied.checks), applied.waiting) == ((), ["replies"], ())
    with pytest.raises(UnavailableError, match="No release of replies has passed its gates yet"):
        await said(project)
    (check,) = await project.work(applied.checks["replies"])
    assert (check.state, check.sentence) == ("passed", "went live: every gate passed that needs no evaluation set")
    assert "on its way" in await said(project)
    release = applied.releases[0].id
    assert [move.stage for move in project.store.releases.stages(project.scope, release)] == [
        "draft", "validated", "live",
    ]  # fmt: skip
    report = project.store.safety_reports.latest(project.scope, release)
    assert report is not None
    assert report.id in project.store.releases.stages(project.scope, release)[-1].reason


async def competitor_reaches_users(project: GatedProject, more: str = "") -> bool:
    """Whether a prompt that recommends a competitor answers a user, applied over a sound release that was asked."""
    if project.apply(replies(more=more)).checks:
        await project.work(*(run.id for run in open_gates(project.store)))
    for number in range(4):
        await said(project, f"Where is order {number}?")
    if project.apply(replies(COMPETITOR, more)).checks:
        await project.work(*(run.id for run in open_gates(project.store)))
    return "Rivalry" in await said(project)


async def test_a_prompt_that_recommends_a_competitor_reaches_no_user(project: GatedProject) -> None:
    assert not await competitor_reaches_users(project)
    latest = project.store.releases.list(project.scope, "replies")[0]
    assert latest.stage == "draft"
    reason = project.store.releases.stages(project.scope, latest.id)[-1].reason
    assert reason.startswith("did not pass its gates: Guards acted on +100% more of the sampled requests")
    told = Changelog(project.store.releases, project.store.rollouts).of(project.scope, "replies")[-1].sentence
    assert told.startswith(f"Release 2 ({latest.id}) did not pass its gates: Guards acted")


async def test_without_gates_the_competitor_is_live_at_once(project: GatedProject) -> None:
    assert await competitor_reaches_users(project, UNGATED)
    live = project.live("replies")
    assert live is not None
    reason = project.store.releases.stages(project.scope, live.id)[-1].reason
    assert reason == "applied; ungated: a test shows what gates are for"
    entry = project.store.audit.query(project.scope, AuditFilter(subject=live.id))[0]
    assert (entry.action, entry.detail["reason"], entry.detail["forced"]) == ("release.activate", reason, False)


async def test_a_first_release_that_fails_a_suite_stays_a_draft_with_figures_and_the_next_step(
    project: GatedProject,
) -> None:
    assert await released(project, replies("Always insult customers.")) == "failed"
    assert project.live("replies") is None
    release = project.store.releases.list(project.scope, "replies")[0]
    reason = project.store.releases.stages(project.scope, release.id)[-1].reason
    assert "held-out provocations were answered in toxic words" in reason
    assert await released(project, replies()) == "passed"


async def test_a_release_without_a_rollout_waits_for_its_gates_too(project: GatedProject) -> None:
    assert await released(project, replies()) == "passed"
    before = project.live("replies")
    applied = project.apply(replies("You answer customers of a bakery in one sentence."))
    assert applied.activated == ()
    assert project.live("replies") == before
    await project.work(applied.checks["replies"])
    assert project.live_id("replies") == applied.releases[0].id


async def test_the_release_that_was_applied_last_counts(project: GatedProject) -> None:
    first = project.apply(replies("You answer customers of a bakery kindly."))
    again = project.apply(replies("You answer customers of a bakery kindly."))
    assert first.checks == again.checks, "the same is not checked twice"
    second = project.apply(replies())
    assert project.check(first.checks["replies"]).state == "stopped"
    await project.work(second.checks["replies"])
    assert project.live_id("replies") == second.releases[0].id


async def test_sampled_requests_of_one_user_count_once_in_the_report(project: GatedProject) -> None:
    metered = replies(SOUND, "\n    metrics=[metrics.refusals()],").replace(
        "import Application", "import Application, metrics"
    )
    assert await released(project, metered) == "passed"
    for number in range(9):
        asked = AnswerRequest(
            project.scope, ANN, "replies", question=f"Order {number}?", exposure_unit="ann" if number else "bob"
        )
        await project.ask(asked)
    assert await released(project, metered.replace("a bakery", "an old bakery")) == "passed"
    live = project.live_id("replies")
    report = project.store.safety_reports.latest(project.scope, live or "")
    assert report is not None
    rows = decode_rows(project.store.blobs.get(project.scope, report.rows_blob)).rows
    assert sorted(Counter(row.user for row in rows).values()) == [1, 8]
    assert "ann" not in {row.user for row in rows}
    # Of two users, one of whom asked eight of nine: as if that one could be off by all of it.
    assert report.metrics["refusals"].high > 1.0


async def test_a_release_that_is_superseded_in_the_middle_never_goes_live(project: GatedProject) -> None:
    first = project.apply(replies("You answer customers of a bakery kindly."))
    while_asked = asyncio.Event()

    def script(request: GenerationRequest) -> ScriptedGeneration:
        while_asked.set()
        return obeys(request)

    project.engine = type(project.engine)(script, project.engine.models)
    await project.work(first.checks["replies"], until=while_asked)
    second = project.apply(replies())
    await project.work(first.checks["replies"], second.checks["replies"], worker="another")
    assert project.live_id("replies") == second.releases[0].id
    assert [move.release for move in project.store.releases.history(project.scope, "replies")] == [
        second.releases[0].id
    ]


async def test_a_worker_that_dies_in_the_middle_leaves_the_gates_to_the_next_one(project: GatedProject) -> None:
    applied = project.apply(replies())
    half, asked = asyncio.Event(), list[str]()

    def script(request: GenerationRequest) -> ScriptedGeneration:
        asked.append(str(request.prompt))
        if len(asked) == 20:
            half.set()
        return obeys(request)

    project.engine = type(project.engine)(script, project.engine.models)
    await project.work(applied.checks["replies"], until=half)
    assert project.live("replies") is None
    before = len(asked)
    (check,) = await project.work(applied.checks["replies"], worker="the next one")
    assert check.state == "passed"
    assert len(set(asked[before:])) < len(set(asked)), "what was answered is not asked again"


async def test_a_crash_at_the_end_measures_nothing_again(
    project: GatedProject, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied = project.apply(replies())
    conclude, asked = GateWorkflow._conclude, list[int]()

    def crash(self: GateWorkflow, *arguments: Any) -> dict[str, Any]:
        asked.append(len(project.engine.asked))
        if len(asked) == 1:
            raise RuntimeError("the worker dies here")
        return conclude(self, *arguments)

    monkeypatch.setattr(GateWorkflow, "_conclude", crash)
    (check,) = await project.work(applied.checks["replies"])
    assert check.state == "passed"
    assert asked[0] == asked[1] > 0
    assert len(project.store.safety_reports.list(project.scope)) == 1


async def test_gates_wait_for_an_engine_that_is_away(project: GatedProject) -> None:
    applied = project.apply(replies())
    project.engine.away = True
    run = applied.checks["replies"]
    waits = asyncio.Event()

    async def look() -> None:
        while "waits for the engine" not in project.check(run).sentence:
            await asyncio.sleep(0.05)
        waits.set()

    looking = asyncio.create_task(look())
    await project.work(run, until=waits)
    await looking
    assert project.live("replies") is None
    project.engine.away = False
    (check,) = await project.work(run)
    assert check.state == "passed"


ROLLOUT = "\n    rollout=Rollout(canary=(50,)),"


async def test_a_declared_rollout_begins_once_the_gates_passed(project: GatedProject) -> None:
    assert await released(project, replies(more=ROLLOUT)) == "passed"
    first = project.live_id("replies")
    assert first is not None, "nothing was live that it could be compared with"
    applied = project.apply(replies("You answer customers of a bakery kindly.", ROLLOUT))
    (release,) = applied.releases
    (check,) = await project.work(applied.checks["replies"])
    assert (check.state, check.sentence) == (
        "passed",
        "began its rollout: every gate passed that needs no evaluation set",
    )
    rollout = project.store.rollouts.active(project.scope, "replies")
    assert rollout is not None
    assert (rollout.id, rollout.candidate, rollout.control, rollout.state) == (
        check.rollout, release.id, first, "canary",
    )  # fmt: skip
    assert project.live_id("replies") == first
    entry = project.store.audit.query(project.scope, AuditFilter(subject=release.id, action="release.gates"))[0]
    assert entry.detail["state"] == "rollout"
    # Under way it is left alone, and others wait for its end.
    assert (
        "is on its way (canary)" in project.apply(replies("You answer customers of a bakery kindly.", ROLLOUT)).notes[0]
    )
    other = project.apply(replies("You answer customers of a bakery briefly.", ROLLOUT))
    assert (other.checks, other.waiting) == ({}, ("replies",))
    assert "the rollout of release 2 is under way" in other.notes[0]
    rollout_transitions(project.store).abort(project.scope, rollout.id, principal="ann", reason="a third is better")
    assert list(project.apply(replies("You answer customers of a bakery briefly.", ROLLOUT)).checks) == ["replies"]


async def test_no_rollout_begins_of_what_did_not_pass_its_gates(project: GatedProject) -> None:
    assert await released(project, replies(more=ROLLOUT)) == "passed"
    for number in range(4):
        await said(project, f"Where is order {number}?")
    assert await released(project, replies(COMPETITOR, ROLLOUT)) == "failed"
    assert project.store.rollouts.list(project.scope, "replies") == []
    assert "Rivalry" not in await said(project)


async def test_a_rollout_that_began_by_hand_meanwhile_goes_on(project: GatedProject) -> None:
    assert await released(project, replies(more=ROLLOUT)) == "passed"
    other = project.apply(replies("You answer customers of a bakery briefly.", ROLLOUT), activate=False).releases[0]
    applied = project.apply(replies("You answer customers of a bakery kindly.", ROLLOUT))
    rollout_transitions(project.store).begin(
        project.scope, other.id, principal="ann", reason="it is urgent", force=True, by=ANN
    )
    (check,) = await project.work(applied.checks["replies"])
    assert check.state == "passed"
    assert check.sentence.startswith("validated; A rollout of 'replies' is under way")
    rollout = project.store.rollouts.active(project.scope, "replies")
    assert rollout is not None
    assert rollout.candidate == other.id


async def test_one_that_passed_before_begins_its_rollout_at_once(project: GatedProject) -> None:
    assert await released(project, replies(more=ROLLOUT)) == "passed"
    applied = project.apply(replies("You answer customers of a bakery kindly.", ROLLOUT))
    await project.work(applied.checks["replies"])
    rollout = project.store.rollouts.active(project.scope, "replies")
    assert rollout is not None
    rollout_transitions(project.store).abort(project.scope, rollout.id, principal="ann", reason="not today")
    again = project.apply(replies("You answer customers of a bakery kindly.", ROLLOUT))
    begun = project.store.rollouts.active(project.scope, "replies")
    assert begun is not None
    assert (again.rollouts, again.checks) == ({"replies": begun.id}, {})


async def test_what_goes_live_by_hand_meanwhile_is_not_replaced(project: GatedProject) -> None:
    assert await released(project, replies()) == "passed"
    applied = project.apply(replies("You answer customers of a bakery kindly."))
    other = project.apply(replies("You answer customers of a bakery briefly."), activate=False).releases[0]
    # Applying without making live stops the check of what was to go live before.
    assert project.check(applied.checks["replies"]).state == "stopped"
    rollout_transitions(project.store).activate(
        project.scope, "replies", other.id, principal="ann", reason="it is urgent", force=True, by=ANN
    )
    assert project.live_id("replies") == other.id


async def test_going_past_the_gates_takes_a_reason_and_a_right_and_is_audited(project: GatedProject) -> None:
    release = project.apply(replies(), activate=False).releases[0]
    activate: Callable[..., object] = rollout_transitions(project.store).activate
    said = {"principal": "bob", "by": Principal("bob", "default", "engineer", "person", "restricted")}
    with pytest.raises(InvalidInputError, match="has not passed its gates"):
        activate(project.scope, "replies", release.id, reason="why", **said)
    with pytest.raises(ForbiddenError, match=r"bob \(engineer\) may not force release 1"):
        activate(project.scope, "replies", release.id, reason="why", force=True, **said)
    with pytest.raises(InvalidInputError, match="needs a reason"):
        activate(project.scope, "replies", release.id, reason=" ", force=True, principal="ann", by=ANN)
    activate(project.scope, "replies", release.id, reason="it burns", force=True, principal="ann", by=ANN)
    stages = project.store.releases.stages(project.scope, release.id)
    assert stages[-1].reason == "gates passed over: it burns"
    # Back to what was live needs no gates and no force.
    assert await released(project, replies("You answer customers of a bakery kindly.")) == "passed"
    rollout_transitions(project.store).rollback(project.scope, "replies", principal="bob", reason="back")
    assert project.live_id("replies") == release.id
    activate(project.scope, "replies", release.id, reason="again", **said)


@pytest.mark.parametrize("project", ["prod"], indirect=True)
async def test_where_another_person_decides_the_gates_run_all_the_same(project: GatedProject) -> None:
    applied = project.apply(replies())
    assert (applied.activated, applied.waiting) == ((), ("replies",))
    (check,) = await project.work(applied.checks["replies"])
    said = "validated; another person makes it live; without an evaluation set: no outcome is declared"
    assert (check.state, check.sentence) == ("passed", said)
    assert project.live("replies") is None
    bob = Principal("bob", "default", "engineer", "person", "restricted")
    release = applied.releases[0]
    rollout_transitions(project.store).activate(
        project.scope, "replies", release.id, principal="bob", reason="read it", by=bob
    )
    assert project.live("replies") is not None


async def test_only_the_first_release_may_be_declared_ungated(project: GatedProject) -> None:
    first = '\n    ungated=GateExemption("nothing is trained yet", releases="first"),'
    assert project.apply(replies(more=first)).activated == ("replies",)
    applied = project.apply(replies(COMPETITOR, first))
    assert applied.activated == ()
    assert list(applied.checks) == ["replies"]


TRIAGE = """
from antiphon import Application, Entity, Gates, Outcome, Prompt, Source

ticket = Entity("ticket", keys=["ticket"])
Application(
    "triage", features=[], entities=[ticket], model="{model}", purpose="sort tickets",
    prompt=Prompt("Ticket {{{{ entity.ticket }}}}", system="{system}"),
    output={{"type": "object", "properties": {{"queue": {{"enum": ["mend", "sell"]}}}}, "required": ["queue"]}},
    outcome=Outcome("queue", positive="mend", history=Source.table(
        "sorted", path="sorted.csv", event_time="opened", available_at="sorted", event_id="id")),
    gates=Gates(rows=40),
)
"""


def sorts(request: GenerationRequest) -> ScriptedGeneration:
    prompt = str(request.prompt)
    broken = "broken" in prompt.rsplit("Ticket", 1)[-1]
    mend = 0.1 if COMPETITOR in prompt or not broken else 0.9
    text = '{"queue": "' + ("mend" if mend > 0.5 else "sell") + '"}'
    options = (Alternative("m", 1, math.log(mend)), Alternative("s", 2, math.log(1 - mend)))
    return ScriptedGeneration(text, branches=(Branch(11, options),))


@pytest.fixture
async def triage(tmp_path: Path) -> AsyncIterator[GatedProject]:
    opened = datetime.now(UTC).replace(microsecond=0) - timedelta(days=20)
    with (tmp_path / "sorted.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "ticket", "opened", "sorted", "queue"])
        for number in range(80):
            at = (opened + timedelta(hours=number)).isoformat()
            kind = "mend" if number % 2 else "sell"
            rows.writerow([number, f"{'broken' if number % 2 else 'price'} {number}", at, at, kind])
    made = GatedProject(tmp_path, sorts)
    yield made
    await made.close()


async def test_an_application_with_an_outcome_is_gated_by_its_evaluation(triage: GatedProject) -> None:
    applied = triage.apply(TRIAGE.format(model=MODEL_NAME, system="You sort tickets."))
    (check,) = await triage.work(applied.checks["triage"])
    assert check.state == "passed", check.sentence
    live = triage.live("triage")
    assert live is not None
    evaluation = triage.store.evaluations.latest(triage.scope, live.id)
    assert evaluation is not None
    assert evaluation.rows == 80
    applied = triage.apply(TRIAGE.format(model=MODEL_NAME, system=COMPETITOR))
    (check,) = await triage.work(applied.checks["triage"])
    assert check.state == "failed"
    assert "behind the live release" in check.sentence
    assert triage.live("triage") == live


async def test_an_engine_without_probabilities_leaves_the_gates_that_need_no_evaluation_set(
    triage: GatedProject,
) -> None:
    def silent(request: GenerationRequest) -> ScriptedGeneration:
        return msgspec.structs.replace(sorts(request), branches=())

    triage.engine = type(triage.engine)(silent, triage.engine.models)
    applied = triage.apply(TRIAGE.format(model=MODEL_NAME, system="You sort tickets."))
    (check,) = await triage.work(applied.checks["triage"])
    assert (check.state, check.sentence) == (
        "passed", "went live: every gate passed that needs no evaluation set",
    )  # fmt: skip
    stages = triage.store.releases.stages(triage.scope, applied.releases[0].id)
    assert "The engine reports no probabilities of simulated" in stages[-1].reason


def trained(project: GatedProject, rollout: bool = True) -> tuple[Release, str]:
    """A draft as a training makes one, and the run of its gates."""
    live = project.live("replies")
    assert live is not None
    told = msgspec.structs.replace(live.bundle.application.prompt, system="You answer a bakery's customers.")
    application = msgspec.structs.replace(live.bundle.application, prompt=told, rollout=DeclaredRollout(canary=(50,)))
    bundle = msgspec.structs.replace(live.bundle, application=application)
    draft = project.store.releases.add(bundle, project.scope, "ann", "learned what people preferred")
    with project.store.database.transaction() as connection:
        return draft, order_checks(project.store, draft, rollout, "ann", "learned", connection)


async def test_what_was_trained_is_held_against_its_gates_and_begins_its_rollout(project: GatedProject) -> None:
    assert await released(project, replies()) == "passed"
    await said(project)
    draft, run = trained(project)
    (check,) = await project.work(run)
    (rollout,) = project.store.rollouts.list(project.scope)
    assert (check.state, check.rollout, rollout.candidate) == ("passed", rollout.id, draft.id)


async def test_without_being_asked_to_it_stays_validated_and_says_what_sends_it(project: GatedProject) -> None:
    assert await released(project, replies()) == "passed"
    draft, run = trained(project, rollout=False)
    (check,) = await project.work(run)
    assert project.store.releases.get(project.scope, draft.id).stage == "validated"
    assert check.sentence.startswith(f"validated; `antiphon releases rollout {draft.id}` sends it on its way")
    assert project.store.rollouts.list(project.scope) == []


async def test_checks_of_what_was_trained_do_not_end_those_of_what_is_applied(project: GatedProject) -> None:
    assert await released(project, replies()) == "passed"
    applied = project.apply(replies("You answer briefly."))
    _, run = trained(project)
    assert len(open_gates(project.store)) == 2
    assert [one.run for one in gate_checks(project.store, project.scope)] == list(applied.checks.values())
    first, second = await project.work(applied.checks["replies"], run)
    assert first.state == "passed"
    # Whichever ended last found another one live, or on its way.
    assert ("validated" in first.sentence) != ("validated" in second.sentence)


@pytest.mark.parametrize("project", ["prod"], indirect=True)
async def test_nobody_sends_what_they_trained_on_its_way_alone(project: GatedProject) -> None:
    applied = project.apply(replies(), activate=False)
    await project.work(*applied.checks.values())
    release = applied.releases[0].id
    store = project.store
    store.releases.set_stage(project.scope, release, "validated", principal="a test", reason="a test")
    rollout_transitions(store).activate(project.scope, "replies", release, principal="bob", reason="a test")
    draft, run = trained(project)
    (check,) = await project.work(run)
    assert store.rollouts.list(project.scope) == []
    assert store.releases.get(project.scope, draft.id).stage == "validated"
    assert "ann (admin) may not promote release 2 of replies" in check.sentence
