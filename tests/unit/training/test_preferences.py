"""Preferences: how strongly each pulls, and what cannot be learned from."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import logsigmoid, sigmoid

from antiphon.core.errors import InvalidInputError
from antiphon.training.batches import TokenizedExample
from antiphon.training.examples import Part
from antiphon.training.preferences import Preference, TokenizedPreference, check, pull

TEXT = TokenizedExample((1, 2), (0.0, 1.0))
PAIR, LIKED, DISLIKED = (
    TokenizedPreference(TEXT, TEXT), TokenizedPreference(TEXT, None), TokenizedPreference(None, TEXT),
)  # fmt: skip


def published(preference: TokenizedPreference, gains: torch.Tensor, beta: float) -> torch.Tensor:
    """The losses as their papers write them."""
    if preference is PAIR:
        return -logsigmoid(beta * (gains[0] - gains[1]))
    return 1 - sigmoid(beta * gains[0]) if preference is LIKED else sigmoid(beta * gains[0])


@pytest.mark.parametrize("beta", [0.05, 0.1, 1.0])
@pytest.mark.parametrize("gains", [(0.0, 0.0), (3.0, -2.0), (-7.5, 4.0), (40.0, -60.0), (-900.0, 900.0)])
@pytest.mark.parametrize("preference", [PAIR, LIKED, DISLIKED], ids=["pair", "liked", "disliked"])
def test_a_pull_is_the_published_loss_and_its_derivative(
    preference: TokenizedPreference, gains: tuple[float, float], beta: float
) -> None:
    given = torch.tensor(gains[: len(preference.texts)], dtype=torch.float64, requires_grad=True)
    expected = published(preference, given, beta)
    expected.backward()
    found = pull(preference, given.tolist(), beta)
    assert found.loss == pytest.approx(expected.item(), rel=1e-9, abs=1e-12)
    assert given.grad is not None
    assert found.texts == pytest.approx(given.grad.tolist(), rel=1e-9, abs=1e-12)


def test_what_is_liked_enough_pulls_no_more() -> None:
    slopes = [abs(pull(PAIR, (gain, -gain), 0.1).texts[0]) for gain in (0.0, 20.0, 80.0)]
    assert slopes == sorted(slopes, reverse=True)
    assert slopes[0] == pytest.approx(0.05)
    assert slopes[-1] < 1e-6
    assert math.isfinite(pull(PAIR, (-1e6, 1e6), 10.0).loss)


@pytest.mark.parametrize(
    ("preferences", "words"),
    [
        ([], "no preference"),
        ([Preference("a", "p", (Part("x", 1.0),)), Preference("a", "p", (Part("y", 1.0),))], "twice"),
        ([Preference("a", "p")], "no text"),
        ([Preference("a", "p", (Part("{", 0.0),))], "no text"),
    ],
)
def test_what_nothing_can_be_learned_from_is_refused(preferences: list[Preference], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        check(preferences)
