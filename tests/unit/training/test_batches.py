from __future__ import annotations

from collections import Counter

import pytest

from antiphon.core.errors import InvalidInputError
from antiphon.training.batches import GROUP_TOKENS, chosen, encode, groups
from antiphon.training.examples import Example, Part
from antiphon.training.recipe import Recipe


class Letters:
    """One token a character; every prompt begins with token 1."""

    def prompt(self, text: str) -> list[int]:
        return [1, *self.tokenize(text)]

    def tokenize(self, text: str) -> list[int]:
        return [ord(character) for character in text]


def test_a_labels_tokens_have_the_whole_weight_a_text_shares_it_and_the_rest_is_cut_off() -> None:
    parts = (
        Part("{", 0.0),
        Part("late", 1.0, label=True),
        Part("", 0.0),
        Part(",", 0.0),
        Part("no", 0.5),
        Part("}", 0.0),
    )
    encoded = encode(Example("a", "hi", parts), Letters())
    assert bytes(encoded.tokens[1:]) == b"hi{late,no"
    assert encoded.weights == (0.0,) * 4 + (1.0,) * 4 + (0.0,) + (0.25,) * 2


def test_a_label_may_stand_after_a_text_when_it_is_marked() -> None:
    example = Example("a", "hi", (Part("no", 0.5), Part("late", 1.0, label=True)))
    assert example.learned == "late"
    assert encode(example, Letters()).weights == (0.0,) * 3 + (0.25,) * 2 + (1.0,) * 4


def test_what_cannot_be_tokenized_is_refused_by_name() -> None:
    with pytest.raises(InvalidInputError, match="empty") as raised:
        encode(Example("a", "hi", (Part("", 1.0),)), Letters())
    assert raised.value.where == "a"


def test_a_text_alone_shares_its_weight() -> None:
    assert encode(Example("a", "hi", (Part("no", 1.0),)), Letters()).weights == (0.0,) * 3 + (0.5,) * 2


def test_a_pass_takes_every_example_once_and_the_next_one_in_another_order() -> None:
    recipe = Recipe(batch=3)
    new = list(range(10, 19))
    passes = [[index for step in range(3 * p, 3 * p + 3) for index in chosen(recipe, new, [], step)] for p in range(2)]
    assert sorted(passes[0]) == sorted(passes[1]) == new
    assert passes[0] != passes[1]
    assert passes[0] != new


def test_a_batch_may_be_larger_than_the_examples() -> None:
    assert Counter(chosen(Recipe(batch=6), [4, 5], [], 0)) == {4: 3, 5: 3}


def test_steps_do_not_depend_on_one_another() -> None:
    recipe = Recipe(batch=5, replay=0.4)
    forwards = [chosen(recipe, range(7), range(7, 20), step) for step in range(30)]
    backwards = [chosen(recipe, range(7), range(7, 20), step) for step in reversed(range(30))]
    assert forwards == backwards[::-1]
    assert forwards != [chosen(Recipe(batch=5, replay=0.4, seed=1), range(7), range(7, 20), s) for s in range(30)]


@pytest.mark.parametrize(("replay", "olds"), [(0.0, 0), (0.25, 2), (0.5, 4), (0.99, 7)])
def test_the_declared_share_of_a_batch_is_old(replay: float, olds: int) -> None:
    batch = chosen(Recipe(batch=8, replay=replay), range(100), range(100, 200), 3)
    assert sum(index >= 100 for index in batch) == olds
    assert len(batch) == 8


def test_without_old_examples_the_batch_is_new() -> None:
    assert all(index < 100 for index in chosen(Recipe(batch=8, replay=0.5), range(100), [], 0))


def test_like_lengths_are_computed_together() -> None:
    lengths = [300, 70, 71, 310, 69, 70]
    assert groups(lengths) == [[4, 1, 5, 2], [0, 3]]
    assert groups([70, 71, 72]) == [[0, 1, 2]]


def test_a_group_is_bounded_and_nothing_is_lost() -> None:
    lengths = [1000] * 9 + [GROUP_TOKENS + 5]
    cut = groups(lengths)
    assert sorted(position for group in cut for position in group) == list(range(10))
    assert all(len(group) == 1 or len(group) * max(lengths[p] for p in group) <= GROUP_TOKENS for group in cut)
