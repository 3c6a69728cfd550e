"""Declared fine-tuning held against the outcomes and the output: labels, numbers, texts, candidates."""

from __future__ import annotations

from typing import Any

import pytest

from antiphon import Application, Candidates, FineTune, Outcome, Prompt
from antiphon.definitions.learning_check import learning_mistakes

OUTPUT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "urgency": {"type": "string", "enum": ["low", "urgent"]},
        "minutes": {"type": "integer", "minimum": 0, "maximum": 240},
        "reply": {"type": "string"},
    },
}


def mistakes(outcome: Any, output: dict[str, Any] | None = OUTPUT, **tune: Any) -> list[str]:
    application = Application(
        "tickets", purpose="support", features=[], prompt=Prompt("{{ question }}"), output=output, outcome=outcome,
        model=FineTune(base="tiny", **tune),
    )  # fmt: skip
    return list(learning_mistakes(application, ()))


ALL = (Outcome("urgency"), Outcome("minutes"), Outcome("reply"))


@pytest.mark.parametrize(
    ("outcome", "output", "tune"),
    [
        (Outcome(), None, {}),
        (Outcome(), OUTPUT, {}),
        (ALL, OUTPUT, {}),
        (ALL[::-1], OUTPUT, {}),
        (ALL[:2], OUTPUT, {"targets": {"reply": "It is {{ label }}."}}),
        (ALL, OUTPUT, {"targets": {"reply": "It is {{ label }}."}}),
        (Outcome(), None, {"candidates": Candidates({"rank": (8, 16), "learning_rate": (1e-3, 5e-4)}, "20m", 0.3)}),
    ],
)
def test_what_can_be_learned(outcome: Any, output: dict[str, Any] | None, tune: dict[str, Any]) -> None:
    assert mistakes(outcome, output, **tune) == []


@pytest.mark.parametrize(
    ("outcome", "output", "tune", "said"),
    [
        (ALL[:2], OUTPUT, {}, "model.targets lacks 'reply'"),
        (ALL, OUTPUT, {"targets": {"urgency": "low"}}, "'urgency' is no property beside the outcome's"),
        (Outcome(), None, {"targets": {"reply": "Yes."}}, "'reply' is no property"),
        (Outcome(), None, {"candidates": Candidates({"base": (1,)})}, "'base' cannot be tried"),
        (Outcome(), None, {"candidates": Candidates({"epochs": (0,)})}, "epochs is 0; it must be from 0.01"),
        (Outcome(), None, {"candidates": Candidates({"rank": (8,)}, held_out=0.9)}, "held_out is 0.9"),
        (Outcome(), None, {"candidates": Candidates({"rank": (8,)}, budget="long")}, "candidates.budget"),
    ],
)
def test_what_cannot(outcome: Any, output: dict[str, Any] | None, tune: dict[str, Any], said: str) -> None:
    (found,) = mistakes(outcome, output, **tune)
    assert said in found
