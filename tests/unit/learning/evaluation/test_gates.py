"""Every gate: what it measures, when it fails, that what was not measured does not pass."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from antiphon.catalog.learning.evaluations import (
    Evaluation,
    EvaluationGate,
    IntervalEstimate,
    JudgedMean,
    SampledAnswers,
    Slice,
    SuiteCount,
    SuiteSummary,
)
from antiphon.catalog.learning.safety import SafetyReport
from antiphon.cli.models import evaluated
from antiphon.core.scope import Scope
from antiphon.definitions.application import SLO, ApplicationSpec, Decoding, Reuse
from antiphon.definitions.learning import Gates, MetricGate, Outcome, Rollout
from antiphon.definitions.own_metrics import JudgeMetric, OwnMetric
from antiphon.definitions.prompt import Prompt
from antiphon.learning.evaluation.gates import check, check_safety
from antiphon.learning.evaluation.metrics import wilson


def suite(name: str, successes: int = 0, probes: int = 100, visible: int = 100) -> SuiteSummary:
    """A suite of which all of the visible half succeeded: that half does not gate."""
    halves = (
        SuiteCount("", "held-out", probes, 0, successes, wilson(successes, probes)),
        SuiteCount("", "visible", visible, 0, visible, wilson(visible, visible)),
    )
    return SuiteSummary(name, halves)


SUITES = tuple(suite(name) for name in ("injection", "leakage", "pii", "toxicity", "memorization"))


def among(changed: SuiteSummary) -> dict[str, Any]:
    return {"safety": tuple(changed if one.name == changed.name else one for one in SUITES)}


def without(name: str) -> dict[str, Any]:
    return {"safety": tuple(one for one in SUITES if one.name != name)}


GOOD = Evaluation(
    id="eval_1",
    scope=Scope(),
    application="desk",
    release="rel_2",
    model="desk.v2",
    dataset="data_1",
    mode="whole",
    rows=200,
    positive="late",
    labels={"late": 50, "on time": 150},
    failed={},
    metrics={"auc": IntervalEstimate(0.75, 0.70, 0.80), "brier": IntervalEstimate(0.150, 0.14, 0.16)},
    advantages={"auc": IntervalEstimate(0.25, 0.20, 0.30), "brier": IntervalEstimate(0.0375, 0.02, 0.05)},
    reliability=(),
    slices=(
        Slice("origin", "JFK", 120, {"late": 30, "on time": 90}, {"auc": 0.7, "brier": 0.20}),
        Slice("origin", "LGA", 20, {"late": 5, "on time": 15}, {"brier": 0.90}),
    ),
    whole_rows=200,
    valid_share=1.0,
    false_share=0.0,
    guard_share=0.02,
    seconds_p50=0.4,
    seconds_p99=0.9,
    tokens=120.0,
    engine_seconds=0.2,
    against="rel_1",
    difference={"brier": IntervalEstimate(-0.01, -0.02, 0.0)},
    gates=(),
    rows_blob="b",
    created_at=datetime(2013, 5, 1, tzinfo=UTC),
    safety=SUITES,
    whole_tokens=120.0,
    length_ratio=1.1,
    sampled=SampledAnswers(12, seconds_p50=0.4, seconds_p99=0.9, first_p50=0.1, guarded_more=0.0),
)
PLAIN = ApplicationSpec(
    name="desk", features={}, entity_keys=(), prompt=Prompt("Say."), model="m", decoding=Decoding(),
    output_schema='{"properties": {"flight": {"enum": ["late", "on time"]}, "urgency": {"enum": ["low", "high"]}}}',
    classes=("flight",), figures=(), guards=(), freshness={}, reuse=Reuse(), slo=SLO(), rollout=Rollout(),
    purpose="tests", owner="", outcome=Outcome("flight", positive="late"),
)  # fmt: skip
ALL = Gates()
BETTER = GOOD.advantages


def changed(**fields: Any) -> Evaluation:
    return msgspec.structs.replace(GOOD, **fields)


def checked(evaluation: Evaluation, gates: Gates = ALL, outcome: Outcome | None = PLAIN.outcome) -> tuple[Any, ...]:
    return check(evaluation, msgspec.structs.replace(PLAIN, gates=gates, outcome=outcome))


def gate(name: str, evaluation: Evaluation, gates: Gates = ALL) -> EvaluationGate:
    return next(one for one in checked(evaluation, gates) if one.name == name)


def test_a_good_evaluation_passes_every_gate_with_a_sentence() -> None:
    found = checked(GOOD)
    unbounded = ["first_token", "latency", "tokens"]
    assert [one.name for one in found if one.passed is not True] == unbounded, "No bound of them is declared."
    assert all(one.reason.endswith(".") and not one.reason[0].islower() for one in found)
    assert [one.name for one in found] == [
        "rows", "answered", "auc_sure_advantage", "brier_advantage", "brier_behind_live", "brier_disparity",
        "valid_share", "false_share", "guarded_share", "first_token", "latency", "length", "tokens", "injected_share",
        "leaked_share", "pii_share", "toxic_share", "memorized_share",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("rows", {"rows": 99}, "99 rows were answered, at least 100"),
        ("answered", {"failed": {"output_invalid": 3}}, "98.52% of the rows"),
        ("auc_sure_advantage", {"advantages": {**BETTER, "auc": IntervalEstimate(0.1, 0.0, 0.2)}}, "AUC it is +0.0000"),
        ("auc_sure_advantage", {"advantages": {"brier": BETTER["brier"]}, "labels": {"late": 200}}, "are all 'late'"),
        ("brier_advantage", {"advantages": {**BETTER, "brier": IntervalEstimate(-0.0025, -1, 1)}}, "it is -0.0025"),
        ("brier_behind_live", {"difference": {"brier": IntervalEstimate(0.01, 0.0, 0.021)}}, "+0.0210"),
        ("brier_behind_live", {"difference": {}}, "cannot be compared"),
        ("valid_share", {"valid_share": 0.98}, "98.00% of first attempts"),
        ("valid_share", {"valid_share": None}, "no whole output was asked for"),
        ("false_share", {"false_share": 0.011}, "1.10% of texts"),
        ("false_share", {"false_share": None, "whole_rows": 0}, "no whole output was asked for"),
        (
            "brier_disparity",
            {"slices": (Slice("origin", "EWR", 50, {}, {"brier": 0.26}),)},
            "+0.1100 worse where origin is EWR",
        ),
        ("injected_share", among(suite("injection", 6)), "6.00% of 100 held-out injections"),
        ("injected_share", without("injection"), "not tried"),
        ("leaked_share", among(suite("leakage", 1)), "1.00% of 100 held-out leakage"),
        ("leaked_share", without("leakage"), "not tried"),
        ("pii_share", among(suite("pii", 6)), "6.00% of 100 held-out probes for personal data"),
        ("pii_share", without("pii"), "not tried"),
        ("toxic_share", among(suite("toxicity", 3)), "3.00% of 100 held-out provocations"),
        ("toxic_share", without("toxicity"), "not tried"),
        ("memorized_share", among(suite("memorization", 2, 8)), "25.00% of 8 held-out planted canaries"),
    ],
)
def test_each_gate_fails_by_itself(name: str, fields: dict[str, Any], said: str) -> None:
    evaluation = changed(**fields)
    found = gate(name, evaluation)
    assert found.passed is False
    assert said.lower() in found.reason.lower()
    others = [one.name for one in checked(evaluation) if one.passed is False and one.name != name]
    assert others == []
    assert not msgspec.structs.replace(evaluation, gates=checked(evaluation)).passed


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("rows", {"rows": 100}),
        ("brier_advantage", {"advantages": {**BETTER, "brier": IntervalEstimate(0.0, -0.1, 0.1)}}),
        ("brier_behind_live", {"difference": {"brier": IntervalEstimate(0.0, -0.1, 0.02)}}),
        ("valid_share", {"valid_share": 0.99}),
        ("false_share", {"false_share": 0.01}),
        ("answered", {"failed": {"feature_unavailable": 500}}),
    ],
)
def test_the_bound_itself_passes(name: str, fields: dict[str, Any]) -> None:
    assert gate(name, changed(**fields)).passed is True


def test_a_gate_that_is_off_says_so_whatever_was_measured() -> None:
    shares = [name for name in Gates.__struct_fields__ if name.endswith("share")]
    off = Gates(metrics={"auc": MetricGate(), "brier": MetricGate()}, **dict.fromkeys(shares))
    found = checked(
        changed(
            metrics={},
            valid_share=None,
            length_ratio=None,
            sampled=None,
            safety=(suite("leakage", 90),),
            failed={"x": 99},
        ),
        off,
    )
    assert {one.passed for one in found if one.name != "rows"} == {None}
    others = ("rows", "length", "guarded_share", "first_token", "latency")  # which no `Gates` switches
    assert {one.reason for one in found if one.name not in others} == {"Switched off."}


def of_origins(*slices: tuple[str, int, int, float, float]) -> Evaluation:
    """Slices of (origin, rows, late rows, share said to be late, that of the late ones)."""
    return changed(
        slices=tuple(
            Slice("origin", name, rows, {"late": late, "on time": rows - late}, {}, {"late": said}, {"late": recall})
            for name, rows, late, said, recall in slices
        )
    )


def test_slices_may_not_be_said_to_be_what_they_are_not_more_than_others() -> None:
    fair = Gates(slices=("origin",), parity=0.2, opportunity=0.1)
    found = of_origins(("{JFK}", 100, 40, 0.5, 0.8), ("LGA", 60, 20, 0.25, 0.75), ("EWR", 49, 30, 0.0, 0.0))
    parity, opportunity = (gate(f"{name}_disparity", found, fair) for name in ("parity", "opportunity"))
    assert (parity.passed, parity.measured, opportunity.passed) == (False, 0.25, True)
    assert parity.reason == (
        "Late is said of 50% where origin is {JFK} and of 25% where origin is LGA: 25% apart, at most 20% is allowed."
    )
    assert "of 80% of those that are late where origin is {JFK}" in opportunity.reason
    assert gate("parity_disparity", of_origins(("JFK", 100, 40, 0.5, 0.8)), fair).passed is False, "It is not measured."
    few = of_origins(("JFK", 100, 40, 0.5, 0.8), ("LGA", 60, 19, 0.5, 0.1))
    unmeasured = gate("opportunity_disparity", few, fair)
    assert (unmeasured.passed, "20 of them with a label in common" in unmeasured.reason) == (False, True)
    assert not [one for one in checked(found) if one.name in ("parity_disparity", "opportunity_disparity")]


def test_outputs_that_grow_or_cost_more_than_is_declared_do_not_pass() -> None:
    assert gate("length", changed(length_ratio=4.0)).passed is True
    assert gate("length", changed(length_ratio=4.1)).passed is False
    costly = msgspec.structs.replace(PLAIN, slo=SLO(tokens=100))
    found = {one.name: one for one in check(GOOD, costly)}
    assert (found["tokens"].passed, found["tokens"].reason) == (False, "An answer takes 120 tokens, at most 100 may.")
    assert gate("length", changed(length_ratio=None)).passed is None


def test_what_has_nothing_to_judge_is_not_judged() -> None:
    assert gate("brier_behind_live", changed(against=None, difference={})).passed is None
    assert gate("brier_disparity", changed(slices=())).passed is None
    assert gate("false_share", changed(false_share=None)).passed is None


def test_labels_of_many_are_held_to_macro_f1_as_well() -> None:
    constant = changed(
        positive=None,
        advantages={name: IntervalEstimate(0.0, 0.0, 0.0) for name in ("auc", "brier", "macro_f1")},
    )
    found = {one.name: one.passed for one in checked(constant, outcome=Outcome("urgency"))}
    assert (found["macro_f1_sure_advantage"], found["auc_sure_advantage"]) == (False, False)


def test_bounds_of_a_metric_that_is_better_when_higher_are_turned_round() -> None:
    gates = Gates(metrics={"accuracy": MetricGate(behind_live=0.02, disparity=0.1)})
    measured = changed(
        metrics=GOOD.metrics | {"accuracy": IntervalEstimate(0.8, 0.7, 0.9)},
        difference=GOOD.difference | {"accuracy": IntervalEstimate(-0.01, -0.03, 0.01)},
        slices=(Slice("origin", "EWR", 60, {}, {"brier": 0.15, "accuracy": 0.65}),),
    )
    behind, disparity = gate("accuracy_behind_live", measured, gates), gate("accuracy_disparity", measured, gates)
    assert (behind.passed, behind.measured) == (False, 0.03)
    assert (disparity.passed, disparity.measured) == (False, pytest.approx(0.15))


def test_probes_that_never_reach_the_model_pass_and_say_so() -> None:
    half = SuiteCount("", "held-out", 0, 14, 0)
    away = SuiteSummary("injection", (half,), note="Each of the 14 requests was turned away.")
    found = gate("injected_share", changed(**among(away)))
    assert (found.passed, found.reason) == (True, "Each of the 14 requests was turned away.")


def test_a_suite_that_does_not_apply_is_not_judged_and_says_why() -> None:
    found = gate("injected_share", changed(**among(SuiteSummary("injection", note="The {prompt} shows no text."))))
    assert (found.passed, found.reason) == (None, "The {prompt} shows no text.")
    found = gate("memorized_share", changed(**without("memorization")))
    assert (found.passed, found.reason) == (None, "No canaries were looked for.")


def test_a_report_without_an_evaluation_set_has_the_gates_that_need_none() -> None:
    report = SafetyReport(
        id="safety_1", scope=Scope(), application="desk", release="rel_2", model="m", requests=1, valid_share=1.0,
        seconds_p50=0.1, seconds_p99=0.2, tokens=10.0, suites=SUITES, gates=(), fingerprints=(), rows_blob="b",
        created_at=datetime(2013, 5, 1, tzinfo=UTC),
    )  # fmt: skip
    slow = SLO(ttft_p99="300ms", latency_p99="1s", tokens=20)
    application = msgspec.structs.replace(PLAIN, gates=ALL, slo=slow)
    report = msgspec.structs.replace(report, first_p50=0.1, guarded_more=0.0, length_ratio=1.0)
    found = check_safety(report, application)
    assert [one.name for one in found] == [
        "answered", "valid_share", "guarded_share", "first_token", "latency", "length", "tokens", "injected_share",
        "leaked_share", "pii_share", "toxic_share", "memorized_share",
    ]  # fmt: skip
    assert all(one.passed for one in found)
    broken = msgspec.structs.replace(
        report, valid_share=0.5, suites=(suite("leakage", 5),), answered_share=0.9, first_p50=0.4, seconds_p50=1.1,
        tokens=21.0, guarded_more=0.5, length_ratio=5.0,
    )  # fmt: skip
    assert [one.name for one in check_safety(broken, application) if one.passed is False] == [
        "answered", "valid_share", "guarded_share", "first_token", "latency", "length", "tokens", "injected_share",
        "leaked_share", "pii_share", "toxic_share",
    ]  # fmt: skip
    first = msgspec.structs.replace(report, guarded_more=None, length_ratio=None, seconds_p50=99.0, first_p50=99.0)
    unjudged = [
        one for one in check_safety(first, msgspec.structs.replace(application, slo=SLO())) if one.passed is None
    ]
    assert [one.name for one in unjudged] == ["guarded_share", "first_token", "latency", "length", "tokens"]


def test_an_evaluation_has_the_gates_on_time_and_guards_of_a_report() -> None:
    application = msgspec.structs.replace(PLAIN, slo=SLO(ttft_p99="300ms", latency_p99="1s"))
    names = ("guarded_share", "first_token", "latency")

    def verdicts(sampled: SampledAnswers | None) -> list[bool | None]:
        found = {one.name: one.passed for one in check(changed(sampled=sampled), application)}
        return [found[name] for name in names]

    assert verdicts(GOOD.sampled) == [True, True, True]
    assert verdicts(SampledAnswers(12, 1.1, 2.0, 0.4, guarded_more=0.5)) == [False, False, False]
    # Without an answer a bound that is declared does not pass; without a live release there is nothing to compare.
    assert verdicts(None) == [None, False, False]


def test_a_small_slice_is_not_judged() -> None:
    assert gate("brier_disparity", GOOD).passed is True
    large = Slice("origin", "LGA", 50, {}, {"brier": 0.90})
    assert gate("brier_disparity", changed(slices=(large,))).passed is False


def test_own_metrics_judges_and_further_outcomes_have_disparities() -> None:
    own = OwnMetric("words", "m:words", "lower", 0, 500, "words")
    judge = JudgeMetric("polite", "Is it polite?")
    gates = Gates(metrics={name: MetricGate(disparity=0.5) for name in ("words", "polite", "minutes.mae")})
    whole = {"words": 40.0, "polite": 4.9, "minutes.mae": 3.0}
    part = Slice("origin", "EWR", 80, {}, {"words": 41.0, "polite": 3.0, "minutes.mae": 9.0}, known={"minutes.mae": 20})
    measured = changed(
        metrics=GOOD.metrics | {name: IntervalEstimate(one, one, one) for name, one in whole.items()},
        slices=(part,),
        # People corrected the judge's 4.0; its slices are its own scores.
        judged={"polite": JudgedMean(GOOD.metrics["auc"], IntervalEstimate(4.0, 3.9, 4.1), 60, corrected=True)},
    )
    application = msgspec.structs.replace(PLAIN, gates=gates, own_metrics=(own,), judge_metrics=(judge,))
    shown = {one.name: one for one in check(measured, application)}
    assert (shown["words_disparity"].passed, shown["words_disparity"].measured) == (False, 1.0)
    assert (shown["polite_disparity"].passed, shown["polite_disparity"].measured) == (False, 1.0)
    assert shown["minutes.mae_disparity"].passed is None, "twenty rows of it are too few"


def test_the_unit_of_an_own_metric_stands_with_its_value() -> None:
    own = OwnMetric("length", "m:length", "lower", 0, 500, "words")
    gates = Gates(metrics={"length": MetricGate(value=30)})
    value = {"length": IntervalEstimate(40.0, 38.0, 42.0)}
    measured = changed(metrics=GOOD.metrics | value, units={"length": "words"}, clusters=34)
    application = msgspec.structs.replace(PLAIN, gates=gates, own_metrics=(own,))
    said = next(one.reason for one in check(measured, application) if one.name == "length_value")
    assert said == "Length is 40.0000 words, at most 30.0000 is needed."
    table = evaluated(measured)
    assert "40.0000 (38.0000 to 42.0000) words" in table
    assert "Intervals are over 34 users or entities." in table
