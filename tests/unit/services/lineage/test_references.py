"""What runs of each workflow read and made, told from their records alone."""

from __future__ import annotations

from tests.unit.services.lineage.records import NOON, a_run, steps

from antiphon.durable.run import StepRecord
from antiphon.services import workflows
from antiphon.services.lineage.references import _RULES, references_of
from antiphon.services.lineage.values import AssetReference

VIEW = "today@0123456789abcdef"
OTHER = "crowd@fedcba9876543210"
JUDGED = {"outcome": "passed", "findings": []}


def read(
    workflow: str, arguments: dict[str, object], result: dict[str, object] | None = None, **more: object
) -> list[str]:
    """The inputs, as ``KIND ID``."""
    return _words(references_of(a_run(workflow, arguments, result), _steps(more)).inputs)


def made(
    workflow: str, arguments: dict[str, object], result: dict[str, object] | None = None, **more: object
) -> list[str]:
    """The outputs, as ``KIND ID``."""
    return _words(references_of(a_run(workflow, arguments, result), _steps(more)).outputs)


def _steps(more: dict[str, object]) -> list[StepRecord]:
    given = more.get("done", {})
    assert isinstance(given, dict)
    return steps(given)


def _words(references: tuple[AssetReference, ...]) -> list[str]:
    return [f"{one.kind} {one.id}" for one in references]


def test_a_refresh_reads_sources_and_makes_the_snapshots_that_passed() -> None:
    done = {
        "pin": {"as_of": NOON.isoformat(), "through": {}},
        f"materialize {VIEW}": {"id": "snap_1"},
        f"gate {VIEW}": JUDGED,
        f"materialize {OTHER}": {"id": "snap_2"},
        f"gate {OTHER}": {"outcome": "blocked", "findings": []},
    }
    arguments = {"views": [VIEW, OTHER]}
    assert read("refresh", arguments, {}, done=done) == ["source snap_1", f"source {OTHER}"]
    assert made("refresh", arguments, {}, done=done) == ["snapshot snap_1"]
    found = references_of(a_run("refresh", arguments), steps(done))
    assert (found.subject, found.moment) == ("crowd+today", NOON)


def test_a_refresh_that_could_not_read_its_source_names_it_all_the_same() -> None:
    done = {
        f"materialize {VIEW}": {"unreadable": {"what": "no file", "where": "x", "next_step": ""}},
        f"gate {VIEW}": {"outcome": "blocked", "findings": []},
    }
    assert read("refresh", {"views": [VIEW]}, done=done) == [f"source {VIEW}"]
    assert made("refresh", {"views": [VIEW]}, done=done) == []


def test_an_apply_makes_snapshots_and_the_releases_that_went_live() -> None:
    activations = [
        {"application": "desk", "release": "rel_1", "instead_of": None, "goal": "live"},
        {"application": "other", "release": "rel_2", "instead_of": None, "goal": "live"},
    ]
    arguments = {"project": "b", "views": [VIEW], "activations": activations, "principal": "me", "reason": ""}
    done = {f"materialize {VIEW}": {"id": "snap_1"}, f"gate {VIEW}": JUDGED}
    assert made("apply", arguments, {"activated": ["desk"]}, done=done) == ["snapshot snap_1", "release rel_1"]
    assert references_of(a_run("apply", arguments)).subject == "desk+other"


def test_a_training_reads_views_answers_and_its_parent_and_makes_datasets_model_release_and_evaluations() -> None:
    plan = {
        "training": {"views": {"today": "0123456789abcdef"}, "origins": ["history"]},
        "evaluation": {"views": {"today": "0123456789abcdef"}, "origins": ["receipts"]},
    }
    done = {
        "pin": {"parent": "desk.v1", "before": "eval_0", "cutoff": NOON.isoformat()},
        "plan": plan,
        "build training set": "ds_1",
        "build evaluation set": "ds_2",
        "register versions": ["desk.v2", None, "desk.v3"],
    }
    result: dict[str, object] = {
        "model": "desk.v3", "release": "rel_1", "evaluation": "eval_1", "forgetting": {"evaluation": "eval_2"},
    }  # fmt: skip
    assert read("train", {"application": "desk"}, result, done=done) == [
        f"view {VIEW}", "answers desk", "model desk.v1", "evaluation eval_0",
    ]  # fmt: skip
    assert made("train", {"application": "desk"}, result, done=done) == [
        "dataset ds_1", "dataset ds_2", "model desk.v2", "model desk.v3", "release rel_1", "evaluation eval_1",
        "evaluation eval_2",
    ]  # fmt: skip
    assert references_of(a_run("train", {"application": "desk"}), steps(done)).moment == NOON


def test_a_training_on_history_alone_reads_no_answers_and_one_on_preferences_does() -> None:
    plan = {"training": {"views": {}, "origins": ["history"]}}
    assert read("train", {"application": "desk"}, done={"plan": plan}) == []
    assert read("train", {"application": "desk", "preferences": True}) == ["answers desk"]


