import math

import pytest

from antiphon.engine.messages import Alternative, Branch
from antiphon.serving.probabilities import class_probabilities

SCHEMA = {"properties": {"outlook": {"enum": ["on_time", "delayed"]}}}


def option(text: str, probability: float) -> Alternative:
    return Alternative(text, 0, math.log(probability))


def test_adds_the_tokens_that_begin_a_label_and_normalises() -> None:
    text = '{"outlook": "delayed", "notice": ""}'
    branch = Branch(13, (option("on", 0.1), option("o", 0.05), option("del", 0.4), option("d", 0.05)))
    measured = class_probabilities(text, SCHEMA, ["outlook"], [branch])
    assert measured["outlook"]["delayed"] == pytest.approx(0.75)
    assert measured["outlook"]["on_time"] == pytest.approx(0.25)


def test_a_token_may_bring_the_opening_quote() -> None:
    text = '{"outlook":"on_time"}'
    branch = Branch(11, (option('"on', 0.3), option('"d', 0.1)))
    measured = class_probabilities(text, SCHEMA, ["outlook"], [branch])
    assert measured["outlook"]["on_time"] == pytest.approx(0.75)


def test_labels_with_a_common_beginning_split_at_a_later_branch() -> None:
    schema = {"properties": {"size": {"enum": ["large", "larger", "small"]}}}
    text = '{"size":"larger"}'
    branches = [
        Branch(9, (option("large", 0.6), option("small", 0.2))),
        Branch(14, (option('"', 0.25), option("r", 0.75))),
    ]
    measured = class_probabilities(text, schema, ["size"], branches)["size"]
    assert measured == pytest.approx({"large": 0.75 * 0.25, "larger": 0.75 * 0.75, "small": 0.25})


def test_a_branch_that_was_not_seen_measures_nothing() -> None:
    assert class_probabilities('{"outlook":"on_time"}', SCHEMA, ["outlook"], []) == {}
    assert class_probabilities("not json", SCHEMA, ["outlook"], [Branch(0, (option("x", 1.0),))]) == {}
