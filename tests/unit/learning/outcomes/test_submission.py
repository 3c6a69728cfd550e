from __future__ import annotations

import json
import re
from datetime import timedelta, timezone
from typing import Any

import msgspec
import pytest
from tests.integration.learning.joining import learning_desk
from tests.unit.catalog.examples import NOON

from antiphon.core.errors import InvalidInputError
from antiphon.definitions.learning import Outcome
from antiphon.learning.outcomes.submission import (
    OutcomeSubmission,
    declared_value,
    in_utc,
    label_text,
    reference_of,
)


@pytest.mark.parametrize(
    ("value", "labels", "meant"),
    [
        (True, ("no", "yes"), "yes"),
        (False, ("no", "yes"), "no"),
        (True, ("on_time", "delayed"), "true"),
        (1, ("0", "1"), "1"),
        (1.0, ("0", "1"), "1"),
        (2, ("0", "1"), "2"),
        ("yes", ("no", "yes"), "yes"),
        (None, ("no", "yes"), None),
    ],
)
def test_a_tables_value_is_the_label_it_means(value: Any, labels: tuple[str, ...], meant: str | None) -> None:
    assert label_text(value, labels) == meant


def test_one_outcome_has_one_reference_however_it_is_written() -> None:
    summer = timezone(timedelta(hours=2))
    there = OutcomeSubmission(
        application="desk", value="delayed", entity={"a": "1", "b": "2"}, at=NOON.astimezone(summer)
    )
    here = OutcomeSubmission(application="desk", value="delayed", entity={"b": "2", "a": "1"}, at=NOON)
    declared = declared_value(here, learning_desk())
    named = msgspec.structs.replace(here, outcome="outlook", kind="label")
    assert declared_value(named, learning_desk()) == declared
    assert reference_of(in_utc(there), declared) == reference_of(in_utc(here), declared)
    assert reference_of(OutcomeSubmission(application="desk", value="delayed", id="mine"), declared) == "mine"
    with pytest.raises(InvalidInputError, match="no time zone"):
        in_utc(OutcomeSubmission(application="desk", value="delayed", at=NOON.replace(tzinfo=None)))


SCHEMA = {
    "type": "object",
    "properties": {
        "queue": {"enum": ["billing", "outage"]},
        "minutes": {"type": "integer", "minimum": 0, "maximum": 120},
        "reply": {"type": "string"},
    },
}
TRIAGE = learning_desk(
    "triage",
    output_schema=json.dumps(SCHEMA),
    classes=("queue",),
    outcome=Outcome("queue"),
    more_outcomes=(Outcome("minutes", window="7d"), Outcome("reply", name="answer")),
)


@pytest.mark.parametrize(
    ("sent", "value", "kind", "name", "days"),
    [
        ({"value": "outage"}, "outage", "label", "queue", 1),
        ({"value": 12.0, "outcome": "minutes"}, "12", "number", "minutes", 7),
        ({"value": "12.50", "outcome": "minutes"}, "12.5", "number", "minutes", 7),
        ({"value": 500, "outcome": "minutes"}, "500", "number", "minutes", 7),
        ({"value": "We look into it.", "outcome": "answer"}, "We look into it.", "reference", "answer", 1),
        ({"value": "up", "kind": "thumbs"}, "up", "thumbs", None, 1),
        ({"value": "so late", "kind": "text"}, "so late", "text", None, 1),
    ],
)
def test_a_value_is_of_the_outcome_that_is_named(
    sent: dict[str, Any], value: str, kind: str, name: str | None, days: int
) -> None:
    found = declared_value(OutcomeSubmission(application="triage", **sent), TRIAGE)
    assert (found.value, found.kind, found.window) == (value, kind, timedelta(days=days))
    assert (None if found.shape is None else found.shape.name) == name


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ({"value": "sales"}, "'sales' is no label of 'triage'. Send one of billing, outage."),
        ({"value": "soon", "outcome": "minutes"}, "'soon' is no number, and minutes is one"),
        ({"value": "nan", "outcome": "minutes"}, "'nan' is no number"),
        ({"value": 1e999, "outcome": "minutes"}, "'inf' is no number"),
        ({"value": "x", "outcome": "gone"}, "no outcome named 'gone'. Name one of queue, minutes, answer."),
        ({"value": "outage", "kind": "number"}, "'queue' of 'triage' is a label, not a number"),
        ({"value": "sideways", "kind": "thumbs"}, "no thumbs"),
        ({"value": ""}, "0 characters"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(sent: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(said)):
        declared_value(OutcomeSubmission(application="triage", **sent), TRIAGE)
