"""The prompt workbench of a project of support tickets: by command, over HTTP, and through its services."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from tests.integration.cli.conftest import Run
from tests.integration.cli.test_learning_commands import in_process
from tests.integration.gateway.learned_desk import reported
from tests.unit.learning.evaluation.test_gates import GOOD

from antiphon.app.wiring import open_project
from antiphon.catalog.learning.outcomes import OutcomeRecord
from antiphon.catalog.learning.regressions import Expectation
from antiphon.core.errors import EngineError, ForbiddenError, InvalidInputError, NotFoundError
from antiphon.core.ids import content_hash
from antiphon.durable.claims import ServedRuns
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.durable.run import ENDED
from antiphon.engine.api.messages import GenerationRequest
from antiphon.governance.identity.principal import Principal
from antiphon.learning.evaluation.scores import EvaluationRows, RowResult
from antiphon.learning.workbench.submission import AnnotationSubmission
from antiphon.learning.workbench.trials import SampleQuery
from antiphon.services.engines import clients
from antiphon.services.learning.regressions import ProjectRegressions, failed_regressions
from antiphon.services.learning.training import LearningPlatform
from antiphon.services.learning.workbench import Workbench
from antiphon.services.learning.workbench_orders import (
    OptimizationOrder,
    RegressionOrder,
    TrialOrder,
    WorkbenchOrders,
    WorkbenchWorkflows,
    forget_ended_searches,
    kept_under,
)
from antiphon.services.project.store import Store
from antiphon.services.workflows import OPTIMIZE
from antiphon.serving.request import AnswerRequest
from antiphon.testing.scripted_engine import MODEL, ScriptedEngine, ScriptedGeneration

SYSTEM = "You sort tickets."
DEFINITIONS = f"""
from antiphon import Application, Gates, Outcome, Prompt, metrics

Application("triage", ungated="a test asks at once", features=[], purpose="sort tickets", model="smollm2-135m",
            prompt=Prompt("Ticket: {{{{ question }}}}", system="{SYSTEM}"),
            gates=Gates(regressions=("complaints",)),
            output={{"type": "object", "properties": {{"urgency": {{"enum": ["low", "urgent"]}},
                    "summary": {{"type": "string"}}}},
                    "required": ["urgency", "summary"], "additionalProperties": False}})
Application("replies", ungated="a test asks at once", features=[], purpose="answer tickets", model="smollm2-135m",
            prompt=Prompt("Letter: {{{{ question }}}}"), outcome=Outcome(), metrics=[metrics.groundedness()])
