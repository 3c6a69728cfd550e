import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.engine.api.messages import Alternative, Branch
from antiphon.serving.answering.probabilities import class_probabilities

SCHEMA = {"properties": {"outlook": {"enum": ["on_time", "delayed"]}}}


def option(text: str, probability: float) -> Alternative:
    return Alternative(text, 0, math.log(probability))


def test_adds_the_tokens_that_begin_a_label_and_normalizes() -> None:
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


def test_a_token_of_the_quote_alone_leaves_the_rest_to_the_next_branch() -> None:
    text = '{"outlook":"delayed"}'
    branches = [
        Branch(11, (option('"', 0.4), option('"on', 0.3), option('"del', 0.3))),
        Branch(12, (option("on", 0.25), option("d", 0.75))),
    ]
    measured = class_probabilities(text, SCHEMA, ["outlook"], branches)["outlook"]
    assert measured == pytest.approx({"delayed": 0.3 + 0.4 * 0.75, "on_time": 0.3 + 0.4 * 0.25})


def test_a_group_the_text_did_not_enter_shares_its_mass() -> None:
    schema = {"properties": {"size": {"enum": ["large", "larger", "small"]}}}
    measured = class_probabilities(
        '{"size":"small"}', schema, ["size"], [Branch(9, (option("la", 0.5), option("s", 0.5)))]
    )
    assert measured["size"] == pytest.approx({"large": 0.25, "larger": 0.25, "small": 0.5})


def test_a_branch_that_tells_nothing_apart_measures_nothing() -> None:
    text = '{"outlook":"on_time"}'
    assert class_probabilities(text, SCHEMA, ["outlook"], [Branch(11, (option('"', 1.0),))]) == {}


@given(
    st.lists(st.sampled_from(["on_time", "on", "delayed", "de", "d"]), min_size=2, unique=True),
    st.lists(
        st.tuples(st.integers(0, 6), st.dictionaries(st.text("ondel_", max_size=3), st.floats(0.01, 1))), max_size=4
    ),
    st.data(),
)
def test_probabilities_add_to_one(
    labels: list[str], drawn: list[tuple[int, dict[str, float]]], data: st.DataObject
) -> None:
    chosen = data.draw(st.sampled_from(labels))
    text = json.dumps({"size": chosen}, separators=(",", ":"))
    schema = {"properties": {"size": {"enum": labels}}}
    branches = [
        Branch(9 + at, tuple(option(t, p) for t, p in options.items()))
        for at, options in sorted(drawn, key=lambda one: one[0])
    ]
    measured = class_probabilities(text, schema, ["size"], branches)
    for probabilities in measured.values():
        assert sum(probabilities.values()) == pytest.approx(1.0)
        assert all(-1e-12 <= value <= 1 + 1e-12 for value in probabilities.values())
