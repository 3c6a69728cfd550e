from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.integration.learning.tried_desk import TRIAGE
from tests.unit.catalog.examples import DEV, NOON
from tests.unit.learning.workbench.test_agreement import said

from antiphon.catalog.learning.outcomes import OutcomeKind, OutcomeRecord
from antiphon.catalog.learning.regressions import Expectation
from antiphon.catalog.serving.receipt import GuardReceipt
from antiphon.core.errors import InvalidInputError
from antiphon.definitions.learning import Outcome
from antiphon.definitions.own_metrics import JudgeMetric, OwnMetric
from antiphon.learning.evaluation.scorer import AnswerScores
from antiphon.learning.workbench.expectations import CaseAnswer, check_expectation, in_words, suggested, unmet

URGENT = '{"urgency": "urgent", "summary": "A fire."}'


def fails(expected: Expectation, text: str = URGENT, first: str | None = None, *guards: GuardReceipt) -> bool:
    answer = CaseAnswer(text, text if first is None else first, guards)
    found = unmet([expected], answer, TRIAGE)
    assert all(one.startswith("expected ") for one in found)
    return bool(found)


@pytest.mark.parametrize(
    ("expected", "met", "not_met"),
    [
        (Expectation("text", URGENT), '{"summary": "A fire.", "urgency": "urgent"}', '{"urgency": "low"}'),
        (Expectation("not_text", URGENT), "{}", f" {URGENT}\n"),
        (Expectation("contains", "FIRE"), URGENT, "water"),
        (Expectation("lacks", "fire"), "water", URGENT),
        (Expectation("label", "urgent", "urgency"), URGENT, '{"urgency": "low"}'),
        (Expectation("label", "urgent", "urgency"), URGENT, "no document"),
        (Expectation("label", "urgent", "urgency"), URGENT, "[]"),
        (Expectation("label", "true", "open"), '{"open": true}', '{"open": false}'),
    ],
)
def test_an_expectation_is_met_or_not(expected: Expectation, met: str, not_met: str) -> None:
    assert not fails(expected, met)
    assert fails(expected, not_met)
    assert in_words(expected)


def test_schema_and_guards_are_of_the_first_attempt() -> None:
    assert not fails(Expectation("schema"), URGENT, URGENT)
    assert fails(Expectation("schema"), URGENT, '{"urgency": "late"}')
    acted = GuardReceipt("figures", "retry", "states 9")
    assert fails(Expectation("guard"), URGENT, None, acted)
    assert fails(Expectation("guard", "figures"), URGENT, None, acted)
    assert not fails(Expectation("guard", "pii"), URGENT, None, acted)
    assert not fails(Expectation("guard"), URGENT, None, GuardReceipt("figures", "pass"))


@pytest.mark.parametrize(
    "expected",
    [
        Expectation("label", "late", "urgency"), Expectation("label", "urgent", "mood"), Expectation("guard", "pii"),
        Expectation("text"), Expectation("contains", " "), Expectation("lacks", "x" * 20_001),
    ],
)  # fmt: skip
def test_what_no_answer_could_show_is_refused(expected: Expectation) -> None:
    with pytest.raises(InvalidInputError):
        check_expectation(expected, TRIAGE)


MEASURED = msgspec.structs.replace(
    TRIAGE,
    own_metrics=(OwnMetric("politeness", "module:function"), OwnMetric("words", "module:words", low=0, high=500)),
    judge_metrics=(JudgeMetric("helpful", "Does it help?"),),
)


def test_a_metric_is_at_least_or_at_most() -> None:
    polite, short = Expectation("metric", "at least 0.8", "politeness"), Expectation("metric", "at most 40", "words")
    for one in (polite, short, Expectation("metric", "at least 4.5", "helpful")):
        check_expectation(one, MEASURED)
    assert in_words(polite) == "politeness is at least 0.8"

    def said(values: dict[str, float], failed: dict[str, str] | None = None) -> tuple[str, ...]:
        return unmet([polite, short], CaseAnswer(URGENT, URGENT, scores=AnswerScores(values, failed or {})), MEASURED)

    assert said({"politeness": 0.8, "words": 40.0}) == ()
    assert said({"politeness": 0.79, "words": 41.0}) == (
        "expected politeness is at least 0.8, it is 0.79", "expected words is at most 40, it is 41",
    )  # fmt: skip
    assert said({"politeness": 1.0}, {"words": "raised ValueError: x"}) == (
        "expected words is at most 40, but it has no value: raised ValueError: x",
    )
    assert said({"words": 1.0})[0].endswith("the release declares no such metric")


@pytest.mark.parametrize(
    ("value", "name", "words"),
    [
        ("at least 0.8", "kindness", "It declares politeness, words, helpful"),
        ("at least 1.2", "politeness", "go from 0 to 1"), ("at least 0.5", "helpful", "go from 1 to 5"),
        ("at least nan", "politeness", "is no bound"), (">= 0.8", "politeness", "is no bound"),
        ("", "politeness", "is no bound"), ("at least x", "words", "is no bound"),
    ],
)  # fmt: skip
def test_a_bound_that_no_answer_could_keep_is_refused(value: str, name: str, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        check_expectation(Expectation("metric", value, name), MEASURED)


def outcome(kind: OutcomeKind, value: str, **fields: Any) -> OutcomeRecord:
    return OutcomeRecord(f"out_{kind}_{value}", DEV, "triage", kind, "joined", value, NOON, NOON, **fields)


def test_what_is_known_of_a_prediction_suggests_what_to_expect() -> None:
    learns = msgspec.structs.replace(TRIAGE, outcome=Outcome("urgency"))
    down = outcome("thumbs", "down")
    assert suggested(URGENT, TRIAGE, [], []) == ()
    assert suggested(URGENT, TRIAGE, [outcome("thumbs", "up")], []) == ()
    assert suggested(URGENT, TRIAGE, [down], []) == (Expectation("not_text", URGENT),)
    assert suggested(URGENT, learns, [down, outcome("label", "low", outcome="urgency")], []) == (
        Expectation("label", "low", "urgency"),
    )
    assert suggested(URGENT, TRIAGE, [outcome("correction", "So.")], []) == (Expectation("text", "So."),)
    two = [said("p", "ada", "So.", "correction", ""), said("p", "bob", "Or so.", "correction", "")]
    assert suggested(URGENT, TRIAGE, [], two) == (Expectation("not_text", URGENT),), "they contradict each other"
    labels = [said("p", "ada", "low"), said("p", "bob", "urgent")]
    assert suggested(URGENT, TRIAGE, [], labels) == ()
    assert suggested(URGENT, TRIAGE, [], labels[:1]) == (Expectation("label", "low", "urgency"),)
