"""Trials, annotations and regression sets on both databases, in plaintext and encrypted."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from tests.catalogs import stored_bytes
from tests.harness.small_desk import DESK
from tests.unit.catalog.examples import DEV, NOON, OTHER
from tests.unit.governance.encryption.test_sealing import Keys
from tests.unit.learning.workbench.test_agreement import said

from antiphon.catalog.database import Database
from antiphon.catalog.learning.annotations import Annotations
from antiphon.catalog.learning.evaluations import Evaluations
from antiphon.catalog.learning.regressions import (
    CaseVerdict,
    Expectation,
    RegressionCase,
    RegressionRun,
    RegressionSets,
)
from antiphon.catalog.learning.trials import AnswerFigures, Trial, TrialAnswer, Trials
from antiphon.catalog.releases.releases import Bundle, ModelPin
from antiphon.core.codec import Codec, PlainCodec
from antiphon.core.errors import InvalidInputError, NotFoundError
from antiphon.governance.encryption.sealing import AesGcmCodec

CODECS = pytest.mark.parametrize("codec", [PlainCodec(), AesGcmCodec(Keys())], ids=["plaintext", "encrypted"])


def trial(name: str, minutes: int = 0, **fields: Any) -> Trial:
    answer = TrialAnswer("p1", AnswerFigures("p1"), AnswerFigures("p2", valid=True), True)
    bundle = Bundle(DESK, ModelPin("tiny", None), "digest")
    given: dict[str, Any] = {
        "id": name, "scope": DEV, "application": "desk", "release": "draft_1", "prompt": "abc", "bundle": bundle,
        "answers": (answer,), "sample": "1 by seed 0", "erased": 0, "author": "ada",
        "created_at": NOON + timedelta(minutes=minutes),
    }  # fmt: skip
    return Trial(**(given | fields))


def case(name: str, **fields: Any) -> RegressionCase:
    given: dict[str, Any] = {
        "id": name, "scope": DEV, "regression_set": "complaints", "application": "desk", "author": "ada",
        "expect": (Expectation("contains", "planted"),), "created_at": NOON, "prediction": "p1",
        "question": "a planted question", "entity": {"flight": "B6 1"}, "inputs": {"n": 1},
    }  # fmt: skip
    return RegressionCase(**(given | fields))


def test_a_trial_comes_back_as_it_was_in_the_place_of_its_answers(database: Database) -> None:
    trials, evaluations = Trials(database), Evaluations(database)
    evaluations.keep_answer(DEV, "trial_1", "a", 1)
    made = trials.add(trial("trial_1"))
    assert trials.add(trial("trial_1", minutes=9)) == made, "the first of two that made the same one counts"
    assert evaluations.answers(DEV, "trial_1") == {}
    later = trials.add(trial("trial_2", minutes=5, release="rel_1"))
    assert trials.list(DEV, "desk") == [later, made]
    assert trials.list(DEV, release="rel_1") == [later]
    assert trials.list(OTHER) == []
    assert made.identical == 1
    with pytest.raises(NotFoundError, match="trial_1"):
        trials.get(OTHER, "trial_1")


@CODECS
def test_an_annotator_has_one_say(database: Database, codec: Codec) -> None:
    database.codec = codec
    annotations = Annotations(database)
    annotations.put(said("p1", "ada", "low"))
    bob = annotations.put(said("p1", "bob", "planted-label"))
    changed = annotations.put(
        msgspec.structs.replace(said("p1", "ada", "urgent"), created_at=NOON + timedelta(hours=1))
    )
    assert annotations.of_predictions(DEV, ["p1", "p1", "p2"]) == [bob, changed]
    assert annotations.list(DEV, "triage") == [changed, bob]
    assert annotations.list(DEV, "other") == annotations.list(OTHER) == []
    assert (b"planted-label" in stored_bytes(database)) == isinstance(codec, PlainCodec)
    assert annotations.remove(DEV, bob.id)
    assert not annotations.remove(DEV, bob.id)


@CODECS
def test_sets_grow_by_versions_and_an_erased_case_leaves_a_hole(database: Database, codec: Codec) -> None:
    database.codec = codec
    sets = RegressionSets(database)
    with pytest.raises(NotFoundError):
        sets.version(DEV, "complaints")
    first = sets.add_cases(DEV, "complaints", [(case("case_1"), "visible")], author="ada", reason="began")
    second = sets.add_cases(DEV, "complaints", [(case("case_2"), "held-out")], author="bob", reason="more")
    again = sets.add_cases(DEV, "complaints", [(case("case_2"), "held-out")], author="bob", reason="again")
    assert (first.version, second.version, again) == (1, 2, second)
    assert sets.version(DEV, "complaints") == second
    assert sets.version(DEV, "complaints", 1) == first
    assert sets.cases(second, "held-out") == {"case_2": case("case_2")}
    assert sets.names(DEV) == ["complaints"]
    assert sets.names(DEV, "other") == sets.names(OTHER) == []
    assert [one.id for one in sets.of_prediction(DEV, "p1")] == ["case_1", "case_2"]
    assert (b"a planted question" in stored_bytes(database)) == isinstance(codec, PlainCodec)
    other = case("case_3", application="triage")
    with pytest.raises(InvalidInputError, match="is of the application desk"):
        sets.add_cases(DEV, "complaints", [(other, "visible")], author="ada", reason="wrong")
    assert sets.version(DEV, "complaints") == second, "nothing of it was added"
    with pytest.raises(InvalidInputError, match="no case"):
        sets.add_cases(DEV, "complaints", [], author="ada", reason="none")

    third = sets.remove_case(DEV, "complaints", "case_1", author="ada", reason="gone", erase=True)
    assert (third.version, list(third.cases)) == (3, ["case_2"])
    assert sets.cases(second) == {"case_1": None, "case_2": case("case_2")}
    with pytest.raises(NotFoundError, match="case_1"):
        sets.remove_case(DEV, "complaints", "case_1", author="ada", reason="gone", erase=False)


def test_runs_are_found_by_set_version_and_release(database: Database) -> None:
    sets, evaluations = RegressionSets(database), Evaluations(database)
    results = (CaseVerdict("case_1", "visible", True), CaseVerdict("case_2", "held-out", False, ("why",)))

    def run(name: str, release: str, minutes: int, version: int = 1) -> RegressionRun:
        at = NOON + timedelta(minutes=minutes)
        return RegressionRun(name, DEV, "complaints", version, "desk", release, results, ("f",), "ada", at)

    evaluations.keep_answer(DEV, "regress_1", "a", 1)
    first = sets.add_run(run("regress_1", "rel_1", 0))
    assert sets.add_run(run("regress_1", "rel_1", 7)) == first
    second = sets.add_run(run("regress_2", "rel_1", 1, version=2))
    third = sets.add_run(run("regress_3", "rel_2", 2, version=2))
    assert evaluations.answers(DEV, "regress_1") == {}
    assert not first.passed
    assert sets.runs(DEV, "complaints") == [third, second, first]
    assert sets.runs(DEV, release="rel_1", version=2) == [second]
    assert sets.runs(DEV, "other") == sets.runs(OTHER) == []
    with pytest.raises(NotFoundError):
        sets.run(OTHER, "regress_1")
