"""``antiphon train``: settings to try, and what is said of them."""

from __future__ import annotations

from typing import Any

import pytest

from antiphon.cli.train import _candidate_lines, _candidates
from antiphon.core.errors import InvalidInputError


def test_settings_to_try_are_read_from_words() -> None:
    assert _candidates(()) is None
    assert _candidates(["learning_rate=1e-3,5e-4", "rank=8, 16"]) == {
        "learning_rate": (1e-3, 5e-4), "rank": (8.0, 16.0),
    }  # fmt: skip


@pytest.mark.parametrize("given", ["rank", "rank=", "rank=8,many"])
def test_words_that_give_no_values_are_refused_with_an_example(given: str) -> None:
    with pytest.raises(InvalidInputError, match="gives no values to try") as raised:
        _candidates([given])
    assert "learning_rate=1e-3,5e-4" in str(raised.value.next_step)


def test_every_candidate_is_listed_with_what_it_reached_or_why_not() -> None:
    tried: list[dict[str, Any]] = [
        {"settings": {"rank": 8.0}, "model": "desk.v1", "seconds": 40.2, "why": "", "brier": 0.2},
        {"settings": {"rank": 16.0}, "model": None, "seconds": 60.0, "why": "it was cut off", "brier": None},
    ]
    assert _candidate_lines({"model": "desk.v1", "candidates": tried}) == [
        "Tried rank 8: 40 s, brier 0.2000 (goes on)",
        "Tried rank 16: 60 s, it was cut off",
    ]
    assert _candidate_lines({"model": "desk.v1"}) == []
