"""Outputs beside corrected ones, and that an output which ignores what is asked has no advantage."""

from __future__ import annotations

import json
import random

import pytest

from antiphon.core.errors import InvalidInputError
from antiphon.definitions.outcome_shape import OutcomeShape
from antiphon.learning.evaluation.fields import score_fields
from antiphon.learning.evaluation.metrics import advantages, read_rows

OUTPUT = OutcomeShape("output", "correction", None)
CITIES, COLORS = ("Bern", "Graz", "Lyon", "Porto", "Turku", "Wien"), ("red", "green", "blue", "black")


@pytest.mark.parametrize(
    ("said", "corrected", "f1", "match", "output"),
    [
        ({"a": 1, "b": "x"}, {"a": 1, "b": "x "}, 1.0, 1.0, 1.0),
        ({"a": 1, "b": "x"}, {"a": 1.0, "b": "y"}, 0.5, 0.5, 0.0),
        ({"a": 1}, {"a": True}, 0.0, 0.0, 0.0),
        ({"items": [1, 2]}, {"items": [2, 1]}, 1.0, 0.0, 0.0),
        ({"items": [1, 2, 2]}, {"items": [1, 2]}, 0.8, 0.0, 0.0),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, 0.5, 0.0, 0.0),
        ({}, {}, 1.0, 1.0, 1.0),
        ({"a": None}, {}, 0.0, 0.0, 0.0),
    ],
)
def test_fields_are_compared_to_the_leaves(
    said: object, corrected: object, f1: float, match: float, output: float
) -> None:
    found = score_fields(json.dumps(said), json.dumps(corrected))
    assert found == pytest.approx({"field_f1": f1, "field_match": match, "output_match": output})


def test_what_is_no_object_has_nothing_right() -> None:
    assert score_fields("no JSON", '{"a": 1}')["field_f1"] == 0.0
    assert score_fields("[1]", '{"a": 1}')["field_match"] == 0.0
    with pytest.raises(InvalidInputError, match="no JSON object"):
        OUTPUT.value("[1]")
    assert OUTPUT.value('{"b": 1, "a": 2}') == OUTPUT.value({"a": 2, "b": 1}) == '{"a":2,"b":1}'


def test_an_extraction_that_ignores_what_is_asked_has_no_sure_advantage() -> None:
    draw = random.Random(9)
    truths = [{"city": draw.choice(CITIES), "color": draw.choice(COLORS), "currency": "EUR"} for _ in range(150)]
    constant = json.dumps({"city": "Bern", "color": "red", "currency": "EUR"})
    guesses = [
        json.dumps({"city": draw.choice(CITIES), "color": draw.choice(COLORS), "currency": "EUR"}) for _ in truths
    ]
    knowing = [json.dumps(truth | ({"city": "Bern"} if draw.random() < 0.3 else {})) for truth in truths]
    for said, sure in ((constant, False), (guesses, False), (knowing, True)):
        answers = [said] * len(truths) if isinstance(said, str) else said
        rows = read_rows(OUTPUT, [({}, one, json.dumps(truth)) for one, truth in zip(answers, truths, strict=True)])
        assert (advantages(rows)["field_f1"].low > 0) is sure
