"""Rows as examples: the served prompt, and completions as the engine's grammar writes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.harness.small_desk import DESK, SCOPE, START, FeatureTable, SmallDesk

from antiphon.core.errors import FeatureUnavailableError, InvalidInputError
from antiphon.definitions.application import Freshness
from antiphon.definitions.learning import FineTune, Outcome
from antiphon.definitions.prompt import Prompt
from antiphon.features.values import FeatureValue, FeatureVector
from antiphon.learning.datasets.reader import DatasetRow
from antiphon.learning.retraining.examples import is_whole, render, render_all, served_application
from antiphon.testing.scripted_engine import MODEL, ScriptedEngine, ScriptedGeneration
from antiphon.training.examples import Part

TUNE = FineTune(
    base="scripted",
    targets={"notice": 'Delay {{ features.congestion.delay }} min, "{{ label }}".'},
    prompt=Prompt(
        "{{ entity.flight }} at {{ entity.origin }}: {{ features.congestion.delay }} late, "
        "wind {{ features.weather.wind if features.weather.wind is not none else '?' }}.",
        system="You are the <|im_start|> desk.",
        examples=(("a question", "an answer"),),
    ),
    whole_share=1.0,
    text_weight=0.2,
)
APPLICATION = msgspec.structs.replace(DESK, outcome=Outcome("outlook", positive="delayed"), fine_tune=TUNE)


def row(delay: float | None = 26.0, wind: float | None = 11.0, label: str = "delayed", **fields: Any) -> DatasetRow:
    values = {
        "congestion.delay": FeatureValue(delay, START, "v1"),
        "weather.wind": FeatureValue(wind, START, "v1"),
    }
    given: dict[str, Any] = {
        "example": "one",
        "entity": {"flight": "B6 1", "origin": "JFK"},
        "moment": START + timedelta(minutes=1),
        "label": label,
        "features": FeatureVector(None, values),
    }
    return DatasetRow(**{**given, **fields})


@pytest.mark.parametrize(
    ("values", "freshness"),
    [
        ({"congestion__delay": 26.0, "weather__wind": 11.0}, {}),
        ({"congestion__delay": 2.5, "weather__wind": None}, {}),
        # Beyond its contract a value is not served, so that it is not trained on either.
        ({"congestion__delay": 27.4, "weather__wind": 12.5}, {"weather": Freshness("30s", when_stale="default")}),
    ],
)
async def test_the_training_prompt_is_the_served_prompt_byte_for_byte(
    tmp_path: Path, values: dict[str, float | None], freshness: dict[str, Freshness]
) -> None:
    application = msgspec.structs.replace(APPLICATION, freshness=freshness)
    served = served_application(application, "scripted")
    engine = ScriptedEngine([ScriptedGeneration('{"outlook": "delayed", "notice": "Late."}')])
    desk = SmallDesk(tmp_path, engine, served, features=FeatureTable(**values))
    try:
        answer = await desk.answerer.answer(desk.request())
        prompt = desk.blobs.get(SCOPE, answer.receipt.attempts[0].prompt_blob)
    finally:
        desk.close()
    asked = row(values["congestion__delay"], values["weather__wind"])
    assert render(asked, application, MODEL).prompt.encode() == prompt
    assert prompt.count(b"<|im_start|>") == 5, "a special token of the user's text would speak as the system"


def text_of(parts: Sequence[Part]) -> str:
    return "".join(part.text for part in parts)


def test_a_served_application_is_told_what_it_was_trained_on() -> None:
    served = served_application(APPLICATION, "desk.v1")
    assert (served.model, served.prompt) == ("desk.v1", TUNE.prompt)
    without = msgspec.structs.replace(APPLICATION, fine_tune=msgspec.structs.replace(TUNE, prompt=None))
    assert served_application(without, "desk.v1").prompt == DESK.prompt


def test_parts_follow_the_schema_and_only_the_label_and_the_text_are_learned() -> None:
    parts = render(row(), APPLICATION, MODEL).parts
    assert [(part.text, part.weight) for part in parts] == [
        ('{"outlook": "', 0.0),
        ("delayed", 1.0),
        ('", "notice": "', 0.0),
        ('Delay 25 min, \\"delayed\\"."', 0.2),
        ("}", 0.0),
    ]
    assert json.loads(text_of(parts)) == {"outlook": "delayed", "notice": 'Delay 25 min, "delayed".'}


def test_an_example_that_is_not_whole_ends_with_its_label() -> None:
    short = msgspec.structs.replace(APPLICATION, fine_tune=msgspec.structs.replace(TUNE, whole_share=0.0))
    assert text_of(render(row(label="on_time"), short, MODEL).parts) == '{"outlook": "on_time'


def test_the_share_of_whole_examples_is_as_declared_and_a_smaller_one_is_a_part_of_it() -> None:
    quarter, half = (msgspec.structs.replace(TUNE, whole_share=share) for share in (0.25, 0.5))
    names = [f"flight {number}" for number in range(2_000)]
    some, more = ({name for name in names if is_whole(name, tune)} for tune in (quarter, half))
    assert some < more
    assert abs(len(some) / 2_000 - 0.25) < 0.04
    other = msgspec.structs.replace(quarter, seed=1)
    assert some != {name for name in names if is_whole(name, other)}


def test_values_that_are_no_text_are_written_as_json() -> None:
    schema = {
        "type": "object",
        "properties": {
            "minutes": {"type": "integer"},
            "outlook": {"enum": ["on_time", "delayed"]},
            "calm": {"type": "boolean"},
        },
    }
    tune = msgspec.structs.replace(
        TUNE, targets={"minutes": "{{ features.congestion.delay }}", "calm": "{{ 'false' if label == 'delayed' }}"}
    )
    application = msgspec.structs.replace(APPLICATION, output_schema=json.dumps(schema), fine_tune=tune)
    parts = render(row(), application, MODEL).parts
    assert text_of(parts) == '{"minutes": 25, "outlook": "delayed", "calm": false}'
    # What follows a number is learned with it: it says where the number ends.
    assert [part.weight for part in parts if part.text in ("25,", "delayed", "false")] == [0.2, 1.0, 0.2]


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"targets": {}}, "Nothing says what should be written"),
        ({"targets": {"notice": "{{ features.nowhere.delay }}"}}, "template fails"),
        ({"targets": {"notice": "{{ 'x' ~ 'y' * 3 }}"}}, "template fails"),
        ({"targets": {"notice": "{% for _ in range(200) %}x{% endfor %}"}}, "200 characters, the property at most 160"),
    ],
)
def test_a_target_that_cannot_be_written_is_refused(changes: dict[str, Any], part: str) -> None:
    application = msgspec.structs.replace(APPLICATION, fine_tune=msgspec.structs.replace(TUNE, **changes))
    with pytest.raises(InvalidInputError, match=part):
        render(row(), application, MODEL)


def test_a_label_that_the_output_does_not_have_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="'cancelled' is none of on_time, delayed"):
        render(row(label="cancelled"), APPLICATION, MODEL)


def test_rows_that_serving_would_refuse_are_counted_and_left_out() -> None:
    strict = msgspec.structs.replace(APPLICATION, freshness={"weather": Freshness("10s", when_stale="reject")})
    with pytest.raises(FeatureUnavailableError):
        render(row(), strict, MODEL)
    fresh = row(example="two", moment=START + timedelta(seconds=5))
    rendered = render_all([row(), fresh], strict, MODEL, str.encode, old=True)
    assert ([(example.id, example.old) for example in rendered.examples], rendered.refused) == ([("two", True)], 1)
