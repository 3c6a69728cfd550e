from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from tests.integration.learning.joining import learning_desk
from tests.unit.catalog.examples import NOON

from antiphon.core.errors import InvalidInputError
from antiphon.learning.outcomes.submission import OutcomeSubmission, in_utc, label_text, labels_of, reference_of


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
    there = OutcomeSubmission("desk", "delayed", entity={"a": "1", "b": "2"}, at=NOON.astimezone(summer))
    here = OutcomeSubmission("desk", "delayed", entity={"b": "2", "a": "1"}, at=NOON)
    assert reference_of(in_utc(there)) == reference_of(in_utc(here))
    assert reference_of(OutcomeSubmission("desk", "delayed", id="mine")) == "mine"
    with pytest.raises(InvalidInputError, match="no time zone"):
        in_utc(OutcomeSubmission("desk", "delayed", at=datetime(2013, 4, 10)))  # noqa: DTZ001


def test_labels_keep_their_declared_order() -> None:
    assert labels_of(learning_desk()) == ("on_time", "delayed")
