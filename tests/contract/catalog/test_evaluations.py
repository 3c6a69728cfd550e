from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from tests.catalogs import stored_bytes
from tests.unit.catalog.examples import DEV, NOON, OTHER
from tests.unit.governance.encryption.test_sealing import Keys
from tests.unit.learning.evaluation.test_gates import GOOD

from antiphon.catalog import schema
from antiphon.catalog.database import Database
from antiphon.catalog.learning.evaluations import ABANDONED, Evaluation, EvaluationGate, Evaluations
from antiphon.catalog.learning.safety import SafetyReport, SafetyReports
from antiphon.core.clock import ManualClock
from antiphon.core.codec import Codec, PlainCodec
from antiphon.core.errors import ConflictError, NotFoundError
from antiphon.core.scope import Scope
from antiphon.governance.encryption.sealing import AesGcmCodec


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


def test_the_first_of_two_that_did_the_same_one_counts_for_both(database: Database) -> None:
    evaluations = Evaluations(database)
    first = evaluations.add(evaluation("eval_1"))
    assert evaluations.add(evaluation("eval_1", minutes=3, seconds_p50=9.0)) == first
    with pytest.raises(ConflictError, match=f"of {GOOD.release} on"):
        evaluations.add(evaluation("eval_1", dataset="data_9"))
    assert evaluations.list(DEV) == [first]


@pytest.mark.parametrize("codec", [PlainCodec(), AesGcmCodec(Keys())], ids=["plaintext", "encrypted"])
def test_answers_are_kept_until_their_evaluation_is_recorded(
    database: Database, clock: ManualClock, codec: Codec, caplog: pytest.LogCaptureFixture
) -> None:
    database.codec = codec
    evaluations = Evaluations(database)
    evaluations.keep_answer(DEV, "eval_0", "given up", 1)
    clock.advance(ABANDONED)
    evaluations.keep_answer(DEV, "eval_1", "a", {"text": "planted"})
    evaluations.keep_answer(DEV, "eval_1", "a", {"text": "second"})
    evaluations.keep_answer(DEV, "eval_1", "b", [1.5, None])
    evaluations.keep_answer(DEV, "eval_2", "a", 2)
    evaluations.keep_answer(OTHER, "eval_1", "a", 3)
    assert evaluations.answers(DEV, "eval_1") == {"a": {"text": "planted"}, "b": [1.5, None]}
    assert (b"planted" in stored_bytes(database)) is not codec.sealing
    with database.transaction() as connection:
        broken = sa.update(schema.evaluation_answers).values(answer=b"torn")
        connection.execute(
            broken.where(schema.owned(schema.evaluation_answers, DEV, evaluation="eval_1", question="b"))
        )
    assert evaluations.answers(DEV, "eval_1") == {"a": {"text": "planted"}}, "one that does not open is asked again"
    assert "asked for again" in caplog.text
    clock.advance(timedelta(seconds=1))
    evaluations.add(evaluation("eval_1"))
    evaluations.keep_answer(DEV, "eval_1", "late", 4)
    assert evaluations.answers(DEV, "eval_1") == {}
    assert evaluations.answers(DEV, "eval_0") == {}, "it was given up a month ago"
    assert (evaluations.answers(DEV, "eval_2"), evaluations.answers(OTHER, "eval_1")) == ({"a": 2}, {"a": 3})


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
    assert [one.id for one in evaluations.list(DEV, dataset="data_1", limit=2)] == ["eval_4", "eval_3"]
    latest = evaluations.latest(DEV, "rel_1")
    assert latest is not None
    assert latest.id == "eval_2"
    latest = evaluations.latest(DEV, "rel_1", "data_1")
    assert latest is not None
    assert latest.id == "eval_3"
    assert evaluations.latest(DEV, "rel_9") is None


def report(name: str, minutes: int = 0, **fields: Any) -> SafetyReport:
    given: dict[str, Any] = {
        "id": name, "scope": DEV, "application": "desk", "release": "rel_1", "model": "m", "requests": 2,
        "valid_share": 1.0, "seconds_p50": 0.1, "seconds_p99": 0.2, "tokens": 80.0, "suites": GOOD.safety,
        "gates": (EvaluationGate("leaked_share", False, 0.4, 0.0, "Too much."),), "fingerprints": ("f",),
        "rows_blob": "b", "created_at": NOON + timedelta(minutes=minutes),
    }  # fmt: skip
    return SafetyReport(**(given | fields))


@pytest.mark.parametrize("codec", [PlainCodec(), AesGcmCodec(Keys())], ids=["plaintext", "encrypted"])
def test_a_safety_report_comes_back_as_it_was_in_the_place_of_its_answers(database: Database, codec: Codec) -> None:
    database.codec = codec
    reports, evaluations = SafetyReports(database), Evaluations(database)
    evaluations.keep_answer(DEV, "safety_1", "a", 1)
    evaluations.keep_answer(DEV, "safety_2", "a", 2)
    made = reports.add(report("safety_1"))
    assert not made.passed
    assert reports.add(report("safety_1", minutes=9)) == made, "the first of two that made the same one counts"
    assert evaluations.answers(DEV, "safety_1") == {}
    assert evaluations.answers(DEV, "safety_2") == {"a": 2}
    later = reports.add(report("safety_2", minutes=5, gates=()))
    assert reports.list(DEV) == [later, made]
    assert (reports.latest(DEV, "rel_1"), reports.latest(DEV, "rel_2"), reports.latest(OTHER, "rel_1")) == (
        later, None, None,
    )  # fmt: skip
    with pytest.raises(NotFoundError, match="safety_1"):
        reports.get(OTHER, "safety_1")
    assert (b"Too much." in stored_bytes(database)) is not codec.sealing
