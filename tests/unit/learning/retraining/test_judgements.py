"""What people said of predictions, as one judgement of each."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from antiphon.catalog.learning.annotations import Annotation, annotation_id
from antiphon.catalog.learning.outcomes import OutcomeRecord
from antiphon.core.scope import Scope
from antiphon.learning.retraining.preferences import OpinionOfAnswer, judgements

NOON = datetime(2026, 4, 1, 12, tzinfo=UTC)


def outcome(kind: Any, value: str, prediction: str = "a", minutes: int = 0) -> OutcomeRecord:
    at = NOON + timedelta(minutes=minutes)
    return OutcomeRecord(f"{kind}{value}{prediction}", Scope(), "desk", kind, "joined", value, at, at, prediction)


def note(kind: Any, value: str, prediction: str = "a", by: str = "ann", other: str | None = None) -> Annotation:
    name = annotation_id(prediction, by, kind, "", other)
    return Annotation(name, Scope(), prediction, "desk", by, kind, value, NOON, other=other)


@pytest.mark.parametrize(
    ("outcomes", "annotations", "expected"),
    [
        ([outcome("thumbs", "up")], [], [OpinionOfAnswer("a", liked=True)]),
        ([outcome("thumbs", "down")], [note("thumbs", "down")], [OpinionOfAnswer("a")]),
        ([outcome("thumbs", "up")], [note("thumbs", "down")], [None]),
        ([outcome("thumbs", "down"), outcome("correction", "so")], [], [OpinionOfAnswer("a", True, "so")]),
        (
            [outcome("correction", "later", minutes=5), outcome("correction", "earlier")],
            [note("correction", "first of all")],
            [OpinionOfAnswer("a", True, "later")],
        ),
        ([], [note("preference", "this", "a", other="b")], [OpinionOfAnswer("a", True, None, "b")]),
        ([], [note("preference", "other", "a", other="b")], [OpinionOfAnswer("a", False, None, "b")]),
        ([], [note("preference", "this", "b", other="a")], [OpinionOfAnswer("a", False, None, "b")]),
        ([], [note("preference", "tie", "a", other="b")], []),
        ([], [note("preference", "this", "a", other="b"), note("preference", "this", "b", "bob", "a")], [None]),
        ([], [note("preference", "this", "a", other="b"), note("preference", "other", "b", "bob", "a")],
         [OpinionOfAnswer("a", True, None, "b")]),
        ([], [note("rubric", "5"), note("label", "urgent")], []),
    ],
)  # fmt: skip
def test_a_correction_says_most_and_contradictions_say_nothing(
    outcomes: list[OutcomeRecord], annotations: list[Annotation], expected: list[OpinionOfAnswer | None]
) -> None:
    assert judgements(outcomes, annotations) == expected
