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
