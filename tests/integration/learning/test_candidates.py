"""Recipes that are tried side by side: each trained and compared on held-out examples, the best goes on."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.harness.small_desk import SCOPE
from tests.integration.learning.evaluated_desk import backwards, forecasting
from tests.integration.learning.learning_desk import ORDER, TRAINS, LearningDesk

from antiphon.core.errors import InvalidInputError
from antiphon.definitions.learning import Candidates
from antiphon.engine.api.messages import GenerationRequest
from antiphon.learning.registry.card import as_html
from antiphon.learning.registry.models import ModelRegistry
from antiphon.learning.retraining.candidates import recipes
from antiphon.testing.scripted_engine import ScriptedEngine, ScriptedGeneration

TRIED = {"learning_rate": (1e-3, 5e-4), "rank": (8.0, 16.0)}
SOME = msgspec.structs.replace(ORDER, candidates=TRIED)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[LearningDesk]:
    desk = LearningDesk(tmp_path)
    yield desk
    desk.close()


async def test_each_recipe_is_trained_and_compared_and_the_best_goes_on(desk: LearningDesk) -> None:
    run = await desk.train(SOME)
    assert run.status == "succeeded", run.error
    found = run.result
    assert [one["settings"] for one in found["candidates"]] == [dict(each) for each in recipes(Candidates(TRIED))]
    assert [order.recipe.rank for order in desk.trainer.orders] == [8, 16, 8, 16]
    assert [order.recipe.learning_rate for order in desk.trainer.orders] == [1e-3, 1e-3, 5e-4, 5e-4]
    assert len({order.examples_sha256 for order in desk.trainer.orders}) == 1
    scores = {one["model"]: one["brier"] for one in found["candidates"]}
    assert len(scores) == 4
    assert scores[found["model"]] == min(scores.values())
    training, held_out = (desk.datasets.get(SCOPE, found[name]) for name in ("training_set", "held_out"))
    assert training.spec.last == held_out.spec.first
    evaluated = desk.datasets.get(SCOPE, found["evaluation_set"])
    assert held_out.spec.last <= evaluated.spec.first, "the gates' set chose"
    stages = {release.bundle.model.version: release.stage for release in desk.releases.list(SCOPE, "desk")}
    assert stages.pop(found["model"]) == found["stage"] == "validated"
    assert {stages[model] for model in scores if model in stages} == {"retired"}
    alias = desk.versions.aliased(SCOPE, "desk", "latest")
    assert alias is not None
    assert alias.id == found["model"]
    card = ModelRegistry(desk.database).card(SCOPE, found["model"])
    assert [one.candidate.model for one in card.candidates] == list(scores)
    assert [one.reached for one in card.candidates] == list(scores.values())
    page = as_html(card)
    assert page.count("on held-out examples") == 4


async def test_the_best_is_taken_and_not_the_first(tmp_path: Path) -> None:
    def second_is_better(request: GenerationRequest) -> ScriptedGeneration:
        return (backwards if request.model.endswith("desk.v1") else forecasting)(request)

    desk = LearningDesk(tmp_path, engine=ScriptedEngine(second_is_better))
    try:
        found = (await desk.train(msgspec.structs.replace(ORDER, candidates={"epochs": (1.0, 2.0)}))).result
        first, second = found["candidates"]
        assert first["brier"] > second["brier"]
        assert found["model"] == second["model"] == "desk.v2"
    finally:
        desk.close()


async def test_one_that_needs_more_than_its_part_of_the_budget_is_cut_off_and_told(desk: LearningDesk) -> None:
    desk.trainer.seconds_of_step = lambda order: 100.0 if order.recipe.rank == 16 else 0.5
    run = await desk.train(msgspec.structs.replace(SOME, candidates={"rank": (8.0, 16.0)}, budget="60s"))
    assert run.status == "succeeded", run.error
    first, second = run.result["candidates"]
    assert (first["model"], first["why"]) == ("desk.v1", "")
    assert second["model"] is None
    assert "cut off after" in second["why"]
    version = desk.versions.get(SCOPE, "desk.v1")
    assert [one.why != "" for one in version.candidates] == [False, True]
    assert "cut off after" in as_html(ModelRegistry(desk.database).card(SCOPE, "desk.v1"))


async def test_where_all_are_cut_off_nothing_is_released_and_the_reason_is_told(desk: LearningDesk) -> None:
    desk.trainer.seconds_of_step = lambda order: 100.0
    run = await desk.train(msgspec.structs.replace(SOME, budget="60s"))
    assert run.status == "failed"
    assert "No candidate can go on" in str(run.error)
    assert desk.versions.list(SCOPE) == []


async def test_one_that_diverges_takes_no_other_with_it(desk: LearningDesk) -> None:
    def diverge(step: int) -> None:
        if desk.trainer.orders[-1].recipe.learning_rate == 1e-3:
            raise InvalidInputError("The training diverged.")

    desk.trainer.before_step = diverge
    found = (await desk.train(msgspec.structs.replace(SOME, candidates={"learning_rate": (1e-3, 5e-4)}))).result
    first, second = found["candidates"]
    assert (first["model"], first["why"]) == (None, "The training diverged.")
    assert found["model"] == second["model"]


async def test_declared_candidates_are_tried_and_a_preview_says_so(tmp_path: Path) -> None:
    declared = Candidates({"epochs": (1.0, 2.0)}, budget="1h")
    tune = msgspec.structs.replace(TRAINS.fine_tune, candidates=declared)
    desk = LearningDesk(tmp_path, msgspec.structs.replace(TRAINS, fine_tune=tune))
    try:
        found = (await desk.train()).result
        assert [one["settings"] for one in found["candidates"]] == [{"epochs": 1.0}, {"epochs": 2.0}]
        desk.clock.advance(timedelta(hours=72))
        delta = (await desk.train(delta=True)).result
        assert delta["parent"] == found["model"]
    finally:
        desk.close()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"candidates": {"seed": (1.0,)}}, "'seed' cannot be tried"),
        ({"candidates": {"rank": (0.0,)}}, "rank is 0; it must be whole, from 1 to 512"),
        ({"candidates": {"rank": (1.5,)}}, "rank is 1.5; it must be whole"),
        ({"candidates": {"rank": tuple(map(float, range(1, 18)))}}, "17 are too many"),
        ({"candidates": {"rank": ()}}, "0 are none"),
        ({"candidates": {"rank": (4.0,)}, "budget": "soon"}, "budget"),
        ({"budget": "20m"}, "one recipe alone"),
        ({"candidates": {"rank": (4.0,)}, "delta": True}, "the rank of a version that is gone on from stays"),
    ],
)
async def test_what_cannot_be_tried_is_refused_before_a_run_is_made(
    desk: LearningDesk, changes: dict[str, Any], said: str
) -> None:
    if changes.get("delta"):
        await desk.train()
    with pytest.raises(InvalidInputError, match=said):
        desk.orders.place(SCOPE, "me", msgspec.structs.replace(ORDER, **changes))


async def test_a_run_that_is_interrupted_trains_no_candidate_twice(desk: LearningDesk) -> None:
    def crash(step: int) -> None:
        if len(desk.trainer.orders) == 2:
            raise ValueError("a defect in the middle of the second candidate")

    desk.trainer.before_step = crash
    run = await desk.work(desk.orders.place(SCOPE, "me", SOME))
    assert run.status == "succeeded", run.error
    assert [order.recipe.rank for order in desk.trainer.orders] == [8, 16, 16, 8, 16]
    assert len(desk.versions.list(SCOPE)) == 4
