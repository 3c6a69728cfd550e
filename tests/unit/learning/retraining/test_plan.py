"""The arithmetic of a retraining."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.small_desk import START

from antiphon.catalog.learning.datasets import DatasetSpec
from antiphon.core.errors import InvalidInputError
from antiphon.definitions.learning import FineTune
from antiphon.learning.retraining.plan import TrainArguments, converted, minutes, only_newer, recipe, replayed, together
from antiphon.learning.retraining.steps import progress_text
from antiphon.training.examples import Example, Part
from antiphon.training.order import TrainingProgress
from antiphon.training.recipe import Arithmetic


def specification(**fields: Any) -> DatasetSpec:
    given: dict[str, Any] = {
        "application": "desk", "kind": "training", "property": "outlook", "positive": "delayed", "cutoff": START,
        "first": START - timedelta(days=60), "last": START - timedelta(days=7), "maturity_seconds": 60.0,
        "origins": ("receipts",), "examples": 10, "seed": 0, "views": {}, "entity_keys": (),
    }  # fmt: skip
    return DatasetSpec(**(given | fields))


@given(
    new=st.integers(1, 5_000), old=st.integers(0, 50), batch=st.integers(1, 64), replay=st.floats(0, 0.95),
    epochs=st.floats(0.1, 3),
)  # fmt: skip
def test_every_new_example_is_gone_through_as_often_as_declared(
    new: int, old: int, batch: int, replay: float, epochs: float
) -> None:
    tune, chosen = FineTune("m", batch=batch, replay=replay, epochs=epochs), Arithmetic("fp32")
    made = recipe(tune, new=new, old=old, threads=2, arithmetic=chosen)
    made.check()
    replays = min(round(batch * made.replay), batch - 1)
    seen = made.steps * (batch - replays)
    assert new * epochs <= seen < new * epochs + (batch - replays) + 1
    assert made.replay == (replay if old else 0.0)
    assert (made.dtype, made.device) == ("fp32", "cpu")


def test_what_is_new_begins_after_the_earlier_cutoff_and_not_after_its_last_example() -> None:
    before = specification(cutoff=START, last=START - timedelta(days=7))
    after = specification(
        cutoff=START + timedelta(days=14), first=START - timedelta(days=50), last=START + timedelta(7)
    )
    assert only_newer(after, before).first == START
    with pytest.raises(InvalidInputError, match="Nothing is new"):
        only_newer(specification(last=START), before)


def test_replayed_rows_do_not_depend_on_the_order_and_fewer_are_a_part_of_more() -> None:
    rows: Any = [SimpleNamespace(example=f"flight {number}") for number in range(100)]
    some, more = replayed(rows, 3, 20), replayed(rows[::-1] + rows[:5], 3, 40)
    assert {row.example for row in some} < {row.example for row in more}
    assert (len(some), len(more)) == (20, 40)


def test_an_earlier_example_that_is_new_again_is_learned_once() -> None:
    def example(name: str, old: bool = False) -> Example:
        return Example(name, "p", (Part("x", 1.0),), old)

    both = together([example("a"), example("b")], [example("b", True), example("c", True)])
    assert [(one.id, one.old) for one in both] == [("a", False), ("b", False), ("c", True)]


def test_arguments_that_are_misspelt_are_refused_by_name() -> None:
    assert converted({"application": "desk", "delta": True}, TrainArguments, "x") == TrainArguments("desk", delta=True)
    with pytest.raises(InvalidInputError, match="exmaples"):
        converted({"application": "desk", "exmaples": 3}, TrainArguments, "x")
    with pytest.raises(InvalidInputError, match="delta"):
        converted({"application": "desk", "delta": "yes"}, TrainArguments, "x")


def test_progress_progress_text() -> None:
    told = progress_text(TrainingProgress("training", 3, 10, loss=0.41234, left=200.0))
    assert told == "training: loss 0.412, 3 min left"
    assert progress_text(TrainingProgress("loading", 0, 10)) == "loading"
    assert progress_text(
        msgspec.structs.replace(TrainingProgress("loading", 0, 10), notice="weights.gguf is gone")
    ).endswith("gone")
    assert [minutes(seconds) for seconds in (40.2, 720.0, 7_200.0)] == ["40 s", "12 min", "2.0 h"]
