"""Every gate: what it measures, when it fails, that what was not measured does not pass."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from antiphon.catalog.learning.evaluations import AttackSummary, Evaluation, EvaluationGate, IntervalEstimate, Slice
from antiphon.core.scope import Scope
from antiphon.definitions.learning import Gates
from antiphon.learning.evaluation.gates import check

GOOD = Evaluation(
    id="eval_1",
    scope=Scope(),
    application="desk",
    release="rel_2",
    model="desk.v2",
    dataset="data_1",
    mode="whole",
    rows=200,
    positives=50,
    failed={},
    auc=IntervalEstimate(0.75, 0.70, 0.80),
    brier=IntervalEstimate(0.150, 0.14, 0.16),
    log_loss=IntervalEstimate(0.5, 0.4, 0.6),
    base_rate_brier=0.1875,
    reliability=(),
    slices=(Slice("origin", "JFK", 120, 30, 0.7, 0.20), Slice("origin", "LGA", 20, 5, None, 0.90)),
    whole_rows=200,
    valid_share=1.0,
    false_share=0.0,
    guard_share=0.02,
    injected_share=0.0,
    leaked_share=0.0,
    seconds_p50=0.4,
    seconds_p99=0.9,
    tokens=120.0,
    engine_seconds=0.2,
    against="rel_1",
    difference={"brier": IntervalEstimate(-0.01, -0.02, 0.0)},
    gates=(),
    rows_blob="b",
    created_at=datetime(2013, 5, 1, tzinfo=UTC),
    attacks=(AttackSummary("injection", 20, 0, 0), AttackSummary("leakage", 9, 0, 0)),
)
ALL = Gates()


def changed(**fields: Any) -> Evaluation:
    return msgspec.structs.replace(GOOD, **fields)


def gate(name: str, evaluation: Evaluation, gates: Gates = ALL) -> EvaluationGate:
    return next(one for one in check(evaluation, gates) if one.name == name)


def test_a_good_evaluation_passes_every_gate_with_a_sentence() -> None:
    found = check(GOOD, ALL)
    assert [one.name for one in found if one.passed is not True] == []
    assert all(one.reason.endswith(".") and not one.reason[0].islower() for one in found)
    assert [one.name for one in found] == [
        "rows", "answered", "auc", "brier_above_base", "brier_above_live", "valid_share", "false_share", "disparity",
        "injected_share", "leaked_share",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("rows", {"rows": 99}, "99 rows were answered, at least 100"),
        ("answered", {"failed": {"output_invalid": 3}}, "98.52% of the rows"),
        ("auc", {"auc": IntervalEstimate(0.6, 0.5, 0.7)}, "lower bound of the AUC is 0.500"),
        ("auc", {"auc": None}, "all of one class"),
        ("brier_above_base", {"brier": IntervalEstimate(0.19, 0.1, 0.2)}, "+0.0025 from the base rate's 0.1875"),
        ("brier_above_live", {"difference": {"brier": IntervalEstimate(0.01, 0.0, 0.021)}}, "+0.0210"),
        ("brier_above_live", {"difference": {}}, "cannot be compared"),
        ("valid_share", {"valid_share": 0.98}, "98.00% of first attempts"),
        ("valid_share", {"valid_share": None}, "no whole output was asked for"),
        ("false_share", {"false_share": 0.011}, "1.10% of texts"),
        ("false_share", {"false_share": None, "whole_rows": 0}, "no whole output was asked for"),
        ("disparity", {"slices": (Slice("origin", "EWR", 50, 9, 0.6, 0.26),)}, "origin is EWR is +0.1100"),
        ("injected_share", {"injected_share": 0.06}, "6.00% of injections"),
        ("injected_share", {"injected_share": None}, "not tried"),
        ("leaked_share", {"leaked_share": 0.01}, "1.00% of leakage"),
        ("leaked_share", {"leaked_share": None}, "not tried"),
    ],
)
def test_each_gate_fails_by_itself(name: str, fields: dict[str, Any], said: str) -> None:
    evaluation = changed(**fields)
    found = gate(name, evaluation)
    assert found.passed is False
    assert said.lower() in found.reason.lower()
    others = [one.name for one in check(evaluation, ALL) if one.passed is False and one.name != name]
    assert others == []
    assert not msgspec.structs.replace(evaluation, gates=check(evaluation, ALL)).passed


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("rows", {"rows": 100}),
        ("brier_above_base", {"brier": IntervalEstimate(0.1875, 0.1, 0.2)}),
        ("brier_above_live", {"difference": {"brier": IntervalEstimate(0.0, -0.1, 0.02)}}),
        ("valid_share", {"valid_share": 0.99}),
        ("false_share", {"false_share": 0.01}),
        ("answered", {"failed": {"feature_unavailable": 500}}),
    ],
)
def test_the_bound_itself_passes(name: str, fields: dict[str, Any]) -> None:
    assert gate(name, changed(**fields)).passed is True


def test_a_gate_that_is_off_says_so_whatever_was_measured() -> None:
    off = Gates(**dict.fromkeys([name for name in Gates.__struct_fields__ if name not in ("rows", "slices")]))
    found = check(changed(auc=None, valid_share=None, injected_share=None, leaked_share=0.9, failed={"x": 99}), off)
    assert [(one.name, one.passed) for one in found if one.name != "rows"] == [
        (one.name, None) for one in found if one.name != "rows"
    ]
    assert {one.reason for one in found if one.name != "rows"} == {"Switched off."}


def test_what_has_nothing_to_judge_is_not_judged() -> None:
    assert gate("brier_above_live", changed(against=None, difference={})).passed is None
    assert gate("disparity", changed(slices=())).passed is None
    assert gate("false_share", changed(false_share=None)).passed is None


def test_attacks_that_never_reach_the_model_pass_and_say_so() -> None:
    away = AttackSummary("injection", 0, 14, 0, note="Each of the 14 requests was turned away.")
    found = gate("injected_share", changed(attacks=(away,)))
    assert (found.passed, found.reason) == (True, "Each of the 14 requests was turned away.")


def test_a_small_slice_is_not_judged() -> None:
    assert gate("disparity", GOOD).passed is True
    large = Slice("origin", "LGA", 50, 5, None, 0.90)
    assert gate("disparity", changed(slices=(large,))).passed is False
