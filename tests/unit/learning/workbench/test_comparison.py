from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.small_desk import DESK

from antiphon.catalog.learning.trials import AnswerFigures
from antiphon.catalog.releases.releases import Bundle, ModelPin
from antiphon.definitions.prompt import Prompt
from antiphon.learning.evaluation.intervals import mean
from antiphon.learning.workbench.comparison import (
    Comparison,
    TrialSide,
    compare,
    shown_first,
    text_difference,
)


def bundle(system: str) -> Bundle:
    application = msgspec.structs.replace(DESK, prompt=Prompt("{{ question }}", system=system))
    return Bundle(application, ModelPin("tiny", None), "digest")


def compared(first: list[dict[str, Any]], second: list[dict[str, Any]], **options: Any) -> Comparison:
    sides = [
        TrialSide(name, bundle(name), {f"r{n}": AnswerFigures(f"{name}{n}", **one) for n, one in enumerate(answers)})
        for name, answers in (("a", first), ("b", second))
    ]
    return compare(sides[0], sides[1], **{"users": {}, "identical": {}, **options})


def test_a_sure_difference_is_said_of_the_better_side() -> None:
    found = compared([{"completion_tokens": 40, "valid": True}] * 30, [{"completion_tokens": 20, "valid": True}] * 30)
    figures = {one.name: one for one in found.figures}
    assert figures["completion tokens"].better == "b"
    gap = figures["completion tokens"].difference
    assert gap is not None
    assert gap.value == -20
    assert figures["valid"].better == ""
    assert figures["length"].better == "", "neither long nor short is better"
    few = compared([{"completion_tokens": 40}] * 9, [{"completion_tokens": 20}] * 9)
    assert {one.better for one in few.figures} == {""}, "nine users are too few to be sure"
    assert found.prompt == ("--- system", "+++ system", "@@ -1 +1 @@", "-a", "+b")
    assert [change.field for change in found.changes] == ["application.prompt.system"]


def test_only_what_both_answered_is_compared_and_errors_are_counted() -> None:
    found = compared([{}, {"error": "guard_refused"}, {}], [{}, {}, {"error": "feature_unavailable"}])
    assert found.requests == 1
    assert found.errors == {"a": {"guard_refused": 1}, "b": {"feature_unavailable": 1}}
    assert len(found.pairs) == 3
    nothing = compared([{"error": "x"}], [{}])
    assert (nothing.requests, nothing.figures) == (0, ())


def test_a_user_who_asks_often_counts_as_one() -> None:
    """Ten requests of one user are one piece of evidence: the interval is as wide as of so few users."""
    gaps = [1.0] * 10 + [0.0, 0.0]
    alone = mean(gaps, [f"u{n}" for n in range(12)])
    together = mean(gaps, ["often"] * 10 + ["u1", "u2"])
    assert alone.low > 0.5
    assert together.low < 0.0
    assert alone.value == together.value


@pytest.mark.parametrize("seed", [0])
def test_intervals_cover_the_truth_as_often_as_they_say(seed: int) -> None:
    """200 samples of 60 users with two requests each: 95 % intervals of a difference of 0.3 cover it."""
    draw = np.random.default_rng(seed)
    users = [f"u{n // 2}" for n in range(120)]
    covered = 0
    for _ in range(200):
        of_user = np.repeat(draw.normal(0.3, 1.0, 60), 2)
        interval = mean([*(of_user + draw.normal(0, 0.5, 120))], users)
        covered += interval.low <= 0.3 <= interval.high
    assert 180 <= covered <= 200


@given(st.text(max_size=60), st.text(max_size=60))
def test_both_texts_can_be_read_from_their_difference(before: str, after: str) -> None:
    pieces = text_difference(before, after)
    assert "".join(piece for kind, piece in pieces if kind != "new") == before
    assert "".join(piece for kind, piece in pieces if kind != "gone") == after


def test_sides_of_blind_readers_are_even_and_the_same_each_time() -> None:
    first = [shown_first(f"r{n}", "live", "trial_1") for n in range(400)]
    assert first == [shown_first(f"r{n}", "live", "trial_1") for n in range(400)]
    assert 160 < sum(first) < 240
