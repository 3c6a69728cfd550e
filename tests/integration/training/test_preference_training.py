"""Trainings that learn preferences: the liked text gains on the other one, and interrupted they end the same."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.integration.training.tiny import train_here

from antiphon.core.disk import file_sha256
from antiphon.core.errors import InvalidInputError
from antiphon.training.base import Base
from antiphon.training.examples import Example, Part, write
from antiphon.training.fine_tune import Training
from antiphon.training.order import ParentAdapter, TrainingOrder
from antiphon.training.preferences import Preference, tokenized
from antiphon.training.recipe import PREFERENCES, Recipe
from antiphon.training.vocabulary import Vocabulary

RECIPE = Recipe(
    rank=4, alpha=8, batch=4, steps=12, learning_rate=2e-3, precision="f16", threads=1, checkpoint_every=4,
    dtype="fp32", method=PREFERENCES,
)  # fmt: skip
PROMPT = "<|im_start|>user\nIs the shop open on day {}?<|im_end|>\n<|im_start|>assistant\n"

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def said(text: str) -> tuple[Part, ...]:
    return (Part(f"{text}<|im_end|>", 1.0),)


def preferences() -> list[Preference]:
    """Short answers are liked, long ones are not; some are seen without another one beside."""
    found = []
    for day in range(12):
        short, long = said(f"Yes, {day}."), said(f"Well, day {day} is a day, and it may be open.")
        liked, disliked = ((short, long), (short, ()), ((), long))[day % 3]
        found.append(Preference(f"p{day}", PROMPT.format(day), liked, disliked))
    return found


def order(folder: Path, base: Path, learned: list[Preference], recipe: Recipe = RECIPE,
          parent: ParentAdapter | None = None) -> TrainingOrder:  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "examples.jsonl"
    return TrainingOrder(
        str(folder / "training"), "assistant.v1", str(base), file_sha256(base), str(path), write(path, learned),
        recipe, parent,
    )  # fmt: skip


def likelihoods(ordered: TrainingOrder, adapter: ParentAdapter | None) -> list[list[float]]:
    """Of each preference the log-likelihood of its texts."""
    base = Base(Path(ordered.base_path), ordered.base_sha256)
    vocabulary = Vocabulary(base)
    training = Training(msgspec.structs.replace(ordered, parent=adapter), base)
    return [training.model.log_likelihoods(tokenized(one, vocabulary).texts) for one in preferences()]


def test_liked_texts_gain_on_disliked_ones(base: Path, tmp_path: Path) -> None:
    ordered = order(tmp_path, base, preferences())
    trained = train_here(ordered)
    assert trained is not None
    assert [step for step, _ in trained.losses] == list(range(1, RECIPE.steps + 1))
    gained = ParentAdapter(trained.adapter.path, trained.adapter.sha256)
    for one, before, after in zip(preferences(), likelihoods(ordered, None), likelihoods(ordered, gained), strict=True):
        moved = [new - old for new, old in zip(after, before, strict=True)]
        if one.liked and one.disliked:
            assert moved[0] > moved[1]
        else:
            assert (moved[0] > 0) == bool(one.liked)


def test_before_anything_is_learned_the_loss_is_that_of_no_preference(base: Path, tmp_path: Path) -> None:
    pairs = [one for one in preferences() if one.liked and one.disliked]
    ordered = order(tmp_path, base, pairs, msgspec.structs.replace(RECIPE, steps=1))
    trained = train_here(ordered)
    assert trained is not None
    assert trained.losses[0][1] == pytest.approx(0.6931, abs=1e-3)


def test_interrupted_and_gone_on_from_a_version_it_ends_with_the_same_bytes(base: Path, tmp_path: Path) -> None:
    first = train_here(order(tmp_path / "first", base, preferences(), msgspec.structs.replace(RECIPE, steps=2)))
    assert first is not None
    parent = ParentAdapter(first.adapter.path, first.adapter.sha256)
    whole = train_here(order(tmp_path / "whole", base, preferences(), parent=parent))
    assert whole is not None
    ordered, looks = order(tmp_path / "part", base, preferences(), parent=parent), 0

    def after_six() -> bool:
        nonlocal looks
        looks += 1
        return looks > 6

    assert train_here(ordered, after_six) is None
    gone_on = train_here(ordered)
    assert gone_on is not None
    assert (gone_on.adapter.sha256, gone_on.losses) == (whole.adapter.sha256, whole.losses)


def test_a_file_of_examples_is_not_taken_for_preferences(base: Path, tmp_path: Path) -> None:
    ordered = order(tmp_path, base, preferences())
    path = tmp_path / "examples.jsonl"
    examples = msgspec.structs.replace(ordered, examples_sha256=write(path, [Example("a", "p", said("x"))]))
    with pytest.raises(Exception, match="The line is no example"):
        train_here(examples)


def test_texts_that_the_model_cannot_read_are_left_out_or_refused(base: Path, tmp_path: Path) -> None:
    long = Preference("long", PROMPT.format("x" * 400), said("Yes."), ())
    trained = train_here(
        order(tmp_path / "some", base, [*preferences(), long], msgspec.structs.replace(RECIPE, steps=1))
    )
    assert trained is not None
    assert trained.notices == (
        "1 of 13 examples have more than the 256 tokens that the model reads, and were left out.",
    )
    with pytest.raises(InvalidInputError, match="Every example has more than the 256 tokens"):
        train_here(order(tmp_path / "none", base, [long]))
