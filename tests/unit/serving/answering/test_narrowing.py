import json
from typing import Any

import msgspec
import pytest
from tests.harness.small_desk import DESK, SCHEMA

from antiphon.core.errors import InvalidInputError
from antiphon.definitions.application import ApplicationSpec
from antiphon.definitions.guards import FigureGuard
from antiphon.serving.answering.narrowing import narrowed, narrowed_to_schema


def with_schema(schema: dict[str, Any] | None, **fields: Any) -> ApplicationSpec:
    text = None if schema is None else json.dumps(schema)
    return msgspec.structs.replace(DESK, output_schema=text, **fields)


def labelled(*labels: str) -> ApplicationSpec:
    return with_schema({**SCHEMA, "properties": {"outlook": {"enum": labels}, "notice": {"type": "string"}}})


LONG: dict[str, Any] = {
    "type": "object",
    "properties": {"zeta": {"enum": ["a", "b"]}, "alpha": {"type": "string"}, "mid": {"enum": ["c", "d"]}},
    "required": ["mid", "zeta"],
    "additionalProperties": False,
}
LONGER = with_schema(
    LONG,
    classes=("zeta", "mid"),
    guards=(FigureGuard("alpha", fallback="Quiet."), FigureGuard("mid", fallback="Quiet.")),
)


def test_nothing_named_changes_nothing() -> None:
    assert narrowed(DESK, ()) is DESK


def test_later_properties_go_with_their_guards_and_classes() -> None:
    cut = narrowed(LONGER, ("zeta",))
    assert cut.schema == {**LONG, "properties": {"zeta": {"enum": ["a", "b"]}}, "required": ["zeta"]}
    assert (cut.classes, cut.guards) == (("zeta",), ())
    assert cut.prompt is LONGER.prompt
    assert LONGER.schema == LONG


def test_what_comes_before_the_last_named_one_stays_in_its_order() -> None:
    cut = narrowed(LONGER, ("alpha",))
    assert cut.schema is not None
    assert list(cut.schema["properties"]) == ["zeta", "alpha"], "written before it, so part of what it depends on"
    assert [guard.property for guard in cut.guards] == ["alpha"]
    assert narrowed(LONGER, ("mid", "zeta")).output_schema == LONGER.output_schema


@pytest.mark.parametrize(
    ("application", "only", "what"),
    [
        (DESK, ("weather",), "no property weather"),
        (with_schema(None), ("outlook",), "free text"),
        (with_schema({"type": "object"}), ("outlook",), "no property outlook"),
        (with_schema({**SCHEMA, "dependentRequired": {"outlook": ["notice"]}}), ("outlook",), "dependentRequired"),
        (with_schema({**SCHEMA, "minProperties": 2}), ("outlook",), "minProperties"),
        (labelled("late", "on_time", "late_again"), ("outlook",), "'late' begins the label 'late_again'"),
    ],
)
def test_what_cannot_be_cut_is_said(application: ApplicationSpec, only: tuple[str, ...], what: str) -> None:
    with pytest.raises(InvalidInputError, match=what):
        narrowed(application, only)


def test_labels_may_share_a_beginning_that_is_no_label() -> None:
    assert narrowed(labelled("on_time", "on_hold", "delayed"), ("outlook",)).classes == ("outlook",)
    clashing = labelled("late", "late_again")
    assert narrowed(clashing, ("notice",)) == clashing, "the whole output needs no cut"


def test_a_recorded_schema_says_what_wnarrowed_to_schema() -> None:
    for only in ((), ("zeta",), ("alpha",), ("mid",)):
        asked = narrowed(LONGER, only)
        assert narrowed_to_schema(LONGER, asked.output_schema) == asked
    assert narrowed_to_schema(LONGER, None) is LONGER
    assert narrowed_to_schema(LONGER, '{"type":"object","properties":{"other":{}}}') is LONGER
    free = with_schema(None)
    assert narrowed_to_schema(free, LONGER.output_schema) is free
