"""Lessons of a training, a step at a time: examples of what to write, or preferences between texts.

Invariant: the gradient of a step is a pure function of the order, the step and the weights it finds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from antiphon.core.errors import InvalidInputError
from antiphon.training import batches, examples, preferences
from antiphon.training.batches import TokenizedExample
from antiphon.training.examples import Example
from antiphon.training.folder_seal import FolderSeal
from antiphon.training.model import LoraModel
from antiphon.training.order import TrainingOrder
from antiphon.training.preferences import Preference, TokenizedPreference
from antiphon.training.recipe import PREFERENCES
from antiphon.training.vocabulary import Vocabulary

Notice = Callable[[str], None]


class Lessons(Protocol):
    """Implemented by :class:`ExampleLessons` and :class:`PreferenceLessons`."""

    def begin(self, model: LoraModel, stopping: Callable[[], bool]) -> bool:
        """Look at the model as it is before anything was learned; ``False`` when it was stopped meanwhile."""
        ...

    def backward(self, model: LoraModel, step: int) -> float:
        """Compute the gradient of a step (from 0); returns the mean loss of its batch."""
        ...


class ExampleLessons:
    """Examples, new and old ones, whose texts are to become likely."""

    def __init__(self, order: TrainingOrder, learned: Sequence[Example], vocabulary: Vocabulary, context: int,
                 notice: Notice) -> None:  # fmt: skip
        self._recipe = order.recipe
        self._encoded = [batches.encode(example, vocabulary) for example in learned]
        read = [index for index, one in enumerate(self._encoded) if len(one.tokens) <= context]
        self._new = [index for index in read if not learned[index].old]
        self._old = [index for index in read if learned[index].old]
        _tell_left_out(len(self._new), len(learned) - len(read), len(learned), context, order, notice)

    def begin(self, model: LoraModel, stopping: Callable[[], bool]) -> bool:
        """Look at nothing: a text's probability before plays no part."""
        return True

    def backward(self, model: LoraModel, step: int) -> float:
        chosen = batches.chosen(self._recipe, self._new, self._old, step)
        return model.backward([self._encoded[index] for index in chosen], len(chosen))


class PreferenceLessons:
    """Preferences, whose liked texts are to gain probability over the disliked ones."""

    def __init__(self, order: TrainingOrder, learned: Sequence[Preference], vocabulary: Vocabulary, context: int,
                 notice: Notice) -> None:  # fmt: skip
        self._recipe = order.recipe
        every = [preferences.tokenized(one, vocabulary) for one in learned]
        self._learned = [one for one in every if all(len(text.tokens) <= context for text in one.texts)]
        self._before: dict[int, float] = {}
        left_out = len(every) - len(self._learned)
        _tell_left_out(len(self._learned), left_out, len(every), context, order, notice)

    def begin(self, model: LoraModel, stopping: Callable[[], bool]) -> bool:
        for start in range(0, len(self._learned), self._recipe.batch):
            if stopping():
                return False
            part = self._learned[start : start + self._recipe.batch]
            self._before |= self._likelihoods(model, part)
        return True

    def backward(self, model: LoraModel, step: int) -> float:
        # The derivative by each text depends on all of its pair, so they are asked for first, without a gradient.
        chosen = [self._learned[index] for index in self._chosen(step)]
        now = self._likelihoods(model, chosen)
        loss, pulled = 0.0, list[TokenizedExample]()
        for one in chosen:
            gains = [now[id(text)] - self._before[id(text)] for text in one.texts]
            found = preferences.pull(one, gains, self._recipe.beta)
            loss += found.loss
            pulled += [_times(text, -slope) for text, slope in zip(one.texts, found.texts, strict=True)]
        model.backward(pulled, len(chosen))
        return loss / len(chosen)

    def _chosen(self, step: int) -> list[int]:
        """Without one twice in a batch, however few there are."""
        recipe = msgspec.structs.replace(self._recipe, batch=min(self._recipe.batch, len(self._learned)), replay=0.0)
        return list(dict.fromkeys(batches.chosen(recipe, range(len(self._learned)), (), step)))

    @staticmethod
    def _likelihoods(model: LoraModel, part: Sequence[TokenizedPreference]) -> dict[int, float]:
        texts = [text for one in part for text in one.texts]
        return {id(text): found for text, found in zip(texts, model.log_likelihoods(texts), strict=True)}


def lessons_of(order: TrainingOrder, vocabulary: Vocabulary, context: int, seal: FolderSeal, notice: Notice) -> Lessons:
    """The lessons that the order's file holds.

    Raises:
        CorruptionError: the file is gone or was changed.
        InvalidInputError: nothing can be learned from it.
    """
    path, sha256 = Path(order.examples_path), order.examples_sha256
    if order.recipe.method == PREFERENCES:
        said = examples.read(path, sha256, Preference, seal)
        preferences.check(said)
        return PreferenceLessons(order, said, vocabulary, context, notice)
    learned = examples.read(path, sha256, Example, seal)
    examples.check(learned)
    return ExampleLessons(order, learned, vocabulary, context, notice)


def _times(text: TokenizedExample, factor: float) -> TokenizedExample:
    return TokenizedExample(text.tokens, tuple(weight * factor for weight in text.weights))


def _tell_left_out(left: int, out: int, every: int, context: int, order: TrainingOrder, notice: Notice) -> None:
    """Raises ``InvalidInputError`` when none is left to learn from."""
    if not left:
        raise InvalidInputError(
            f"Every example has more than the {context} tokens that the model reads.",
            where=order.examples_path,
            next_step="Shorten the prompt.",
        )
    if out:
        notice(
            f"{out} of {every} examples have more than the {context} tokens that the model reads, and were left out."
        )
