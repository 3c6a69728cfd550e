"""Declared fine-tuning held against the outcomes and the output: labels, numbers, texts, candidates."""

from __future__ import annotations

from typing import Any

import pytest

from antiphon import Application, Candidates, FineTune, Gates, Outcome, Preferences, Prompt
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
        (None, None, {}),
        (None, OUTPUT, {"preferences": Preferences(beta=0.5, batch=4)}),
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
        (None, OUTPUT, {"targets": {"reply": "Yes."}}, "without an outcome nothing is written"),
        (None, None, {"preferences": Preferences(beta=0)}, "model.preferences.beta is 0; it must be from 0.001"),
        (None, None, {"preferences": Preferences(batch=0)}, "model.preferences.batch is 0"),
    ],
)
def test_what_cannot(outcome: Any, output: dict[str, Any] | None, tune: dict[str, Any], said: str) -> None:
    (found,) = mistakes(outcome, output, **tune)
    assert said in found


@pytest.mark.parametrize(
    ("outcome", "gates", "said"),
    [
        (Outcome("urgency"), Gates(slices=("customer",), parity=0.2, opportunity=0.1), None),
        (Outcome("urgency"), Gates(slices=("customer",), parity=1.2), "gates.parity is 1.2; it must be from 0 to 1"),
        (Outcome("urgency"), Gates(opportunity=0.1), "gates.opportunity compares what slices are said to be"),
        (Outcome("minutes"), Gates(slices=("customer",), parity=0.1), "gates.parity compares what slices"),
    ],
)
def test_fairness_is_of_labels_and_slices(outcome: Outcome, gates: Gates, said: str | None) -> None:
    application = Application(
        "tickets", purpose="support", features=[], prompt=Prompt("{{ question }}"), output=OUTPUT, outcome=outcome,
        model="tiny", gates=gates,
    )  # fmt: skip
    found = list(learning_mistakes(application, ("customer",)))
    assert found == [] if said is None else any(said in one for one in found)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"delay": "2h"}, None),
        ({"delay": "7d", "window": "7d"}, None),
        ({"delay": "7d"}, "outcome[0].delay 7d is longer than the window, 24h"),
        ({"delay": "two hours"}, "outcome[0].delay: 'two hours' is not a duration"),
        ({"delay": ""}, "outcome[0].delay: '' is not a duration"),
        ({"delay": 2}, "Expected `str`, got `int` - at `$.delay`"),
    ],
)
def test_a_delay_is_a_duration_within_the_window(given: dict[str, Any], said: str | None) -> None:
    found = mistakes((Outcome("urgency", **given), *ALL[1:]))
    assert bool(found) == (said is not None)
    assert said is None or said in found[0]
