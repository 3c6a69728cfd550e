from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from tests.unit.catalog.examples import DEV, NOON, OTHER
from tests.unit.learning.evaluation.test_gates import GOOD

from antiphon.catalog.database import Database
from antiphon.catalog.learning.evaluations import Evaluation, EvaluationGate, Evaluations
from antiphon.core.errors import ConflictError, NotFoundError
from antiphon.core.scope import Scope


def evaluation(name: str, minutes: int = 0, **fields: Any) -> Evaluation:
    given = {field: getattr(GOOD, field) for field in GOOD.__struct_fields__}
    return Evaluation(**(given | {"id": name, "scope": DEV, "created_at": NOON + timedelta(minutes=minutes)} | fields))


def test_an_evaluation_comes_back_as_it_was(database: Database) -> None:
    evaluations = Evaluations(database)
    made = evaluation("eval_1", gates=(EvaluationGate("auc", False, 0.4, 0.5, "Too low."),))
    assert evaluations.add(made) == evaluations.get(DEV, "eval_1") == made
    assert not made.passed
    assert evaluations.add(made) == made
    assert evaluations.list(DEV) == [made]
    with pytest.raises(NotFoundError, match="eval_1"):
        evaluations.get(OTHER, "eval_1")


def test_an_id_is_of_one_evaluation(database: Database) -> None:
    evaluations = Evaluations(database)
    evaluations.add(evaluation("eval_1"))
    with pytest.raises(ConflictError, match="another one"):
        evaluations.add(evaluation("eval_1", rows=7))
    assert evaluations.get(DEV, "eval_1").rows == GOOD.rows


def test_lists_and_the_latest(database: Database) -> None:
    evaluations = Evaluations(database)
    for name, minutes, release, dataset in (
        ("eval_1", 0, "rel_1", "data_1"),
        ("eval_2", 2, "rel_1", "data_2"),
        ("eval_3", 1, "rel_1", "data_1"),
        ("eval_4", 3, "rel_2", "data_1"),
    ):
        evaluations.add(evaluation(name, minutes, release=release, dataset=dataset))
    evaluations.add(evaluation("eval_1", scope=Scope("other", "dev")))
    evaluations.add(evaluation("eval_5", application="other"))
    assert [one.id for one in evaluations.list(DEV, "desk")] == ["eval_4", "eval_2", "eval_3", "eval_1"]
    assert [one.id for one in evaluations.list(DEV, "desk", limit=2)] == ["eval_4", "eval_2"]
    assert [one.id for one in evaluations.list(DEV, release="rel_1")] == ["eval_2", "eval_3", "eval_1"]
    latest = evaluations.latest(DEV, "rel_1")
    assert latest is not None
    assert latest.id == "eval_2"
    latest = evaluations.latest(DEV, "rel_1", "data_1")
    assert latest is not None
    assert latest.id == "eval_3"
    assert evaluations.latest(DEV, "rel_9") is None
