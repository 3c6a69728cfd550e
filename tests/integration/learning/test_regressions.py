"""Regression runs through answer(), and the gate of the sets that a release names."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.harness.small_desk import DESK, SCOPE
from tests.integration.learning.evaluated_desk import EvaluatedDesk
from tests.integration.learning.test_trials import LosingEngine
from tests.integration.learning.tried_desk import METRICS, TRIAGE, TriedDesk, sorting

from antiphon import metrics
from antiphon.catalog.learning.regressions import Expectation, SetVersion, Split
from antiphon.core.errors import InvalidInputError, UnavailableError
from antiphon.definitions.learning import Gates
from antiphon.definitions.own_metrics import JudgeMetric, OwnMetric
from antiphon.engine.api.messages import Delta, GenerationRequest, GenerationResult
from antiphon.learning.evaluation.asking import EvaluatedReleases
from antiphon.learning.workbench.optimizer import PromptOptimizer
from antiphon.learning.workbench.regressions import (
    CaseRequests,
    RegressionRunner,
    case_of,
    line_of,
    read_lines,
    regression_reasons,
    request_of,
)
from antiphon.serving.fallback.engines import Engines
from antiphon.serving.recorded import recorded_request
from antiphon.serving.services import Services
from antiphon.testing.scripted_engine import ScriptedEngine, ScriptedGeneration


class CasedDesk(TriedDesk):
    """A desk whose predictions become cases."""

    def __init__(self, directory: Path, *arguments: Any, **options: Any) -> None:
        super().__init__(directory, *arguments, **options)
        self.people: dict[str, int] = {}
        self.case_requests = CaseRequests(
            services=self.services_of, texts=self.blobs, scorer=self.scorer, patience=0.0,
            people=lambda release, metric: self.people.get(release.id, 0),
        )  # fmt: skip
        self.regressions = RegressionRunner(
            requests=self.case_requests, sets=self.sets, evaluations=self.evaluations, clock=self.clock, concurrency=1
        )
        self.optimizer = PromptOptimizer(requests=self.case_requests, sets=self.sets, evaluations=self.evaluations)

    async def cased(self, *tickets: str, name: str = "complaints") -> SetVersion:
        """A set of these tickets, each of which should be low."""
        cases = []
        for number, ticket in enumerate(tickets):
            receipt = self.receipts.get(SCOPE, await self.ask(ticket))
            request = recorded_request(receipt, self.blobs, self.conversations)
            case = case_of(
                SCOPE, name, request, [Expectation("label", "low", "urgency")], self.application,
                prediction=receipt.prediction, author="ada", at=self.clock.now(),
            )  # fmt: skip
            cases.append((case, "held-out" if number % 2 else "visible"))
        return self.sets.add_cases(SCOPE, name, cases, author="ada", reason="a test")  # type: ignore[arg-type]


class CountingEngine(ScriptedEngine):
    """Keeps what it was sent, and is away after so many requests."""

    def __init__(self) -> None:
        super().__init__(sorting)
        self.sent: list[GenerationRequest] = []
        self.left = 1_000

    @property
    def gone(self) -> bool:
        return len(self.sent) >= self.left

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[Delta | GenerationResult, None]:
        if self.gone:
            raise UnavailableError("The engine is away.", where="engine")
        self.sent.append(request)
        async for part in super().generate(request):
            yield part


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[CasedDesk]:
    opened = CasedDesk(tmp_path)
    yield opened
    opened.close()


async def test_a_run_says_which_cases_fail_and_asks_nothing_live(desk: CasedDesk) -> None:
    version = await desk.cased("Cold coffee", "There is a fire")
    before = desk.receipts.list(SCOPE, roles=("live",))
    run = await desk.regressions.run(desk.release, version, author="ada")
    assert [one.passed for one in run.results] == [True, False]
    assert run.results[1].failed == ("expected urgency is 'low', it is 'urgent'",)
    assert run.fingerprints == ("scripted-1",)
    assert desk.receipts.list(SCOPE, roles=("live",)) == before
    visible = await desk.regressions.run(desk.release, version, split="visible", author="ada")
    assert (visible.passed, visible.split, len(visible.results)) == (True, "visible", 1)


async def test_an_interrupted_run_asks_nothing_twice(desk: CasedDesk) -> None:
    version = await desk.cased(*(f"Ticket {number}" for number in range(5)))
    engine = LosingEngine()

    def losing(releases: EvaluatedReleases) -> Services:
        return msgspec.structs.replace(desk.services_of(releases), engine=engine)

    runner = dataclasses.replace(desk.regressions, requests=dataclasses.replace(desk.case_requests, services=losing))
    with pytest.raises(UnavailableError):
        await runner.run(desk.release, version, author="ada")
    engine.mended = True
    assert (await runner.run(desk.release, version, author="ada")).passed
    assert len(engine.sent) == 5


async def test_what_cannot_be_run_is_refused(desk: CasedDesk) -> None:
    version = await desk.cased("Cold coffee")
    other = desk.draft(msgspec.structs.replace(desk.application, name="other"))
    with pytest.raises(InvalidInputError, match="is of triage, the release of other"):
        await desk.regressions.run(other, version, author="ada")
    with pytest.raises(InvalidInputError, match="no case to run"):
        await desk.regressions.run(desk.release, version, split="held-out", author="ada")


async def test_a_file_gives_the_same_cases_again(desk: CasedDesk) -> None:
    version = await desk.cased("Cold coffee", "There is a fire")
    cases = [case for case in desk.sets.cases(version).values() if case is not None]
    written = b"\n".join(msgspec.json.encode(line_of(case, version.cases[case.id])) for case in cases)
    lines = list(read_lines(written.splitlines(), "cases.jsonl"))
    again = [
        case_of(SCOPE, "complaints", request_of(line), line.expect, desk.application, prediction=line.prediction,
                author="bob", at=desk.clock.now())
        for line in lines
    ]  # fmt: skip
    assert [one.id for one in again] == [one.id for one in cases]
    assert [line.split for line in lines] == list(version.cases.values())
    with pytest.raises(InvalidInputError) as refused:
        list(read_lines([*written.splitlines(), b"", b'{"application": "triage", "expects": []}'], "cases.jsonl"))
    assert refused.value.where == "cases.jsonl, line 4"


async def test_a_named_set_must_pass_whole_in_its_present_version(desk: CasedDesk) -> None:
    version = await desk.cased("Cold coffee", "There is a fire")
    gated = desk.draft(msgspec.structs.replace(desk.application, gates=Gates(regressions=("complaints", "none"))))

    def reasons() -> list[str]:
        return regression_reasons(
            gated,
            lambda name: desk.sets.version(SCOPE, name) if name in desk.sets.names(SCOPE) else None,
            lambda name, number: desk.sets.runs(SCOPE, name, gated.id, number),
        )

    assert reasons() == [
        f"the regression set complaints@1 was not run with it; run `antiphon evaluations run complaints {gated.id}`",
        "there is no regression set 'none', which its gates name",
    ]
    await desk.regressions.run(gated, version, split="visible", author="ada")
    assert "was not run with it" in reasons()[0], "one split is not the set"
    await desk.regressions.run(gated, version, author="ada")
    assert "it fails 1 of 2 cases of the regression set complaints@1: case_" in reasons()[0]
    (burning,) = [one for one, split in version.cases.items() if split == "held-out"]
    later = desk.sets.remove_case(SCOPE, "complaints", burning, author="ada", reason="a test", erase=False)
    assert "complaints@2 was not run with it" in reasons()[0], "what passed in another version says nothing"
    await desk.regressions.run(gated, later, author="ada")
    assert len(reasons()) == 1
    assert regression_reasons(desk.release, lambda name: None, lambda name, number: ()) == []
    assert DESK.gates.regressions == ()


async def test_a_release_that_fails_a_set_stays_a_draft(tmp_path: Path) -> None:
    desk = EvaluatedDesk(tmp_path)
    try:
        candidate = desk.candidate()
        evaluation = await desk.evaluator.evaluate(candidate, desk.dataset, against=desk.release.id)
        failing = dataclasses.replace(desk.validation, regressions=lambda release: [f"{release.id} fails a set"])
        held = failing.validate(candidate, evaluation, principal="ada")
        assert f"{candidate.id} fails a set" in held.reasons
        assert held.release.stage == "draft"
        passed = desk.validation.validate(candidate, evaluation, principal="ada")
        assert passed.release.stage == "validated", passed.reasons
    finally:
        desk.close()


async def measured(desk: CasedDesk, *expect: Expectation, **fields: Any) -> SetVersion:
    """A set of one case of which metrics are expected."""
    receipt = desk.receipts.get(SCOPE, await desk.ask("Ticket 1: my kettle is broken"))
    case = case_of(
        SCOPE, "measured", recorded_request(receipt, desk.blobs, desk.conversations), expect, desk.application,
        prediction=receipt.prediction, author="ada", at=desk.clock.now(), **fields,
    )  # fmt: skip
    return desk.sets.add_cases(SCOPE, "measured", [(case, "visible")], author="ada", reason="a test")


async def test_a_case_expects_a_metric_of_the_applications_own(tmp_path: Path) -> None:
    own = (
        OwnMetric("grounded", f"{METRICS}:brief"), OwnMetric("raises", f"{METRICS}:flaky", low=-1),
        OwnMetric("names", f"{METRICS}:names_the_thing"), metrics.groundedness("summary", name="shown"),
    )  # fmt: skip
    desk = CasedDesk(tmp_path, application=msgspec.structs.replace(TRIAGE, own_metrics=own))
    try:
        # One that raises, or needs an outcome that is not known, is a reason; it never passes a case.
        expected = [
            Expectation("metric", "at least 0.5", "raises"), Expectation("metric", "at least 1", "names"),
            Expectation("metric", "at least 0.9", "shown"),
        ]  # fmt: skip
        version = await measured(desk, *expected)
        run = await desk.regressions.run(desk.release, version, author="ada")
        assert run.results[0].failed == (
            "expected raises is at least 0.5, it is 0",
            "expected names is at least 1, but it has no value: raised KeyError: 'reply'",
        )
        # Who was told what came true keeps it with the case, in a file too, and only where a metric may read it.
        with_outcome = await measured(desk, expected[1], outcomes={"reply": "The kettle is repaired."})
        (case,) = [one for one in desk.sets.cases(with_outcome).values() if one is not None and one.outcomes]
        line = next(read_lines([msgspec.json.encode(line_of(case, "visible"))], "cases.jsonl"))
        assert (line.outcomes, line.expect) == ({"reply": "The kettle is repaired."}, (expected[1],))
        plain = case_of(
            SCOPE, "plain", request_of(line), [Expectation("schema")], desk.application, prediction=None, author="ada",
            at=desk.clock.now(), outcomes=line.outcomes,
        )  # fmt: skip
        assert plain.outcomes == {}
    finally:
        desk.close()


async def test_a_judge_that_people_did_not_correct_passes_no_case(tmp_path: Path) -> None:
    asked: list[str] = []

    def kind(request: GenerationRequest) -> ScriptedGeneration:
        if "Is it kind?" not in request.prompt:
            return sorting(request)
        asked.append(request.prompt)
        return ScriptedGeneration('{"score": 5}')

    judged = msgspec.structs.replace(TRIAGE, judge_metrics=(JudgeMetric("kind", "Is it kind?", least=3),))
    desk = CasedDesk(tmp_path, ScriptedEngine(kind), judged)
    try:
        services = desk.services
        engines = Engines(services.engine, services.standbys, services.failover, services.clock)
        requests = dataclasses.replace(desk.case_requests, scorer=dataclasses.replace(desk.scorer, engines=engines))
        runner = dataclasses.replace(desk.regressions, requests=requests)
        version = await measured(desk, Expectation("metric", "at least 4", "kind"))
        desk.people = {desk.release.id: 2}
        run = await runner.run(desk.release, version, author="ada")
        assert "its judge is uncalibrated, people scored 2 of 3 answers" in run.results[0].failed[0]
        assert asked == [], "nobody is asked what would not count"
        desk.people = {desk.release.id: 3}
        assert (await runner.run(desk.release, version, author="ada")).passed
        assert len(asked) == 1
    finally:
        desk.close()


async def floods(desk: CasedDesk) -> SetVersion:
    """Twelve floods that should be urgent, half of them held out."""
    cases = []
    for number in range(12):
        receipt = desk.receipts.get(SCOPE, await desk.ask(f"{'secret' if number % 2 else 'plain'} flood {number}"))
        case = case_of(
            SCOPE, "floods", recorded_request(receipt, desk.blobs, desk.conversations),
            [Expectation("label", "urgent", "urgency")],
            desk.application, prediction=receipt.prediction, author="ada", at=desk.clock.now(),
        )  # fmt: skip
        split: Split = "held-out" if number % 2 else "visible"
        cases.append((case, split))
    return desk.sets.add_cases(SCOPE, "floods", cases, author="ada", reason="a test")


async def test_an_optimizer_learns_from_visible_cases_and_meets_the_held_out_ones_once(desk: CasedDesk) -> None:
    version = await floods(desk)
    read: list[str] = []

    async def reflect(prompt: str) -> str:
        read.append(prompt)
        return "```\nEverything is urgent.\n```" if len(read) > 1 else "```\nBe kind.\n```"

    found = await desk.optimizer.optimize(desk.release, version, reflect, id="optimize_1", budget=60)
    assert found.system == "Everything is urgent."
    assert (found.visible_before, found.visible_after) == (0.0, 1.0)
    assert found.held_out_before is not None
    assert found.held_out_after is not None
    assert (found.held_out_before.value, found.held_out_after.value) == (0.0, 1.0)
    assert "plain flood" in "".join(read)
    assert "expected urgency is 'urgent'" in "".join(read)
    assert "secret" not in "".join(read), "nothing of a held-out case reaches the search"
    assert desk.releases.list(SCOPE) == [desk.release]
    with pytest.raises(InvalidInputError, match="no held-out case"):
        await desk.optimizer.optimize(desk.release, await desk.cased("One ticket"), reflect, id="o", budget=10)


async def test_an_interrupted_search_goes_the_same_way_again_and_asks_nothing_twice(desk: CasedDesk) -> None:
    version, engine, proposals = await floods(desk), CountingEngine(), list[str]()

    def counting(releases: EvaluatedReleases) -> Services:
        return msgspec.structs.replace(desk.services_of(releases), engine=engine)

    async def reflect(prompt: str) -> str:
        if engine.gone:
            raise UnavailableError("The engine is away.", where="engine")
        proposals.append(prompt)
        return "```\nEverything is urgent.\n```"

    requests = dataclasses.replace(desk.case_requests, services=counting)
    optimizer = dataclasses.replace(desk.optimizer, requests=requests)
    whole = await optimizer.optimize(desk.release, version, reflect, id="whole", budget=40)
    requests_of_whole, proposals_of_whole = len(engine.sent), len(proposals)
    assert whole.requests == requests_of_whole

    engine.sent, engine.left = [], 8
    proposals.clear()
    with pytest.raises(UnavailableError):
        await optimizer.optimize(desk.release, version, reflect, id="lost", budget=40)
    assert 0 < len(engine.sent) <= 8
    engine.left = 1_000
    again = await optimizer.optimize(desk.release, version, reflect, id="lost", budget=40)
    assert again == whole
    assert (len(engine.sent), len(proposals)) == (requests_of_whole, proposals_of_whole)
    asked = len(engine.sent)
    assert await optimizer.optimize(desk.release, version, reflect, id="lost", budget=40) == whole
    assert len(engine.sent) == asked
    desk.evaluations.forget_answers(SCOPE, "lost")
    assert desk.evaluations.answers(SCOPE, "lost") == {}


async def test_a_search_that_is_cancelled_asks_nothing_more(desk: CasedDesk) -> None:
    version, begun, asked = await floods(desk), asyncio.Event(), list[str]()

    async def reflect(prompt: str) -> str:
        asked.append(prompt)
        begun.set()
        await asyncio.sleep(0)
        return "```\nBe kind.\n```"

    search = asyncio.create_task(desk.optimizer.optimize(desk.release, version, reflect, id="cancelled", budget=10_000))
    async with asyncio.timeout(60):
        await begun.wait()
    search.cancel()
    with pytest.raises(asyncio.CancelledError):
        await search
    async with asyncio.timeout(60):  # its thread ends, long before the budget does
        await asyncio.get_running_loop().shutdown_default_executor()
    assert len(asked) < 20
