"""Requests in the role of an evaluation: a named release over a dataset's rows, answered no further than is needed."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.harness.small_desk import DESK, SCOPE, FeatureTable, SmallDesk

from antiphon.core.errors import InvalidInputError, InvalidOutputError
from antiphon.definitions.application import ApplicationSpec, Reuse
from antiphon.definitions.guards import FigureGuard
from antiphon.serving.request import AnswerRequest
from antiphon.testing.scripted_engine import ScriptedEngine, ScriptedGeneration

WHOLE = json.dumps({"outlook": "delayed", "notice": "Delays now average 25 minutes."})
LEADING = json.dumps({"outlook": "delayed"})
FALSE = json.dumps({"outlook": "delayed", "notice": "Delays now average 40 minutes."})

Make = Callable[..., SmallDesk]


def changed(**fields: Any) -> ApplicationSpec:
    return msgspec.structs.replace(DESK, **fields)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    desks: list[SmallDesk] = []

    def made(*script: ScriptedGeneration, application: ApplicationSpec = DESK, **options: Any) -> SmallDesk:
        desks.append(SmallDesk(tmp_path, ScriptedEngine(script), application, **options))
        return desks[-1]

    yield made
    for desk in desks:
        desk.close()


def evaluating(desk: SmallDesk, **fields: Any) -> AnswerRequest:
    given = {"role": "evaluation", "path": "batch", "release": desk.release.id}
    return desk.request(**{**given, **fields})


@pytest.mark.parametrize("mode", ["always", "never"])
async def test_an_evaluation_asks_the_model_and_leaves_no_answer(make: Make, mode: Any) -> None:
    desk = make(ScriptedGeneration(WHOLE), application=changed(reuse=Reuse(mode=mode)))
    await desk.answerer.answer(desk.request())
    for _ in range(2):
        answer = await desk.answerer.answer(evaluating(desk))
        assert (answer.receipt.role, answer.receipt.cache.origin) == ("evaluation", "generated")
        assert (await desk.replay(answer.receipt)).identical
    with desk.database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM answers").scalar() == 1


async def test_a_draft_over_a_dataset_has_no_publication(make: Make) -> None:
    features = FeatureTable()
    features.publication = None
    desk = make(ScriptedGeneration(WHOLE), features=features)
    draft = desk.draft(changed(owner="the next one"))
    answer = await desk.answerer.answer(evaluating(desk, release=draft.id))
    assert (answer.publication, answer.receipt.publication, answer.receipt.release) == (None, None, draft.id)
    assert desk.receipts.get(SCOPE, answer.prediction) == answer.receipt
    assert desk.releases.live(SCOPE, "desk") == desk.release


async def test_only_the_leading_properties(make: Make) -> None:
    desk = make(ScriptedGeneration(WHOLE), ScriptedGeneration(LEADING))
    whole = await desk.answerer.answer(evaluating(desk))
    answer = await desk.answerer.answer(evaluating(desk, only=("outlook",)))
    assert answer.text == LEADING
    first, second = desk.scripted.asked
    assert second.prompt == first.prompt
    assert list(json.loads(str(first.json_schema))["properties"]) == ["outlook", "notice"]
    assert json.loads(str(second.json_schema)) == {
        "type": "object",
        "properties": {"outlook": {"enum": ["on_time", "delayed"]}},
        "required": ["outlook"],
        "additionalProperties": False,
    }
    assert second.branches
    assert answer.receipt.guards == ()
    assert [action.action for action in whole.receipt.guards] == ["pass"]
    desk.scripted.follow((ScriptedGeneration(LEADING),))
    assert (await desk.replay(answer.receipt)).identical


async def test_a_part_of_an_output_is_held_against_its_part_of_the_schema(make: Make) -> None:
    desk = make(ScriptedGeneration(WHOLE))
    with pytest.raises(InvalidOutputError, match="notice"):
        await desk.answerer.answer(evaluating(desk, only=("outlook",)))


async def test_a_part_is_no_stored_answer_for_the_whole(make: Make) -> None:
    always = changed(reuse=Reuse(mode="always"))
    desk = make(ScriptedGeneration(LEADING), ScriptedGeneration(WHOLE), application=always)
    part = await desk.answerer.answer(desk.request(only=("outlook",)))
    assert part.receipt.role == "live"
    assert (await desk.answerer.answer(desk.request())).text == WHOLE
    desk.scripted.follow((ScriptedGeneration(LEADING),))
    assert (await desk.answerer.answer(desk.request(only=("outlook",)))).text == LEADING


async def test_a_fallback_in_a_part_is_replayed(make: Make) -> None:
    schema: dict[str, Any] = json.loads(str(DESK.output_schema))
    schema["properties"]["advice"] = {"type": "string"}
    schema["required"].append("advice")
    longer = changed(
        output_schema=json.dumps(schema),
        guards=(*DESK.guards, FigureGuard("advice", fallback="{{ output.notice }} Stay close.")),
    )
    desk = make(ScriptedGeneration(FALSE), application=longer)
    answer = await desk.answerer.answer(evaluating(desk, only=("notice",)))
    assert json.loads(answer.text) == json.loads(WHOLE)
    assert [action.action for action in answer.receipt.guards] == ["retry", "template"]
    assert (await desk.replay(answer.receipt)).identical


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"release": None}, "must name its release"),
        ({"role": "canary"}, "given by a rollout"),
        ({"only": ("weather",)}, "no property weather"),
    ],
)
async def test_what_is_refused(make: Make, fields: dict[str, Any], what: str) -> None:
    desk = make(ScriptedGeneration(WHOLE))
    with pytest.raises(InvalidInputError, match=what):
        await desk.answerer.answer(evaluating(desk, **fields))
    assert desk.scripted.asked == []
    assert desk.receipts.count(SCOPE) == 0
