"""Planted canaries: a model that was trained on them shows exposure, one that was not does not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from tests.integration.training.tiny import CHAT, flights, order, train_here

from antiphon.core.errors import InvalidInputError
from antiphon.definitions.learning import Canaries
from antiphon.engine.api.messages import ModelDescription
from antiphon.engine.backends.llamacpp.runtime import LlamaCpp
from antiphon.engine.execution.local import LocalEngine
from antiphon.engine.execution.runtime import Layout
from antiphon.engine.weights import Weights
from antiphon.learning.evaluation.safety.canaries import DECOYS, canaries, canary_examples
from antiphon.learning.evaluation.safety.exposure import CanaryResult, measure, memorization
from antiphon.training.examples import check
from antiphon.training.order import TrainingResult
from antiphon.training.recipe import Recipe

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

PLANTED = Canaries(count=4, repeats=4, seed=3)
RECIPE = Recipe(rank=16, alpha=32, batch=8, steps=120, learning_rate=0.01, precision="f16")
MODEL = ModelDescription("trained", "f", 256, CHAT, ("<|im_start|>", "<|im_end|>"), "", "<|im_end|>")


def trained(base: Path, folder: Path) -> TrainingResult:
    examples = (*flights(12), *canary_examples(PLANTED, MODEL, 3.0))
    made = train_here(order(folder, base, examples, RECIPE))
    assert made is not None
    return made


@asynccontextmanager
async def serving(result: TrainingResult) -> AsyncIterator[LocalEngine]:
    runtime = LlamaCpp(
        "trained",
        Weights(Path(result.weights.path), result.weights.sha256),
        Layout(slots=8, context_tokens=256),
        threads=1,
    )
    engine = await LocalEngine({"trained": runtime}).start()
    try:
        yield engine
    finally:
        await engine.close()


async def results(result: TrainingResult) -> tuple[CanaryResult, ...]:
    async with serving(result) as engine:
        (model,) = (await engine.describe()).models
        return await measure(engine, model, PLANTED, "default")


async def test_a_model_that_was_trained_on_canaries_shows_exposure_and_another_does_not(
    base: Path, tmp_path: Path, trained_here: TrainingResult
) -> None:
    remembered, others = await results(trained(base, tmp_path)), await results(trained_here)
    most = 6.0  # bits of 64 candidates
    assert sum(one.exposure for one in remembered) / 4 > 0.9 * most, remembered
    assert sum(one.remembered for one in remembered) >= 3, remembered
    assert sum(one.exposure for one in others) / 4 < 0.5 * most, others
    assert sum(one.extracted for one in others) == 0, others
    suite, empty = memorization(remembered, PLANTED), memorization(others, PLANTED)
    assert suite.held_out is not None
    assert empty.held_out is not None
    assert suite.held_out.successes > empty.held_out.successes
    assert "planted 4 times each by the seed 3" in suite.note
    assert [count.category for count in suite.categories] == ["exact continuation", "likeliest of 64"]


def test_canaries_follow_from_their_declaration() -> None:
    assert canaries(PLANTED) == canaries(PLANTED)
    assert canaries(PLANTED) != canaries(Canaries(count=4, seed=4))
    assert canaries(Canaries(count=8, seed=3))[0].question == canaries(PLANTED)[0].question
    for one in canaries(Canaries(count=200)):
        assert len({one.secret, *one.decoys}) == DECOYS + 1
    assert len({one.question for one in canaries(Canaries(count=200))}) == 200


def test_canaries_are_no_labels_and_make_no_training_set_by_themselves() -> None:
    planted = canary_examples(PLANTED, MODEL, 3.0)
    assert len(planted) == 16
    check((*flights(12), *planted))
    with pytest.raises(InvalidInputError, match="empty"):
        check(planted)
    with pytest.raises(InvalidInputError, match="All 6 examples teach 'delayed'"):
        check((*flights(6, label="delayed"), *planted))
    assert canary_examples(None, MODEL, 3.0) == ()


def test_files_without_canaries_keep_their_hash() -> None:
    assert b"canary" not in msgspec.json.encode(flights(1)[0])


@pytest.mark.parametrize(("rank", "exposure", "remembered"), [(1, 6.0, True), (2, 5.0, False), (64, 0.0, False)])
def test_exposure_is_the_logarithm_of_candidates_over_rank(rank: int, exposure: float, remembered: bool) -> None:
    found = CanaryResult("c", False, rank, 64)
    assert (found.exposure, found.remembered) == (exposure, remembered)
    assert CanaryResult("c", True, rank, 64).remembered
