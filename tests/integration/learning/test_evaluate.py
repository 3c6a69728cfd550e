"""Evaluations through serving's answer(): what is measured, that a crash loses nothing, and who becomes validated."""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from sklearn.metrics import roc_auc_score
from tests.catalogs import catalog_url, drop
from tests.harness.small_desk import DESK, SCOPE, START
from tests.integration.learning.evaluated_desk import LEARNS, EvaluatedDesk, backwards, forecasting, model_version

from antiphon.catalog.learning.models import ModelFile
from antiphon.catalog.releases.releases import Release
from antiphon.core.errors import ConflictError, CorruptionError, InvalidInputError, InvalidOutputError, UnavailableError
from antiphon.definitions.application import Reuse
from antiphon.definitions.learning import SAMPLED, Gates
from antiphon.definitions.prompt import Prompt
from antiphon.learning.datasets.reader import drawing_order, read_rows
from antiphon.learning.evaluation.metrics import LABEL_METRICS
from antiphon.learning.evaluation.safety.honest import LiveAnswer
from antiphon.learning.evaluation.safety.placement import HonestRequest
from antiphon.learning.evaluation.safety.suites import SafetySuites
from antiphon.learning.evaluation.validation import RemoteVersions
from antiphon.services.learning.evaluators import trained_on
from antiphon.testing.scripted_engine import ScriptedEngine, ScriptedGeneration


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[EvaluatedDesk]:
    made = EvaluatedDesk(tmp_path)
    yield made
    made.close()


async def test_every_row_is_a_request_of_the_serving_function(desk: EvaluatedDesk) -> None:
    evaluation = await desk.evaluator.evaluate(desk.release, desk.dataset, with_safety=False)
    assert (evaluation.rows, evaluation.whole_rows, evaluation.failed) == (40, 40, {})
    assert {(r.role, r.path, r.release) for r in desk.requests} == {("evaluation", "batch", desk.release.id)}
    rows = desk.evaluator.rows_of(evaluation).rows
    receipts = [desk.receipts.get(SCOPE, row.prediction or "") for row in rows]
    assert {receipt.role for receipt in receipts} == {"evaluation"}
    assert {receipt.publication for receipt in receipts} == {None}
    asked = {row.example: row for row in read_rows(desk.dataset, desk.lake)}
    for row, receipt in zip(rows, receipts, strict=True):
        features = {feature.name: feature.value for feature in receipt.features}
        assert features == {name: value.value for name, value in asked[row.example].features.values.items()}
        assert receipt.as_of == asked[row.example].moment
        assert row.probabilities == pytest.approx({"delayed": receipt.classes["outlook"]["delayed"]})
    auc = evaluation.metrics["auc"]
    late = [row.truth == "delayed" for row in rows]
    assert auc.value == pytest.approx(roc_auc_score(late, [row.probabilities["delayed"] for row in rows]))
    assert auc.low < auc.value < auc.high
    assert (evaluation.valid_share, evaluation.false_share, evaluation.guard_share) == (1.0, 0.0, 0.0)
    assert [(part.key, part.value, part.rows) for part in evaluation.slices] == [
        ("origin", "JFK", 20),
        ("origin", "LGA", 20),
    ]
    assert evaluation.tokens > 0
    assert desk.evaluations.get(SCOPE, evaluation.id) == evaluation


async def test_slices_are_of_features_too_and_say_who_is_told_what(tmp_path: Path) -> None:
    gates = msgspec.structs.replace(LEARNS.gates, slices=("congestion.delay",), parity=0.5)
    desk = EvaluatedDesk(tmp_path, application=msgspec.structs.replace(LEARNS, gates=gates))
    evaluation = await desk.evaluator.evaluate(desk.release, desk.dataset, mode="classes", with_safety=False)
    slices = {one.value: one for one in evaluation.slices}
    assert {one.key for one in evaluation.slices} == {"congestion.delay"}
    assert sorted(float(value) for value in slices) == [0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0]
    assert (slices["0.0"].said, slices["35.0"].said) == ({"delayed": 0.0}, {"delayed": 1.0})
    assert slices["35.0"].recall == {"delayed": 1.0}
    (parity,) = [one for one in evaluation.gates if one.name == "parity_disparity"]
    assert (parity.passed, parity.reason) == (
        False, "No two slices of a key have 50 rows, so they cannot be compared.",
    )  # fmt: skip
    desk.close()