def test_a_training_that_failed_has_the_datasets_that_it_had_built() -> None:
    failed = a_run("train", {"application": "desk"}, status="failed", error="no memory")
    assert _words(references_of(failed, steps({"build training set": "ds_1"})).outputs) == ["dataset ds_1"]


def test_gates_read_release_and_dataset_and_make_what_decided() -> None:
    arguments = {"application": "desk", "release": "rel_2", "instead_of": "rel_1", "ordered_by": "run_00"}
    chosen = {"choose the evaluation set": {"dataset": "ds_1", "why": ""}}
    assert read("gates", arguments, {"on": "eval_1"}, done=chosen) == ["release rel_2", "release rel_1", "dataset ds_1"]
    assert made("gates", arguments, {"on": "eval_1"}) == ["evaluation eval_1"]
    assert made("gates", arguments, {"on": "safety_1"}) == ["safety-report safety_1"]
    assert references_of(a_run("gates", arguments)).parent == "run_00"
    few = {"choose the evaluation set": {"dataset": "ds_1", "why": "3 rows have a known outcome"}}
    assert "dataset ds_1" not in read("gates", arguments, done=few), "a set that is too small was asked nothing"
    assert made("gates", arguments, {"on": None}) == []


def test_jobs_are_both_read_and_made_of_for_the_catalog_says_the_rest() -> None:
    for workflow, argument in (("table_job", "job"), ("openai_batch", "batch")):
        assert read(workflow, {argument: "job_1"}) == ["job job_1"] == made(workflow, {argument: "job_1"})


def test_the_workbench_reads_releases_and_sets() -> None:
    order = {"application": "desk", "release": "rel_1"}
    assert read(workflows.TRY, {"order": order}) == ["release rel_1", "answers desk"]
    assert made(workflows.TRY, {"order": order}, {"trial": "trial_1"}) == ["trial trial_1"]
    regressions = {"order": {"release": "rel_1", "split": None}, "set": "complaints@3"}
    assert read(workflows.REGRESSIONS, regressions) == ["release rel_1", "regression-set complaints@3"]
    assert made(workflows.REGRESSIONS, regressions, {"regression_run": "regress_1"}) == ["regression-run regress_1"]
    assert references_of(a_run(workflows.REGRESSIONS, regressions)).subject == "complaints"


def test_reports_are_made_of_answers() -> None:
    result: dict[str, object] = {"reports": {"desk": {}}}
    assert read(workflows.DRIFT, {}, result) == ["answers desk"]
    assert made(workflows.DRIFT, {}, result) == ["report drift/desk"]


def test_a_scheduled_evaluation_reads_a_release_and_rows() -> None:
    arguments = {"application": "desk", "release": "rel_1", "rows": 40, "texts": 10, "principal": "schedule:weekly"}
    assert read(workflows.EVALUATE, arguments) == ["release rel_1"]
    assert made(workflows.EVALUATE, arguments, {"evaluation": "eval_1"}) == ["evaluation eval_1"]


def test_a_model_is_made_again_only_where_it_is_equal() -> None:
    assert made(workflows.REBUILD, {"model": "desk.v1"}, {"equal": False}) == []
    assert made(workflows.REBUILD, {"model": "desk.v1"}, {"equal": True}) == ["model desk.v1"]
    assert references_of(a_run(workflows.REBUILD, {"model": "desk.v1"})).subject == "desk"


def test_runs_of_a_playbook_are_one_job_whatever_the_incident() -> None:
    arguments = {"playbook_run": "inc_1.restart-engine", "ending": False}
    assert references_of(a_run(workflows.PLAYBOOK, arguments)).subject == "restart-engine"


def test_every_workflow_of_the_product_has_a_rule() -> None:
    assert {getattr(workflows, name) for name in workflows.__all__} == set(_RULES)


def test_a_workflow_that_is_not_known_is_told_of_without_assets() -> None:
    assert references_of(a_run("of-a-later-version", {"anything": 1})).inputs == ()


def test_a_workflow_of_ones_own_reads_what_it_was_ordered_with_and_makes_its_output() -> None:
    inputs = {
        "file/events/{day}.csv": "v1", "workflow/clean": "v2", "release/desk": "rel_1", "evaluation/desk": "eval_1",
        "dataset/desk/training": "ds_1", "model/desk": "desk.v1", "answers/desk/again": "run_1", "view/today": "hash",
    }  # fmt: skip
    arguments = {"workflow": "report", "part": {"part": ["workflow/report", "2026-11-01"], "inputs": inputs}}
    assert read("user-batch", arguments) == [
        "answers desk",
        "dataset ds_1",
        "evaluation eval_1",
        "file events/2026-11-01.csv",
        "model desk.v1",
        "release rel_1",
        "workflow clean",
    ]
    assert made("user-batch", arguments) == ["workflow report"]
    assert made("user-batch", {"workflow": "report"}) == []