"""
FAR = datetime(2100, 1, 1, tzinfo=UTC)
ASKER = Principal("asker", "default", "service")


def proposes(request: GenerationRequest) -> bool:
    """True where a search asks for another text."""
    return "<side_info>" in request.prompt or "instruction" in request.prompt


def sorting(request: GenerationRequest) -> ScriptedGeneration:
    """Calls urgent what burns; when it is told so, also what is flooded."""
    prompt = request.prompt
    if proposes(request):
        return ScriptedGeneration(f"```\n{SYSTEM} Floods are urgent.\n```")
    if "Letter" in prompt:
        return ScriptedGeneration("We are sorry.")
    words = ("fire", "flood") if "Floods are urgent" in prompt else ("fire",)
    ticket = prompt.rpartition("Ticket: ")[2].partition("<|im_end|>")[0].strip()
    urgent = any(word in ticket for word in words)
    return ScriptedGeneration(json.dumps({"urgency": "urgent" if urgent else "low", "summary": ticket}))


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine(sorting, (msgspec.structs.replace(MODEL, name="smollm2-135m"),))


@pytest.fixture
def folder(tmp_path: Path, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "antiphon.toml").write_text('[project]\nname = "desk"\n[engine]\nkind = "simulated"\n')
    (tmp_path / "definitions.py").write_text(DEFINITIONS)

    def connected(store: Store, peer: str) -> ScriptedEngine:
        engine.away = False  # Each command closes its connection.
        return engine

    monkeypatch.setattr(clients, "connect", connected)
    return tmp_path


@pytest.fixture
def antiphon(folder: Path) -> Run:
    run = in_process(folder)
    assert run("apply").code == 0
    return run


@pytest.fixture
def store(antiphon: Run, folder: Path) -> Iterator[Store]:
    opened = Store.open(folder)
    yield opened
    opened.close()


@pytest.fixture
def ask(antiphon: Run, folder: Path) -> Callable[..., list[str]]:
    def asked(*questions: str, application: str = "triage") -> list[str]:
        async def answered() -> list[str]:
            wired = open_project(folder)
            try:
                scope = wired.store.scope
                requests = [AnswerRequest(scope, ASKER, application, question=one) for one in questions]
                return [(await wired.answerer.answer(one)).prediction for one in requests]
            finally:
                await wired.close()

        return asyncio.run(answered())

    return asked


def lines(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


def complained(store: Store, prediction: str) -> None:
    """A thumb down that arrives from outside."""
    receipt = store.receipts.get(store.scope, prediction)
    now = store.database.clock.now()
    store.outcomes.add(
        OutcomeRecord(
            id=f"out_{prediction}", scope=store.scope, application=receipt.application, kind="thumbs", status="joined",
            value="down", available_at=now, created_at=now, prediction=prediction, release=receipt.release,
            role="live", as_of=receipt.as_of, principal="asker",
        )
    )  # fmt: skip


def test_a_draft_is_tried_compared_and_preferred_blind(antiphon: Run, ask: Any, folder: Path, store: Store) -> None:
    asked = ask("a fire", "a flood", "cold coffee", "another flood")
    before = (store.releases.list(store.scope), store.releases.history(store.scope, "triage"))
    would = antiphon("prompts", "try", "triage", "--dry-run", "--json").json()
    assert (would["requests"], would["completion_tokens"] > 0, would["currency"]) == (4, True, "USD")
    assert store.trials.list(store.scope) == []
    same = antiphon("prompts", "try", "triage", "--json").json()
    assert same["comparison"]["identical"] == len(same["answers"]) == 4
    definitions = folder / "definitions.py"
    definitions.write_text(definitions.read_text().replace(SYSTEM, f"{SYSTEM} Floods are urgent."))
    draft = antiphon("prompts", "try", "triage", "--draft", "--json").json()
    assert draft["release"].startswith("draft_")
    assert (draft["comparison"]["requests"], draft["comparison"]["identical"]) == (4, 2)
    assert f"-{SYSTEM}" in draft["comparison"]["prompt"]
    told = antiphon("prompts", "try", "triage", "--draft").out
    for said in ("4 production requests", "2 texts identical", "completion tokens", "surely better"):
        assert said in told
    (folder / "system.txt").write_text(f"{SYSTEM} Floods are urgent.")
    by_file = antiphon("prompts", "try", "triage", "--system", str(folder / "system.txt"), "--jsonl").out
    assert sum(json.loads(line["text"])["urgency"] == "urgent" for line in lines(by_file)) == 3
    assert (store.releases.list(store.scope), store.releases.history(store.scope, "triage")) == before

    trials = antiphon("prompts", "trials", "triage", "--json").json()
    assert [line["identical"] for line in trials] == [2, 2, 2, 4]
    first, second = trials[-1]["trial"], trials[0]["trial"]
    compared = antiphon("prompts", "compare", first, second, "--json", "--texts").json()
    assert {one["name"] for one in compared["figures"]} >= {"valid", "length", "latency", "completion tokens"}
    assert len(compared["texts"]) == 4
    shown = antiphon("prompts", "compare", first, second, "--texts").out
    assert "[-" in shown
    assert "{+" in shown
    blind = lines(antiphon("prompts", "compare", "live", second, "--blind").out)
    assert {line["request"] for line in blind} == {asked[1], asked[3]}
    for line in blind:
        side = "left" if '"urgent"' in line["left"] else "right"
        assert antiphon("prompts", "prefer", "live", second, line["request"], side).code == 0
    said = antiphon("prompts", "compare", "live", second, "--json").json()["preferences"]
    assert (said["first"], said["second"], said["ties"]) == (0, 2, 0)
    assert said["share"]["low"] < 0.5, "two says prove nothing"
    backwards = antiphon("prompts", "compare", second, "live", "--json").json()["preferences"]
    assert (backwards["first"], backwards["second"], backwards["ties"]) == (2, 0, 0)


def test_mistakes_of_a_trial_are_told_with_the_next_step(antiphon: Run, ask: Any, folder: Path) -> None:
    assert "no request to triage" in antiphon("prompts", "try", "triage").err
    ask("a fire")
    assert antiphon("prompts", "try", "nothing").code == 3
    assert antiphon("prompts", "try", "triage", "--release", "rel_none").code == 3
    (folder / "p.txt").write_text("{{ features.history.tickets }} {{ entity.shop }}")
    wrong = antiphon("prompts", "try", "triage", "--prompt", str(folder / "p.txt"))
    assert wrong.code == 2
    assert "features.history.tickets (line 1), entity.shop (line 1)" in wrong.err
    (folder / "p.txt").write_text("{% if %}")
    assert "line 1" in antiphon("prompts", "try", "triage", "--prompt", str(folder / "p.txt")).err
    assert antiphon("prompts", "try", "triage", "--prompt", str(folder / "none.txt")).code == 7
    assert antiphon("prompts", "compare", "trial_none").code == 3
    assert antiphon("prompts", "compare", "live", "live").code == 2


def test_a_prompt_version_leads_to_its_requests_and_back(antiphon: Run, ask: Any, folder: Path) -> None:
    old = ask("a fire", "a flood")
    definitions = folder / "definitions.py"
    definitions.write_text(definitions.read_text().replace(SYSTEM, f"{SYSTEM} Floods are urgent."))
    assert antiphon("apply", "--activate").code == 0
    new = ask("a flood")
    versions = antiphon("prompts", "list", "triage", "--json").json()
    assert [(one["live"], one["requests"]) for one in versions] == [(True, 1), (False, 2)]
    listed = antiphon("prompts", "requests", versions[1]["version"], "--json").json()
    assert [line["prediction"] for line in listed] == old[::-1]
    back = antiphon("prompts", "show", new[0], "--json").json()
    assert back["version"] == versions[0]["version"]
    assert SYSTEM in antiphon("prompts", "show", old[0]).out
    assert antiphon("prompts", "show", "0" * 12).code == 3


def test_a_complaint_becomes_a_case_that_gates_releases(antiphon: Run, ask: Any, folder: Path, store: Store) -> None:
    burning, flooded = ask("a fire", "a flood")
    nothing = antiphon("evaluations", "add", flooded, "--set", "complaints")
    assert nothing.code == 2
    assert "Nothing is expected" in nothing.err
    complained(store, flooded)
    made = antiphon("evaluations", "add", flooded, "--set", "complaints", "--json").json()
    assert [one["kind"] for one in made["expect"]] == ["not_text"]
    live = store.releases.live(store.scope, "triage")
    assert live is not None
    assert any("was not run with it" in reason for reason in failed_regressions(store, live))
    failing = antiphon("evaluations", "run", "complaints", live.id)
    assert failing.code == 1
    assert "1 of 1 cases of complaints@1 fail" in failing.err
    assert any("fails 1 of 1 cases" in reason for reason in failed_regressions(store, live))
    added = antiphon(
        "evaluations", "add", burning, "--set", "complaints", "--label", "urgency=urgent", "--contains", "FIRE",
        "--lacks", "water", "--schema", "--split", "held-out", "--note", "a fire is urgent", "--json",
    ).json()  # fmt: skip
    assert added["version"] == 2
    assert antiphon("evaluations", "add", burning, "--set", "complaints", "--label", "urgency=late").code == 2
    assert antiphon("evaluations", "add", burning, "--set", "No name", "--schema").code == 2
    assert any("@2 was not run with it" in reason for reason in failed_regressions(store, live)), "another version"

    definitions = folder / "definitions.py"
    definitions.write_text(definitions.read_text().replace(SYSTEM, f"{SYSTEM} Floods are urgent."))
    assert antiphon("apply", "--no-activate").code == 0
    better = store.releases.list(store.scope, "triage")[0]
    passed = antiphon("evaluations", "run", "complaints", better.id, "--json")
    assert passed.code == 0
    assert all(one["passed"] for one in passed.json()["results"])
    assert failed_regressions(store, better) == []
    assert antiphon("evaluations", "run", "complaints", better.id, "--split", "held-out", "--jsonl").code == 0
    shown = antiphon("evaluations", "show", passed.json()["id"]).out
    assert "2 of 2 cases passed" in shown
    assert "urgency is 'urgent'" in antiphon("evaluations", "show", "complaints").out
    assert antiphon("evaluations", "sets", "--json").json()[0]["held_out"] == 1
    assert antiphon("evaluations", "run", "complaints@1", better.id).code == 0
    assert antiphon("evaluations", "run", "nothing", better.id).code == 3

    # Out and in again: the same cases, so nothing is added twice.
    (folder / "cases.jsonl").write_text(antiphon("evaluations", "cases", "complaints", "--jsonl").out)
    again = antiphon("evaluations", "import", str(folder / "cases.jsonl"), "--set", "complaints", "--json").json()
    assert (again["version"], again["cases"]) == (2, 2)
    other = antiphon("evaluations", "import", str(folder / "cases.jsonl"), "--set", "other", "--json").json()
    assert (other["version"], other["cases"]) == (1, 2)
    (folder / "cases.jsonl").write_text('{"application": "triage", "question": "x", "expect": [{"kind": "label"}]}\n{')
    assert "line 2" in antiphon("evaluations", "import", str(folder / "cases.jsonl"), "--set", "third").err
    assert antiphon("evaluations", "cases", "third").code == 3
    gone = antiphon("evaluations", "remove", "complaints", made["case"], "--reason", "asked to", "--erase", "--json")
    assert gone.json()["version"] == 3
    erased = antiphon("evaluations", "run", "complaints@2", better.id)
    assert erased.code == 1
    assert "erased" in antiphon("evaluations", "cases", "complaints@2").out
    entries = {entry.action for entry in store.audit.query(store.scope)}
    assert {"regression.add", "regression.erase"} <= entries


def test_a_better_system_text_is_searched_for_by_the_worker(
    antiphon: Run, ask: Any, folder: Path, store: Store
) -> None:
    for split, questions in (("visible", ("a flood", "my flood")), ("held-out", ("no flood", "the flood"))):
        for prediction in ask(*questions):
            antiphon("evaluations", "add", prediction, "--set", "floods", "--label", "urgency=urgent", "--split", split)
    order = ["prompts", "optimize", "triage", "--set", "floods", "--by", "smollm2-135m", "--budget", "20"]
    unattended = antiphon(*order)
    assert unattended.code == 6
    assert "No worker runs, so nothing would search." in unattended.err
    assert store.runs.list(store.scope, workflow=OPTIMIZE) == [], "nothing was ordered"
    ordered = antiphon(*order, "--no-wait", "--json").json()
    assert (ordered["status"], ordered["result"]) == ("queued", None)
    early = antiphon("prompts", "optimization", ordered["run"], "--out", str(folder / "better.txt"))
    assert early.code == 1
    assert "The search is queued" in early.err
    asyncio.run(worked(folder, ordered["run"]))
    found = antiphon("prompts", "optimization", ordered["run"], "--out", str(folder / "better.txt"), "--json").json()
    made = found["result"]
    assert (found["status"], found["order"]["budget"], found["order"]["version"]) == ("succeeded", 20, 4)
    assert "Floods are urgent" in made["system"] == (folder / "better.txt").read_text()
    assert (made["held_out_before"]["value"], made["held_out_after"]["value"]) == (0.0, 1.0)
    assert "held-out cases that pass 0%" in antiphon("prompts", "optimization", ordered["run"]).out
    kept = f"optimize_{content_hash(ordered['run'])[:26]}"
    assert store.evaluations.answers(store.scope, kept) == {}, "what was kept goes as the result is recorded"
    assert antiphon("prompts", "optimize", "triage", "--set", "none", "--by", "x", "--no-wait").code == 3
    assert antiphon("prompts", "optimization", "run_none").code == 3
    assert antiphon("prompts", "optimize", "replies", "--set", "floods", "--by", "x", "--no-wait").code == 2


def test_a_search_without_its_package_says_what_to_install(
    antiphon: Run, ask: Any, folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split, question in (("visible", "a flood"), ("held-out", "no flood")):
        (prediction,) = ask(question)
        antiphon("evaluations", "add", prediction, "--set", "floods", "--label", "urgency=urgent", "--split", split)
    order = ["prompts", "optimize", "triage", "--set", "floods", "--by", "smollm2-135m", "--no-wait"]
    run = antiphon(*order, "--json").json()["run"]
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gepa" else found(name))
    refused = antiphon(*order)
    assert refused.code == 7
    assert "pip install 'antiphon[optimize]'" in refused.err
    asyncio.run(worked(folder, run, "failed"))
    shown = antiphon("prompts", "optimization", run)
    assert "antiphon[optimize]" in shown.out


def test_a_search_is_cancelled_by_who_may_order_it(antiphon: Run, ask: Any, folder: Path, store: Store) -> None:
    for split, question in (("visible", "a flood"), ("held-out", "no flood")):
        (prediction,) = ask(question)
        antiphon("evaluations", "add", prediction, "--set", "floods", "--label", "urgency=urgent", "--split", split)
    order = ["prompts", "optimize", "triage", "--set", "floods", "--by", "smollm2-135m", "--no-wait", "--json"]
    run = antiphon(*order).json()["run"]
    kept = kept_under(run)
    store.evaluations.keep_answer(store.scope, kept, "score:1", "A question of a user.")
    assert antiphon("runs", "cancel", run).code == 0
    assert store.evaluations.answers(store.scope, kept) == {}, "nothing is left of what it had tried"
    ended = antiphon("prompts", "optimization", run, "--json").json()
    assert (ended["status"], ended["result"]) == ("cancelled", None)
    assert "cancelled: the texts that it had tried are gone" in antiphon("prompts", "optimization", run).out
    assert "are gone" in antiphon("prompts", "optimization", run, "--out", "x.txt").err


@pytest.mark.parametrize("cancelled", [True, False])
async def test_a_search_under_way_keeps_what_it_has_unless_it_was_cancelled(store: Store, cancelled: bool) -> None:
    """A worker that stops leaves it to the next one."""
    order = OptimizationOrder("floods", "smollm2-135m", release="rel", version=1)
    arguments = {"order": msgspec.to_builtins(order), "principal": "ann", "application": "triage"}
    run = store.runs.submit(store.scope, OPTIMIZE, arguments)
    claimed = store.runs.claim("w", ServedRuns(store.scope.environment, (OPTIMIZE,)), timedelta(minutes=1))
    assert claimed is not None
    kept = kept_under(run)

    class Stopped:
        scope, id = store.scope, run

        async def step(self, name: str, work: Any) -> Any:
            store.evaluations.keep_answer(store.scope, kept, "score:1", "A question of a user.")
            if cancelled:
                store.runs.cancel(store.scope, run)
            raise asyncio.CancelledError

    nothing: Any = SimpleNamespace(get=lambda *named: None, version=lambda *named: None)
    found = SimpleNamespace(runs=store.runs, evaluations=store.evaluations, releases=nothing, regressions=nothing)
    project: Any = found
    stopped: Any = Stopped()
    workflows = WorkbenchWorkflows(project, nothing, nothing, nothing)
    with pytest.raises(asyncio.CancelledError):
        await workflows.optimize(stopped, arguments)
    assert len(store.evaluations.answers(store.scope, kept)) == (0 if cancelled else 1)


@pytest.mark.parametrize("ends", ["succeeded", "failed"])
def test_a_search_that_fails_is_tried_again_with_what_it_has_and_forgotten_once_it_is_given_up(
    antiphon: Run, ask: Any, folder: Path, store: Store, engine: ScriptedEngine, ends: str
) -> None:
    for split, question in (("visible", "a flood"), ("visible", "my flood"), ("held-out", "no flood")):
        (prediction,) = ask(question)
        antiphon("evaluations", "add", prediction, "--set", "floods", "--label", "urgency=urgent", "--split", split)
    order = ["prompts", "optimize", "triage", "--set", "floods", "--by", "smollm2-135m", "--budget", "20"]
    run = antiphon(*order, "--no-wait", "--json").json()["run"]
    proposals: list[int] = []  # requests before each

    def failing(request: GenerationRequest) -> ScriptedGeneration:
        """Fails when it is asked for a text: at first as an engine that broke, which is tried again."""
        if not proposes(request):
            return sorting(request)
        proposals.append(len(engine.asked))
        if len(proposals) == 1:
            return ScriptedGeneration("", error=EngineError("The engine broke.", where="engine"))
        if ends == "failed":
            return ScriptedGeneration("", error=InvalidInputError("No such model.", where="model"))
        return sorting(request)

    engine.follow(failing)
    abandoned = store.runs.submit(store.scope, OPTIMIZE, {"of": "another worker"}, not_before=FAR)
    for kept in (kept_under(abandoned), "eval_of_another_kind"):
        store.evaluations.keep_answer(store.scope, kept, "score:1", "A question of a user.")
    before = len(engine.asked)
    asyncio.run(worked(folder, run, ends))
    assert proposals[1] == proposals[0] + 1, "nothing that was answered is asked again"
    prompts = [one.prompt for one in engine.asked[before:] if not proposes(one)]
    assert len(prompts) == len(set(prompts))
    assert bool(store.evaluations.answers(store.scope, kept_under(run))) == (ends == "failed")
    assert forget_ended_searches(store) == (1 if ends == "failed" else 0)
    assert store.evaluations.answers(store.scope, kept_under(run)) == {}
    assert forget_ended_searches(store) == 0, "what goes on, and what is no search, keeps what it has"
    for kept in (kept_under(abandoned), "eval_of_another_kind"):
        assert len(store.evaluations.answers(store.scope, kept)) == 1


def test_metrics_of_texts_and_of_ones_own_are_compared(antiphon: Run, ask: Any, folder: Path, store: Store) -> None:
    asked = ask("my kettle", "my lamp", "my stove", application="replies")
    now = store.database.clock.now()
    for prediction in asked:
        receipt = store.receipts.get(store.scope, prediction)
        store.outcomes.add(
            OutcomeRecord(
                id=f"out_{prediction}", scope=store.scope, application="replies", kind="reference", status="joined",
                value="We are sorry.", available_at=now, created_at=now, prediction=prediction, outcome="text",
                release=receipt.release, role="live", as_of=receipt.as_of, principal="asker",
            )
        )  # fmt: skip
    tried = antiphon("prompts", "try", "replies", "--json").json()
    measured = {one["name"]: one for one in tried["comparison"]["metrics"]}
    assert {"chrf", "rouge_l", "exact_match", "groundedness"} <= measured.keys()
    assert (measured["exact_match"]["first"], measured["exact_match"]["requests"]) == (1.0, 3)
    assert measured["groundedness"]["difference"]["value"] == 0.0
    shown = antiphon("prompts", "compare", tried["id"]).out
    assert "groundedness" in shown
    assert "chrf" in shown

    add = ["evaluations", "add", asked[0], "--set", "letters"]
    wrong = antiphon(*add, "--metric", "kindness at least 1")
    assert wrong.code == 2
    assert "It declares groundedness" in wrong.err
    assert "at least X" in antiphon(*add, "--metric", "groundedness >= 1").err
    assert antiphon(*add, "--metric", "groundedness at most 0.5").code == 0
    live = store.releases.live(store.scope, "replies")
    assert live is not None
    assert antiphon("evaluations", "run", "letters", live.id).code == 0
    assert antiphon(*add, "--metric", "groundedness at least 0.9").code == 0
    failing = antiphon("evaluations", "run", "letters", live.id, "--json")
    assert failing.code == 1
    assert "expected groundedness is at least 0.9, it is 0" in failing.out
    (folder / "cases.jsonl").write_text(antiphon("evaluations", "cases", "letters", "--jsonl").out)
    assert '"value":"at least 0.9"' in (folder / "cases.jsonl").read_text()
    again = antiphon("evaluations", "import", str(folder / "cases.jsonl"), "--set", "letters", "--json").json()
    assert (again["version"], again["cases"]) == (2, 2)


def test_two_annotators_who_contradict_each_other_are_shown(antiphon: Run, ask: Any, folder: Path) -> None:
    asked = ask("a fire", "a flood", "cold coffee", "no coffee")
    for number, prediction in enumerate(asked):
        for name, value in (("ada", "urgent" if number < 2 else "low"), ("bob", "urgent" if number < 3 else "low")):
            said = antiphon(
                "prompts", "annotate", prediction, "--label", f"urgency={value}", "--annotator", name, "--json"
            )
            assert said.code == 0, said.err
    (found,) = antiphon("prompts", "agreement", "triage", "--json").json()
    assert (found["annotators"], found["predictions"], found["same"]) == (["ada", "bob"], 4, 3)
    assert found["kappa"] == pytest.approx(0.5)
    assert found["contradictions"] == [{"prediction": asked[2], "first": "low", "second": "urgent"}]
    assert asked[2] in antiphon("prompts", "agreement", "triage").out
    # An annotator's last say counts.
    antiphon("prompts", "annotate", asked[2], "--label", "low", "--annotator", "bob")
    assert antiphon("prompts", "agreement", "triage", "--json").json()[0]["kappa"] == 1.0
    (folder / "notes.jsonl").write_text(antiphon("prompts", "annotations", "triage", "--jsonl").out)
    assert len(lines((folder / "notes.jsonl").read_text())) == 8
    assert antiphon("prompts", "annotate", str(folder / "notes.jsonl")).code == 0
    assert len(antiphon("prompts", "annotations", "triage", "--json").json()) == 8
    assert antiphon("prompts", "annotate", asked[0], "--score", "tone=4", "--thumbs", "up").code == 0
    for wrong in (["--thumbs", "sideways"], ["--label", "urgency=late"], ["--score", "4"], ["--score", "tone=9"], []):
        assert antiphon("prompts", "annotate", asked[0], *wrong).code == 2, wrong
    assert antiphon("prompts", "annotate", "pred_none", "--thumbs", "up").code == 3
    assert antiphon("prompts", "annotate", asked[1], "--erase", "--annotator", "bob", "--json").json() == {"erased": 1}
    assert antiphon("prompts", "annotate", asked[1], "--erase", "--json").json() == {"erased": 1}
    assert antiphon("prompts", "agreement", "triage", "--json").json()[0]["predictions"] == 3


def test_answers_of_an_evaluation_are_drawn_for_people_to_score(
    antiphon: Run, ask: Any, store: Store, folder: Path
) -> None:
    asked = ask("a fire", "a flood", "cold coffee", "no coffee")
    rows = tuple(
        RowResult(f"row-{number}", "low", prediction=prediction, own={"tone": 3.0})
        for number, prediction in enumerate(asked)
    )
    live = store.releases.live(store.scope, "triage")
    assert live is not None
    blob = store.blobs.put(store.scope, msgspec.json.encode(EvaluationRows(rows)))
    changes = {"application": "triage", "release": live.id, "scope": store.scope, "rows_blob": blob}
    store.evaluations.add(msgspec.structs.replace(GOOD, id="eval_drawn", **changes))
    command = ("evaluations", "answers", "eval_drawn", "--criterion", "tone", "--jsonl")
    drawn = lines(antiphon(*command).out)
    assert sorted(one["prediction"] for one in drawn) == sorted(asked)
    assert {one["question"] for one in drawn} == {"a fire", "a flood", "cold coffee", "no coffee"}
    assert "judge" not in drawn[0], "A person is not told what the judge said."
    two = lines(antiphon(*command, "--size", "2").out)
    assert two == drawn[:2]
    # Of a safety report the live release's answers are drawn beside its own.
    other = tuple(RowResult(row.example, "", prediction=one) for row, one in zip(rows[:2], asked[2:], strict=True))
    blob = store.blobs.put(store.scope, msgspec.json.encode(EvaluationRows(rows[:2], live=other)))
    report = msgspec.structs.replace(
        reported(1, live.id), id="safety_drawn", application="triage", scope=store.scope, rows_blob=blob
    )
    store.safety_reports.add(report)
    both = lines(antiphon("evaluations", "answers", "safety_drawn", "--criterion", "tone", "--jsonl").out)
    assert sorted(one["prediction"] for one in both) == sorted(asked)
    empty = store.blobs.put(store.scope, msgspec.json.encode(EvaluationRows(())))
    store.safety_reports.add(msgspec.structs.replace(report, id="safety_empty", rows_blob=empty))
    nothing = antiphon("evaluations", "answers", "safety_empty", "--criterion", "tone")
    assert (nothing.code, "no answers to score" in nothing.err) == (3, True)
    filled = "".join(json.dumps(one | {"value": "4"}) + "\n" for one in two)
    (folder / "scored.jsonl").write_text(filled)
    assert antiphon("prompts", "annotate", str(folder / "scored.jsonl")).code == 0
    assert lines(antiphon(*command).out) == drawn[2:]
    (folder / "empty.jsonl").write_text(json.dumps(drawn[2]) + "\n")
    assert antiphon("prompts", "annotate", str(folder / "empty.jsonl")).code == 2
    assert "0 judge metrics" in antiphon("evaluations", "answers", "eval_drawn").err


def test_annotations_and_cases_ask_policy_and_stay_in_their_scope(store: Store, ask: Any) -> None:
    from antiphon.services.governance.policy_versions import records

    (prediction,) = ask("a fire")
    workbench = Workbench(store, records(store))
    regressions = ProjectRegressions(store, workbench)
    sent = AnnotationSubmission(prediction, "thumbs", "down")
    viewer = Principal("eve", "default", "viewer", "person")
    stranger = Principal("mallory", "rival", "admin", "person")
    with pytest.raises(ForbiddenError):
        workbench.annotate(store.scope, viewer, sent)
    with pytest.raises(ForbiddenError):
        workbench.annotate(store.scope, stranger, sent)
    with pytest.raises(ForbiddenError):
        regressions.add_case(store.scope, Principal("bot", "default", "service"), prediction, "complaints")
    made = workbench.annotate(store.scope, Principal("bot", "default", "service"), sent)
    assert workbench.annotations(store.scope, prediction) == [made]
    assert workbench.annotations(msgspec.structs.replace(store.scope, tenant="rival"), prediction) == []
    engineer = Principal("ada", "default", "engineer", "person")
    version, case = regressions.add_case(store.scope, engineer, prediction, "complaints")
    assert case.expect[0].kind == "not_text"
    (other,) = ask("a fire", application="replies")
    with pytest.raises(InvalidInputError, match="is of the application triage"):
        regressions.add_case(store.scope, engineer, other, "complaints", case.expect)
    assert store.regressions.version(store.scope, "complaints") == version


async def worked(folder: Path, run: str, ended: str = "succeeded") -> dict[str, Any]:
    """The result of a run that a worker has done."""
    wired = open_project(folder)
    try:
        learning = LearningPlatform(wired.store, wired.engine, wired.commit, wired.features)
        registry, stop = WorkflowRegistry(), asyncio.Event()
        scorer = learning.evaluators.scorer
        WorkbenchWorkflows(wired.store, learning.recorded, scorer, learning.serve).register(registry)
        executor = Executor(
            wired.store.database, registry, "worker", wired.store.scope, poll=0.01, backoff=timedelta(milliseconds=1)
        )
        working = asyncio.create_task(executor.run_until(stop))
        async with asyncio.timeout(30):
            while (found := wired.store.runs.get(wired.store.scope, run)).status not in ENDED:
                await asyncio.sleep(0.01)
        stop.set()
        await working
        assert found.status == ended, found.error
        result: dict[str, Any] = dict(found.result or {})
        return result
    finally:
        await wired.close()


def test_what_is_ordered_is_made_by_the_worker(store: Store, ask: Any, folder: Path) -> None:
    from antiphon.services.governance.policy_versions import records

    (prediction,) = ask("a flood")
    workbench = Workbench(store, records(store))
    orders, engineer = WorkbenchOrders(store, workbench), Principal("ada", "default", "engineer", "person")
    changed = TrialOrder("triage", system=f"{SYSTEM} Floods are urgent.")
    run = orders.place_trial(store.scope, engineer, changed)
    trial = store.trials.get(store.scope, asyncio.run(worked(folder, run.id))["trial"])
    assert ([one.request for one in trial.answers], trial.identical, trial.author) == ([prediction], 0, "ada")
    live = store.releases.live(store.scope, "triage")
    assert live is not None
    sets = ProjectRegressions(store, workbench)
    sets.add_case(store.scope, engineer, prediction, "complaints", [Expectation("label", "urgent", "urgency")])
    ordered = orders.place_run(store.scope, engineer, "complaints", RegressionOrder(live.id))
    assert asyncio.run(worked(folder, ordered.id))["passed"] is False
    assert len(store.regressions.runs(store.scope, "complaints")) == 1
    with pytest.raises(ForbiddenError):
        orders.place_trial(store.scope, Principal("eve", "default", "viewer", "person"), changed)
    with pytest.raises(NotFoundError):
        orders.place_trial(msgspec.structs.replace(store.scope, tenant="rival"), engineer, changed)
    with pytest.raises(InvalidInputError, match="5000 requests are no sample"):
        orders.place_trial(store.scope, engineer, TrialOrder("triage", sample=SampleQuery(size=5_000)))
    with pytest.raises(InvalidInputError, match="does not print"):
        orders.place_trial(store.scope, engineer, TrialOrder("triage", template="{{ features.a.b }}"))