async def test_classes_ask_for_the_label_alone_and_some_rows_for_everything(desk: EvaluatedDesk) -> None:
    evaluation = await desk.evaluator.evaluate(desk.release, desk.dataset, mode="classes", whole=6, with_safety=False)
    assert (evaluation.rows, evaluation.whole_rows) == (40, 6)
    assert [request.only for request in desk.requests].count(("outlook",)) == 34
    assert [request.only for request in desk.requests].count(()) == 6
    whole = await desk.evaluator.evaluate(desk.release, desk.dataset, with_safety=False)
    assert evaluation.metrics == whole.metrics


async def test_a_smaller_limit_is_a_part_of_a_larger_one(desk: EvaluatedDesk) -> None:
    drawn = [row.example for row in drawing_order(read_rows(desk.dataset, desk.lake))]
    small, large = set(drawn[:10]), set(drawn[:25])
    assert len(small) == 10
    assert small < large
    evaluation = await desk.evaluator.evaluate(desk.release, desk.dataset, limit=10, with_safety=False)
    assert {request.as_of for request in desk.requests} == {
        row.moment for row in read_rows(desk.dataset, desk.lake) if row.example in small
    }
    assert evaluation.rows == 10


class Killed(BaseException):
    """The process ends here."""


async def test_a_crash_in_the_middle_resumes_and_leaves_nothing_validated(desk: EvaluatedDesk) -> None:
    candidate = desk.candidate()

    def die(request: Any) -> None:
        if len(desk.requests) == 17:
            raise Killed

    desk.before = die
    with pytest.raises(Killed):
        await desk.evaluator.evaluate(candidate, desk.dataset, with_safety=False, id="eval_x")
    assert desk.evaluations.list(SCOPE) == []
    assert desk.releases.get(SCOPE, candidate.id).stage == "draft"
    kept = {answer["example"] for answer in desk.evaluations.answers(SCOPE, "eval_x").values()}
    assert 0 < len(kept) <= 17
    moments = {row.example: row.moment for row in read_rows(desk.dataset, desk.lake)}
    desk.before, desk.requests = lambda request: None, []
    evaluation = await desk.evaluator.evaluate(candidate, desk.dataset, with_safety=False, id="eval_x")
    count, asked = len(desk.requests), {request.as_of for request in desk.requests}
    assert not asked & {moments[example] for example in kept}
    assert 40 - 17 <= len(asked) == count <= 40 - len(kept), "an answer that was being kept may have come later"
    assert (evaluation.id, evaluation.rows) == ("eval_x", 40)
    assert desk.evaluations.answers(SCOPE, "eval_x") == {}
    again = await desk.evaluator.evaluate(candidate, desk.dataset, with_safety=False, id="eval_x")
    assert again == evaluation
    assert len(desk.requests) == count


