import json

import numpy as np
import pytest

from antiphon.core.errors import UnsatisfiableSchemaError
from antiphon.engine.backends.simulated.runtime import SimulatedRuntime
from antiphon.engine.execution.constrained import Grammars

DESK = {
    "type": "object",
    "properties": {"outlook": {"enum": ["on_time", "delayed"]}, "count": {"type": "integer"}},
    "required": ["outlook", "count"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def runtime() -> SimulatedRuntime:
    return SimulatedRuntime()


@pytest.fixture(scope="module")
def grammars(runtime: SimulatedRuntime) -> Grammars:
    return Grammars(runtime.grammar_tokenizer, len(runtime.vocabulary.pieces), remembered=2)


def text_of(runtime: SimulatedRuntime, tokens: list[int]) -> str:
    return b"".join(runtime.vocabulary.pieces[token] for token in tokens).decode()


def test_what_the_grammar_leaves_no_choice_about_is_forced(runtime: SimulatedRuntime, grammars: Grammars) -> None:
    constraint = grammars.constraint(json.dumps(DESK))
    assert text_of(runtime, constraint.forced()) == '{"outlook": "'
    options = {runtime.vocabulary.pieces[token] for token in np.flatnonzero(constraint.permitted())}
    assert options == {b"o", b"d"}
    constraint.accept(ord("d"))
    assert text_of(runtime, constraint.forced()) == 'elayed", "count": '
    assert not constraint.complete
    constraint.accept(ord("7"))
    constraint.accept(ord("}"))
    assert constraint.forced() == []
    assert constraint.complete


def test_constraints_of_one_schema_do_not_disturb_each_other(grammars: Grammars) -> None:
    one, other = grammars.constraint(json.dumps(DESK)), grammars.constraint(json.dumps(DESK))
    assert one.forced() == other.forced()
    one.accept(ord("o"))
    assert other.permitted()[ord("d")]


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ('{"type": "integer", "minimum": 5, "maximum": 3}', "minimum"),
        ('{"enum": []}', "empty"),
        ("false", "false"),
        ('{"type": "strin"}', "strin"),
        ('{"type": "string", "pattern": "("}', "regex"),
        ('{"type": "array", "uniqueItems": true}', "uniqueItems"),
        ("{", "."),
        ("12", "."),
    ],
)
def test_a_schema_that_cannot_be_met_is_refused_with_its_reason(grammars: Grammars, schema: str, reason: str) -> None:
    with pytest.raises(UnsatisfiableSchemaError, match=reason):
        grammars.constraint(schema)


def test_a_token_the_grammar_forbids_ends_in_an_error(grammars: Grammars) -> None:
    constraint = grammars.constraint(json.dumps(DESK))
    constraint.forced()
    with pytest.raises(UnsatisfiableSchemaError):
        constraint.accept(ord("x"))
