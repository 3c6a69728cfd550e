"""The benchmark's parity and mutants in short: batch decides like online, and the default cases notice every mutant."""

from __future__ import annotations

import pytest
from benchmarks.governance import policy as governance

from antiphon.governance.policy import residual
from antiphon.governance.policy.document import PolicyDocument, default_document

CELLS, ROWS = 2_500, 20


def test_batch_decides_like_online() -> None:
    found = governance.parity(CELLS, 7, ROWS)
    assert found["disagreements"] == []
    assert found["predicate"] > CELLS / 3
    assert found["row"] > 0
    assert 0.05 < found["allowed"] / found["cells"] < 0.95
    assert found["outside"] > 0


def test_a_predicate_that_is_wrong_at_its_bounds_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(residual._COMPARED, "<=", "<")
    assert governance.parity(CELLS, 7, ROWS)["disagreements"] != []


def test_a_predicate_that_folds_case_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = residual._literal
    monkeypatch.setattr(residual, "_literal", lambda text: whole(text.lower()))
    assert governance.parity(CELLS // 5, 7, ROWS)["disagreements"] != []


def test_every_mutant_of_the_default_policies_is_noticed() -> None:
    found = governance.kill(default_document())
    assert found["survivors"] == []
    assert found["killed"] > 200


def test_a_suite_that_says_less_lets_mutants_live() -> None:
    document = default_document()
    fewer = tuple(case for case in document.cases if "clearance" not in (case.by or ()))
    survivors = governance.kill(PolicyDocument(document.cedar, cases=fewer))["survivors"]
    assert "clearance: dropped" in survivors


def test_conditions_that_fail_deny() -> None:
    assert governance.errors_deny()


def test_a_decision_is_cheap() -> None:
    spent = governance.cost(timed=300)
    assert spent["remembered"]["p50"] <= governance.CACHED_MICROSECONDS
    # Four times the promise: this machine may be busy. The benchmark holds the promise itself.
    assert spent["uncached"]["p50"] <= 4 * governance.UNCACHED_MICROSECONDS
