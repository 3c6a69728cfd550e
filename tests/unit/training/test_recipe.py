from __future__ import annotations

import math

import msgspec
import pytest

from antiphon.core.errors import InvalidInputError
from antiphon.training.fine_tune import learning_rate
from antiphon.training.recipe import Recipe, code_identity, identity


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rank", 0),
        ("batch", 0),
        ("steps", 0),
        ("threads", 0),
        ("checkpoint_every", 0),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("warmup", 1.0),
        ("replay", -0.1),
        ("precision", "q2_k"),
        ("dtype", "fp16"),
        ("device", "abacus"),
    ],
)
def test_a_setting_outside_its_range_is_named(field: str, value: object) -> None:
    with pytest.raises(InvalidInputError) as raised:
        msgspec.structs.replace(Recipe(), **{field: value}).check()
    assert raised.value.where == f"recipe.{field}"


def test_everything_that_decides_the_weights_is_in_the_identity() -> None:
    first = identity(Recipe(), "base", "dataset", None)
    assert first == identity(Recipe(), "base", "dataset", None)
    others = {
        identity(Recipe(seed=1), "base", "dataset", None),
        identity(Recipe(), "other", "dataset", None),
        identity(Recipe(), "base", "other", None),
        identity(Recipe(), "base", "dataset", "parent"),
        identity(Recipe(dtype="fp32"), "base", "dataset", None),
        identity(Recipe(device="cuda"), "base", "dataset", None),
    }
    assert len(others | {first}) == 7


def test_the_code_is_named_by_version_and_hash() -> None:
    version, _, digest = code_identity().partition("+")
    assert version
    assert len(digest) == 16


def test_the_rate_rises_over_the_warmup_and_falls_to_nothing() -> None:
    recipe = Recipe(steps=100, learning_rate=0.01, warmup=0.1)
    rates = [learning_rate(recipe, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.001)
    assert max(rates) == rates[9] == rates[10] == pytest.approx(0.01)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0.0 < rates[-1] < 0.00001
