"""The examples of each step and their layout in batches.

Invariant: the examples of step ``s`` are a pure function of (recipe, numbers of examples, s), so a training that was
interrupted goes on with the very batch it would have had.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec

from antiphon.core.errors import InvalidInputError
from antiphon.training.examples import Example
from antiphon.training.recipe import Recipe
from antiphon.training.vocabulary import Vocabulary

GROUP_COST = 120
"""Fixed cost of computing a group, in tokens (measured: 60 to 150 on two cores)."""
GROUP_TOKENS = 4_096
"""Tokens of a group with its padding: bounds the memory a step needs."""


class TokenizedExample(msgspec.Struct, frozen=True):
    """An example as tokens; ``weights[i]`` is what predicting ``tokens[i]`` counts (0 in the prompt)."""

    tokens: tuple[int, ...]
    weights: tuple[float, ...]


def encode(example: Example, tokenizer: Vocabulary) -> TokenizedExample:
    """Tokenizes an example, part by part, up to the last token that is learned; raises ``InvalidInputError`` when a
    part that should be learned has no token, or nothing stands before it."""
    tokens = tokenizer.prompt(example.prompt)
    weights = [0.0] * len(tokens)
    for part in example.parts:
        ids = tokenizer.tokenize(part.text)
        if part.weight > 0 and not ids:
            raise InvalidInputError(
                "A part that should be learned is empty.", where=example.id, next_step="Leave it out."
            )
        tokens += ids
        weights += [part.weight / (1 if part.label else max(1, len(ids)))] * len(ids)
    last = max(position for position, weight in enumerate(weights) if weight > 0) + 1
    if weights[0] > 0:
        raise InvalidInputError("The example has no prompt.", where=example.id, next_step="Give it a prompt.")
    return TokenizedExample(tuple(tokens[:last]), tuple(weights[:last]))


def chosen(recipe: Recipe, new: Sequence[int], old: Sequence[int], step: int) -> list[int]:
    """Indices of the examples of a step (from 0).

    Each kind is gone through in a shuffled order, then again in another. ``replay`` of the batch, rounded, are old
    ones when there are any; at least one is new.
    """
    replayed = min(round(recipe.batch * recipe.replay), recipe.batch - 1) if old else 0
    fresh = recipe.batch - replayed
    return _stretch(new, f"{recipe.seed}:new", step * fresh, fresh) + _stretch(
        old, f"{recipe.seed}:old", step * replayed, replayed
    )


def groups(lengths: Sequence[int]) -> list[list[int]]:
    """Cut a batch into groups of like length, computed one after another: positions in the batch, shortest first.

    The cheapest cut of the batch sorted by length, where a group costs its padded tokens and ``GROUP_COST``.
    """
    order = sorted(range(len(lengths)), key=lambda position: (lengths[position], position))
    best: list[tuple[int, int]] = [(0, 0)]
    for end in range(1, len(order) + 1):
        longest = lengths[order[end - 1]]
        costs = [
            (best[start][0] + (end - start) * longest + GROUP_COST, start)
            for start in range(end)
            if (end - start) * longest <= GROUP_TOKENS or end - start == 1
        ]
        best.append(min(costs))
    cut: list[list[int]] = []
    end = len(order)
    while end > 0:
        start = best[end][1]
        cut.append(order[start:end])
        end = start
    return cut[::-1]


def _stretch(indices: Sequence[int], seed: str, start: int, count: int) -> list[int]:
    """``count`` indices from position ``start`` of an endless sequence of shuffled passes."""
    taken: list[int] = []
    while len(taken) < count:
        pass_number, offset = divmod(start + len(taken), len(indices))
        shuffled = list(indices)
        random.Random(f"{seed}:{pass_number}").shuffle(shuffled)
        taken += shuffled[offset : offset + count - len(taken)]
    return taken
