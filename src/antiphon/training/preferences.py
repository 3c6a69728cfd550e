"""Preferences between texts, and how strongly each pulls at the model.

Two texts of one prompt, of which people preferred one, are learned by direct preference optimization (Rafailov et al.,
NeurIPS 2023): its loss falls as the preferred text gains probability over the other one, both measured against what
they had before the training. A text alone that was liked or disliked is learned by the unpaired form of APO-zero
(D'Oosterlinck et al., 2024), which is Kahneman-Tversky optimization (Ethayarajh et al., ICML 2024) without an estimate
of how far the model has moved. Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from antiphon.core.errors import InvalidInputError
from antiphon.training.batches import TokenizedExample, encode
from antiphon.training.examples import Example, Part
from antiphon.training.vocabulary import Vocabulary


class Preference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One prompt, with a text that was liked, one that was disliked, or both: a pair.

    The weight of a part is that of each of its tokens: 1, or 0 where the grammar leaves no choice.
    """

    id: str
    prompt: str
    liked: tuple[Part, ...] = ()
    disliked: tuple[Part, ...] = ()


class TokenizedPreference(msgspec.Struct, frozen=True):
    """A preference as tokens."""

    liked: TokenizedExample | None
    disliked: TokenizedExample | None

    @property
    def texts(self) -> tuple[TokenizedExample, ...]:
        """Those that there are, the liked one first."""
        return tuple(one for one in (self.liked, self.disliked) if one is not None)


class Pull(msgspec.Struct, frozen=True):
    """The loss of one preference, and its derivative by the log-likelihood of each of its texts."""

    loss: float
    texts: tuple[float, ...]


def tokenized(preference: Preference, vocabulary: Vocabulary) -> TokenizedPreference:
    """Raises ``InvalidInputError`` as ``batches.encode``."""

    def text(parts: tuple[Part, ...]) -> TokenizedExample | None:
        whole = tuple(msgspec.structs.replace(part, label=True) for part in parts)
        return encode(Example(preference.id, preference.prompt, whole), vocabulary) if parts else None

    return TokenizedPreference(text(preference.liked), text(preference.disliked))


def pull(preference: TokenizedPreference, gains: Sequence[float], beta: float) -> Pull:
    """The pull of a preference.

    Args:
        gains: of each text the logarithm of its probability now, over that before the training.
        beta: how soon a gain is enough; the smaller, the further the model may move.
    """
    if preference.liked is not None and preference.disliked is not None:
        liked, disliked = gains
        margin = beta * (liked - disliked)
        slope = -beta * _sigmoid(-margin)
        return Pull(_softplus(-margin), (slope, -slope))
    sign = 1.0 if preference.liked is not None else -1.0
    wrong = _sigmoid(-sign * beta * gains[0])
    return Pull(wrong, (-sign * beta * wrong * (1.0 - wrong),))


def check(preferences: Sequence[Preference]) -> None:
    """Raises ``InvalidInputError`` for what nothing can be learned from: there is none, an id occurs twice, or one has
    no text."""
    if not preferences:
        raise InvalidInputError(
            "There is no preference to learn from.", where="preferences", next_step="Collect thumbs or corrections."
        )
    if len({one.id for one in preferences}) < len(preferences):
        raise InvalidInputError("An id occurs twice.", where="preferences", next_step="Give each an id of its own.")
    for one in preferences:
        if not any(part.weight > 0 for part in (*one.liked, *one.disliked)):
            raise InvalidInputError("The preference has no text.", where=one.id, next_step="Leave it out.")


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))
