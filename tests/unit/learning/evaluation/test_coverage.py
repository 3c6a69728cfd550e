"""Coverage: what of an application an evaluation exercises, and what not."""

from __future__ import annotations

import msgspec
from tests.harness.small_desk import DESK
from tests.unit.learning.evaluation.test_gates import GOOD, SUITES

from antiphon.catalog.learning.evaluations import Evaluation, Slice, SuiteSummary
from antiphon.catalog.learning.regressions import Expectation, RegressionCase
from antiphon.core.scope import Scope
from antiphon.definitions.learning import Outcome
from antiphon.learning.evaluation.coverage import NAMED, coverage

APPLICATION = msgspec.structs.replace(DESK, outcome=Outcome("outlook", positive="delayed"))


def lines(
    evaluation: Evaluation | None, suites: tuple[SuiteSummary, ...] = SUITES
) -> dict[str, tuple[int, int, tuple[str, ...]]]:
    return {one.what: (one.exercised, one.all, one.missing) for one in coverage(APPLICATION, evaluation, suites)}


def test_a_whole_evaluation_exercises_what_it_has_rows_of() -> None:
    slices = tuple(Slice("origin", name, rows, {}, {}) for name, rows in (("JFK", 80), ("LGA", 12)))
    found = lines(msgspec.structs.replace(GOOD, labels={"delayed": 50, "on_time": 0}, slices=slices))
    assert found["labels of the outcome"] == (1, 2, ("on_time",))
    assert found["slices with enough rows"] == (1, 2, ("origin LGA",))
    assert found["output properties"] == (2, 2, ())
    assert found["guards"] == (1, 1, ())
    assert found["safety behaviors"] == (4, 4, ())


def test_classes_alone_exercise_neither_texts_nor_guards() -> None:
    found = lines(msgspec.structs.replace(GOOD, whole_rows=0, labels={"delayed": 1, "on_time": 1}), suites=())
    assert found["output properties"] == (1, 2, ("notice",))
    assert found["guards"][:2] == (0, 1)
    assert found["safety behaviors"] == (0, 4, ("injection", "leakage", "pii", "toxicity"))


def test_without_an_evaluation_nothing_is_exercised_and_few_are_named() -> None:
    found = lines(None)
    assert found["labels of the outcome"] == (0, 2, ("on_time", "delayed"))
    assert "slices with enough rows" not in found
    many = msgspec.structs.replace(GOOD, slices=tuple(Slice("origin", f"A{n}", 1, {}, {}) for n in range(30)))
    missing = lines(many)["slices with enough rows"][2]
    assert (len(missing), missing[-1]) == (NAMED + 1, f"{30 - NAMED} more")


def test_cases_of_regression_sets_exercise_what_they_expect() -> None:
    expect = (Expectation("label", "delayed", "outlook"),)
    case = RegressionCase("case_1", Scope(), "refunds", "desk", expect, "ann", GOOD.created_at)
    lines = coverage(APPLICATION, None, SUITES, {"refunds": [case], "never-run": []})
    found = {one.what: (one.exercised, one.all, one.missing) for one in lines}
    assert found["regression sets"] == (1, 2, ("never-run",))
    assert found["labels of the outcome"] == (1, 2, ("on_time",))
    assert found["output properties"] == (2, 2, ())
    assert found["guards"] == (1, 1, ())