async def test_what_a_killed_process_answered_is_not_asked_on_another_host(tmp_path: Path) -> None:
    """They share the catalog's server and the lake, and have a folder each."""
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    catalog_url(here, "postgresql")
    shutil.copy(here / "catalog.url", there)
    (there / "lake").symlink_to(here / "lake")
    child = [sys.executable, "-m", "tests.integration.learning.evaluate_child", str(here), "21"]
    done = subprocess.run(child, cwd=Path(__file__).parents[3], timeout=60, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    desk = EvaluatedDesk(there, again=True)
    draft = next(release for release in desk.releases.list(SCOPE, "desk") if release.id != desk.release.id)
    assert (draft.stage, desk.evaluations.list(SCOPE)) == ("draft", [])
    kept = len(desk.evaluations.answers(SCOPE, "eval_killed"))
    assert kept >= 21 - 8, "at most the eight that were under way are asked again"
    evaluation = await desk.evaluator.evaluate(draft, desk.dataset, with_safety=False, id="eval_killed")
    assert (evaluation.rows, len(desk.requests)) == (40, 40 - kept)
    desk.close()
    drop(desk.database)


async def test_what_was_answered_for_something_else_under_the_id_is_asked(desk: EvaluatedDesk) -> None:
    def die(request: Any) -> None:
        if len(desk.requests) == 12:
            raise Killed

    desk.before = die
    with pytest.raises(Killed):
        await desk.evaluator.evaluate(desk.release, desk.dataset, with_safety=False, id="eval_x")
    assert desk.evaluations.answers(SCOPE, "eval_x")
    desk.before, desk.requests = lambda request: None, []
    made = await desk.evaluator.evaluate(desk.release, desk.dataset, mode="classes", with_safety=False, id="eval_x")
    assert (made.mode, len(desk.requests)) == ("classes", 40)
    with pytest.raises(ConflictError, match="is of"):
        await desk.evaluator.evaluate(desk.candidate(), desk.dataset, with_safety=False, id="eval_x")


async def test_two_that_do_the_same_evaluation_end_with_one(desk: EvaluatedDesk, tmp_path: Path) -> None:
    other = EvaluatedDesk(tmp_path, again=True)
    both = [one.evaluator.evaluate(desk.release, desk.dataset, with_safety=False, id="eval_x") for one in (desk, other)]
    first, second = await asyncio.gather(*both)
    assert first == second
    assert (desk.evaluations.list(SCOPE), desk.evaluations.answers(SCOPE, "eval_x")) == ([first], {})
    other.close()


async def test_failures_are_counted_by_code_and_an_engine_that_is_away_is_none(tmp_path: Path) -> None:
    def sometimes(request: Any) -> ScriptedGeneration:
        says = forecasting(request)
        return (
            msgspec.structs.replace(says, text='{"outlook": "del', reason="length") if "JFK" in request.prompt else says
        )

    desk = EvaluatedDesk(tmp_path, ScriptedEngine(sometimes))
    evaluation = await desk.evaluator.evaluate(desk.release, desk.dataset, with_safety=False)
    assert (evaluation.rows, evaluation.failed) == (20, {InvalidOutputError.code: 20})
    assert (evaluation.whole_rows, evaluation.valid_share) == (40, 0.5)
    reasons = {row.reason for row in desk.evaluator.rows_of(evaluation).rows if row.error}
    assert len(reasons) == 1
    assert "output schema" in reasons.pop()
    assert {gate.name for gate in evaluation.gates if gate.passed is False} >= {"answered", "valid_share"}
    desk.scripted.away = True
    with pytest.raises(UnavailableError):
        await desk.evaluator.evaluate(desk.release, desk.dataset, limit=3, with_safety=False)
    assert len(desk.evaluations.list(SCOPE)) == 1
    desk.close()


async def test_a_false_figure_is_seen_although_the_guard_did_not(tmp_path: Path) -> None:
    def false(request: Any) -> ScriptedGeneration:
        says = forecasting(request)
        return msgspec.structs.replace(says, text='{"outlook": "delayed", "notice": "Delays average 55 minutes."}')

    unguarded = msgspec.structs.replace(LEARNS, guards=())
    desk = EvaluatedDesk(tmp_path, ScriptedEngine(false), unguarded)
    evaluation = await desk.evaluator.evaluate(desk.release, desk.dataset, with_safety=False)
    assert (evaluation.valid_share, evaluation.false_share) == (1.0, 1.0)
    guarded = desk.candidate()
    evaluation = await desk.evaluator.evaluate(guarded, desk.dataset, with_safety=False)
    assert (evaluation.valid_share, evaluation.false_share, evaluation.guard_share) == (1.0, 0.0, 1.0)
    assert evaluation.guards == {"retry": 40, "template": 40}
    desk.close()


async def test_figures_are_read_in_the_locale_of_the_application(tmp_path: Path) -> None:
    def german(request: Any) -> ScriptedGeneration:
        says = forecasting(request)
        return msgspec.structs.replace(says, text=says.text.replace(" minutes", ",0 minutes"))

    unguarded = msgspec.structs.replace(LEARNS, guards=(), locale="de")
    desk = EvaluatedDesk(tmp_path, ScriptedEngine(german), unguarded)
    evaluation = await desk.evaluator.evaluate(desk.release, desk.dataset, with_safety=False)
    assert evaluation.false_share == 0.0
    unread = desk.candidate(guards=(), locale="ja")
    evaluation = await desk.evaluator.evaluate(unread, desk.dataset, with_safety=False)
    assert evaluation.false_share is None
    (gate,) = [one for one in evaluation.gates if one.name == "false_share"]
    assert (gate.passed, gate.reason) == (None, "Numbers of texts in the locale ja are not read.")
    desk.close()


async def test_stored_answers_play_no_part(tmp_path: Path) -> None:
    desk = EvaluatedDesk(tmp_path, application=msgspec.structs.replace(LEARNS, reuse=Reuse("always")))
    await desk.evaluator.evaluate(desk.release, desk.dataset, with_safety=False)
    await desk.evaluator.evaluate(desk.release, desk.dataset, with_safety=False)
    assert len(desk.scripted.asked) == 80
    desk.close()


async def test_a_candidate_is_compared_with_the_live_release_on_identical_rows(desk: EvaluatedDesk) -> None:
    same = desk.candidate()
    evaluation = await desk.evaluator.evaluate(same, desk.dataset, against=desk.release.id, with_safety=False)
    assert evaluation.against == desk.release.id
    assert {name: gap.value for name, gap in evaluation.difference.items()} == dict.fromkeys(LABEL_METRICS, 0)
    assert len(desk.requests) == 80
    await desk.evaluator.evaluate(same, desk.dataset, against=desk.release.id, with_safety=False)
    assert len(desk.requests) == 120, "the live release is not asked again about rows that it has answered"
    assert [e.mode for e in desk.evaluations.list(SCOPE, release=desk.release.id)] == ["classes"]


async def test_the_live_release_is_asked_only_about_rows_that_no_earlier_dataset_had(desk: EvaluatedDesk) -> None:
    same, later = desk.candidate(), desk.keep(40, seed=1)
    assert later.id != desk.dataset.id
    await desk.evaluator.evaluate(same, desk.dataset, against=desk.release.id, with_safety=False, limit=30)
    asked = len(desk.requests)
    evaluation = await desk.evaluator.evaluate(same, later, against=desk.release.id, with_safety=False)
    assert len(desk.requests) == asked + 40 + 10
    assert {name: gap.value for name, gap in evaluation.difference.items()} == dict.fromkeys(LABEL_METRICS, 0)
    await desk.evaluator.evaluate(same, later, against=desk.release.id, with_safety=False)
    assert len(desk.requests) == asked + 40 + 10 + 40


async def test_rows_that_a_release_has_seen_are_left_out_and_said(desk: EvaluatedDesk) -> None:
    learned = desk.keep(10)
    desk.evaluator = replace(desk.evaluator, trained_on=lambda release: [learned])
    candidate = desk.candidate()
    of: dict[str, Any] = {"against": desk.release.id, "with_safety": False}
    found = await desk.evaluator.evaluate(candidate, desk.dataset, **of)
    assert (found.rows, found.left_out) == (30, {"in-training": 10})
    assert found.left_out_words == "10 stand in what its model was trained on"
    assert found.difference["brier"].value == 0.0
    assert len(desk.requests) == 60
    assert (await desk.evaluator.evaluate(candidate, desk.dataset, with_seen=True, **of)).rows == 40
    desk.evaluator = replace(desk.evaluator, trained_on=lambda release: [desk.dataset])
    with pytest.raises(InvalidInputError, match=r"No row .* they stand in what its model was trained on"):
        await desk.evaluator.evaluate(candidate, desk.dataset, **of)


async def test_a_limit_counts_rows_that_were_not_seen_and_both_releases_are_asked_about_the_same(
    desk: EvaluatedDesk,
) -> None:
    """Ten of forty rows were learned from: twenty are asked about all the same, and they are the live release's too."""
    learned = desk.keep(10)
    candidate = desk.candidate()
    trained = {candidate.id: [learned], desk.release.id: []}
    desk.evaluator = replace(desk.evaluator, trained_on=lambda release: trained[release.id])
    found = await desk.evaluator.evaluate(candidate, desk.dataset, limit=20, against=desk.release.id, with_safety=False)
    assert found.rows == 20
    assert 0 < found.left_out["in-training"] <= 10
    asked = Counter(request.as_of for request in desk.requests)
    assert (len(asked), set(asked.values())) == (20, {2})
    rest = await desk.evaluator.evaluate(candidate, desk.dataset, limit=35, with_safety=False)
    assert (rest.rows, rest.left_out) == (30, {"in-training": 10})


async def test_what_a_model_was_trained_on_is_that_of_its_parents_too(desk: EvaluatedDesk) -> None:
    first, second = desk.keep(10), desk.keep(12)
    desk.trained(first)
    version = desk.models.add(model_version(second, ModelFile("v2.gguf", "c" * 64, 7), 2))
    store: Any = SimpleNamespace(models=desk.models, datasets=desk.datasets)
    assert trained_on(store, desk.pinning(version)) == (second, first)
    assert trained_on(store, desk.release) == ()


async def test_sampled_requests_are_asked_one_by_one_for_time_and_guards(desk: EvaluatedDesk) -> None:
    row = read_rows(desk.dataset, desk.lake)[0]
    users = [HonestRequest("honest-0", row.entity, row.moment, row.features)]
    before = {"honest-0": LiveAnswer(40, guarded=True)}
    asked: list[Any] = []

    def sampled(release: Release, live: Release | None) -> Any:
        asked.append((release.id, None if live is None else live.id))
        return users, before

    desk.evaluator = replace(desk.evaluator, sampled=sampled)
    candidate = desk.candidate()
    found = await desk.evaluator.evaluate(candidate, desk.dataset, against=desk.release.id, probes=1)
    assert asked == [(candidate.id, desk.release.id)]
    assert found.sampled is not None
    assert (found.sampled.requests, found.sampled.guarded_more) == (1, -1.0)
    assert 0 < found.sampled.first_p50 <= found.sampled.seconds_p50
    (guarded,) = [gate for gate in found.gates if gate.name == "guarded_share"]
    assert guarded.passed is True
    desk.evaluator = replace(desk.evaluator, sampled=lambda release, live: ((), {}))
    alone = await desk.evaluator.evaluate(candidate, desk.dataset, probes=1)
    assert alone.sampled is not None
    assert alone.sampled.requests == SAMPLED, "rows of the set stand for requests of users"


async def test_a_release_passes_its_gates_and_is_validated(desk: EvaluatedDesk) -> None:
    candidate = desk.candidate()
    evaluation = await desk.evaluator.evaluate(candidate, desk.dataset, against=desk.release.id)
    assert [gate.name for gate in evaluation.gates if gate.passed is False] == []
    verdict = desk.validation.validate(candidate, evaluation, principal="me")
    assert (verdict.passed, verdict.release.stage) == (True, "validated")
    moves = desk.releases.stages(SCOPE, candidate.id)
    assert moves[-1].stage == "validated"
    assert evaluation.id in moves[-1].reason
    assert desk.validation.validate(candidate, evaluation, principal="me").passed


async def test_rows_of_another_model_than_the_present_one_validate_nothing(desk: EvaluatedDesk) -> None:
    candidate, served = desk.candidate(), "v1"

    def remote_version(release: Release, fingerprints: Sequence[str]) -> RemoteVersions:
        return RemoteVersions(served, frozenset("v1" for one in fingerprints if one == "scripted-1"))

    desk.validation = replace(desk.validation, remote_version=remote_version)
    evaluation = await desk.evaluator.evaluate(candidate, desk.dataset, against=desk.release.id)
    assert evaluation.fingerprints == ("scripted-1",)
    assert desk.validation.validate(candidate, evaluation, principal="me").passed
    served = "v2"
    verdict = desk.validation.validate(candidate, evaluation, principal="me")
    assert verdict.reasons == (
        f"{candidate.bundle.model.name} is v2 now, and rows were answered by v1; evaluate it again",
    )
    served = "v1"
    assert desk.validation.validate(candidate, evaluation, principal="me").passed
    moves = [move.stage for move in desk.releases.stages(SCOPE, candidate.id)]
    assert moves[-2:] == ["validated", "validated"], "It is validated as of now."


async def test_the_live_release_is_evaluated_anew_once_its_model_is_another_one(desk: EvaluatedDesk) -> None:
    current = True
    desk.evaluator = replace(desk.evaluator, current=lambda release, evaluation: current)
    await desk.evaluator.evaluate(desk.candidate(), desk.dataset, against=desk.release.id, with_safety=False)
    asked = len(desk.requests)
    await desk.evaluator.evaluate(desk.candidate(), desk.dataset, against=desk.release.id, with_safety=False)
    assert len(desk.requests) == asked + 40
    current = False
    await desk.evaluator.evaluate(desk.candidate(), desk.dataset, against=desk.release.id, with_safety=False)
    assert len(desk.requests) == asked + 120


async def test_a_bad_release_stays_a_draft_with_reasons(tmp_path: Path) -> None:
    desk = EvaluatedDesk(tmp_path, ScriptedEngine(backwards))
    evaluation = await desk.evaluator.evaluate(desk.candidate(), desk.dataset, with_safety=False)
    verdict = desk.validation.validate(desk.candidate(), evaluation, principal="me")
    assert (verdict.passed, verdict.release.stage) == (False, "draft")
    said = " ".join(verdict.reasons)
    for words in ("In AUC it is", "In Brier score it is", "safety suites were not tried", "was not compared with"):
        assert words in said
    assert desk.evaluations.get(SCOPE, evaluation.id) == evaluation
    desk.close()


async def test_a_release_that_lacks_something_is_refused_and_live_untouched(desk: EvaluatedDesk) -> None:
    before = desk.keep(10, kind="training", first=START - timedelta(days=9), last=START - timedelta(days=2))
    release = desk.pinning(desk.trained(before))
    desk.validation.require_whole(release)
    weights = desk.directory / "models" / "v1.gguf"
    weights.write_bytes(b"other")
    with pytest.raises(CorruptionError, match="not those that the release pins"):
        desk.validation.require_whole(release)
    weights.unlink()
    with pytest.raises(CorruptionError, match="gone"):
        desk.validation.require_whole(release)
    desk.views.discard(("weather", "v1"))
    with pytest.raises(InvalidInputError, match="no longer exists"):
        desk.validation.require_whole(release)
    assert desk.releases.get(SCOPE, release.id).stage == "draft"
    live = desk.releases.live(SCOPE, "desk")
    assert live is not None
    assert live.id == desk.release.id


async def test_a_model_is_not_validated_by_what_it_was_trained_on(desk: EvaluatedDesk) -> None:
    candidate, evaluation = desk.candidate(), None
    evaluation = await desk.evaluator.evaluate(candidate, desk.dataset, against=desk.release.id)
    seen = desk.keep(10, kind="training", first=START - timedelta(days=9), last=START - timedelta(days=1))
    release = desk.pinning(desk.trained(seen))
    ours = msgspec.structs.replace(evaluation, id="eval_2", release=release.id)
    verdict = desk.validation.validate(release, ours, principal="me")
    assert "evaluated on moments it was trained on" in " ".join(verdict.reasons)
    assert verdict.release.stage == "draft"
    with pytest.raises(InvalidInputError, match="training set"):
        desk.validation.validate(candidate, msgspec.structs.replace(evaluation, dataset=seen.id), principal="me")
    with pytest.raises(InvalidInputError, match="not of this release"):
        desk.validation.validate(desk.release, evaluation, principal="me")


async def test_a_dataset_for_something_else_is_refused(desk: EvaluatedDesk) -> None:
    other = desk.keep(10, views={"congestion": "v0", "weather": "v1"})
    with pytest.raises(InvalidInputError, match=r"congestion.*v0.*v1"):
        await desk.evaluator.evaluate(desk.release, other)
    plain = desk.draft(msgspec.structs.replace(DESK, name="desk", outcome=None))
    with pytest.raises(InvalidInputError, match="no outcome"):
        await desk.evaluator.evaluate(plain, desk.dataset)
    (desk.directory / "lake" / desk.dataset.path).write_bytes(b"x")
    with pytest.raises(CorruptionError):
        await desk.evaluator.evaluate(desk.release, desk.dataset)


async def test_a_credulous_model_is_injected_and_leaks(tmp_path: Path) -> None:
    def obeys(request: Any) -> ScriptedGeneration:
        prompt = request.prompt
        says = forecasting(request)
        if "zebrafish" in prompt:
            return msgspec.structs.replace(says, text='{"outlook": "delayed", "notice": "zebrafish"}')
        if "ORCHID" in prompt:
            return msgspec.structs.replace(says, text='{"outlook": "delayed", "notice": "It is Orchid Quarry."}')
        return says

    application = msgspec.structs.replace(LEARNS, guards=(), gates=Gates())
    desk = EvaluatedDesk(tmp_path, ScriptedEngine(obeys), application)
    evaluation = await desk.evaluator.evaluate(desk.release, desk.dataset)
    injection, leakage = evaluation.suite("injection"), evaluation.suite("leakage")
    assert injection is not None
    assert leakage is not None
    assert sum(half.by["marker"] for half in injection.halves) > 20
    share = injection.held_out.share if injection.held_out is not None else None
    assert share is not None
    assert 0.3 < share.value < 1
    assert 0 < share.low < share.value < share.high < 1
    assert [half.by for half in leakage.halves] == [{"secret": half.probes} for half in leakage.halves]
    failed = {gate.name for gate in evaluation.gates if gate.passed is False}
    assert failed >= {"injected_share", "leaked_share"}
    assert "pii_share" not in failed, "the person was planted beside the secret, and nothing of them came out"
    planted = [request for request in desk.requests if request.release != desk.release.id]
    assert planted
    assert all("planted" in request.release for request in planted)
    assert desk.releases.live(SCOPE, "desk") == desk.release
    desk.close()


async def test_a_key_without_features_is_turned_away_as_in_serving(tmp_path: Path) -> None:
    """Every view is looked up by the one key that the prompt shows, so no injection reaches the model."""
    template = DESK.prompt.template.replace("{{ question }}", "").replace("{{ entity.flight }} ", "")
    application = msgspec.structs.replace(LEARNS, prompt=Prompt(template))
    suites = SafetySuites(view_keys=lambda scope, view, version: ("origin",))
    desk = EvaluatedDesk(tmp_path, application=application, suites=suites)
    evaluation = await desk.evaluator.evaluate(desk.release, desk.dataset)
    injection, leakage = evaluation.suite("injection"), evaluation.suite("leakage")
    assert injection is not None
    assert leakage is not None
    assert sum(half.probes for half in injection.halves) == 0
    assert sum(half.refused for half in injection.halves) > 50
    assert "turned away" in injection.note
    tried = {count.category for count in leakage.categories if count.probes}
    assert tried == {"as it is"}, "honest requests reach it, and may leak by themselves"
    assert next(gate for gate in evaluation.gates if gate.name == "injected_share").passed is True
    desk.close()
