"""Guards through answer(): every action, in one piece and as a stream, on applications that are unlike each other."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.harness.small_desk import DESK, SCOPE, SmallDesk

from antiphon.core.errors import GuardRefusedError, InvalidOutputError
from antiphon.definitions.application import ApplicationSpec, Reuse
from antiphon.definitions.guards import (
    ContentGuard,
    FunctionGuard,
    GroundedGuard,
    JudgeGuard,
    PatternGuard,
    PIIGuard,
    SchemaGuard,
)
from antiphon.definitions.prompt import Prompt
from antiphon.engine.api.messages import GenerationRequest
from antiphon.serving.answerer import Answerer
from antiphon.serving.request import Answer
from antiphon.serving.user_functions import UserFunctions
from antiphon.testing.scripted_engine import ScriptedEngine, ScriptedGeneration

NEVER = Reuse(mode="never", identical_prompts=False)
REPLY = msgspec.structs.replace(
    DESK,
    output_schema=None,
    classes=(),
    guards=(),
    figures=(),
    reuse=NEVER,
    prompt=Prompt(template="Reply. {{ question }}"),
)
"""A support desk: free text."""
EXTRACT = msgspec.structs.replace(
    REPLY,
    output_schema=json.dumps(
        {
            "type": "object",
            "properties": {
                "customer": {"type": "string"},
                "items": {"type": "array", "items": {"type": "string"}},
                "total": {"type": "number", "minimum": 0},
                "summary": {"type": "string"},
            },
            "required": ["customer", "items", "total", "summary"],
            "additionalProperties": False,
        }
    ),
)
"""An extraction from orders: a schema."""
ORDER = '{"customer": "Berg", "items": ["lamp, red", "bulb"], "total": 12.5, "summary": "A lamp and a bulb."}'
TRADE = '{"seller": "Berg", "buyer": "Tal"}'
KIND = "Thank you for writing. The parcel is on its way! We will write again."

Make = Callable[..., SmallDesk]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    desks: list[SmallDesk] = []

    def made(
        application: ApplicationSpec, *script: ScriptedGeneration | str, modules: tuple[str, ...] = ()
    ) -> SmallDesk:
        generations = [ScriptedGeneration(one) if isinstance(one, str) else one for one in script]
        desk = SmallDesk(tmp_path, ScriptedEngine(generations), application)
        services = msgspec.structs.replace(desk.services, guard_functions=UserFunctions(modules))
        desk.answerer = Answerer(services)
        desks.append(desk)
        return desk

    yield made
    for desk in desks:
        desk.close()


def guarded(application: ApplicationSpec, *guards: Any, **fields: Any) -> ApplicationSpec:
    return msgspec.structs.replace(application, guards=guards, **fields)


async def streamed(desk: SmallDesk) -> tuple[list[str], Answer | None, InvalidOutputError | None]:
    pieces: list[str] = []
    try:
        async with aclosing(desk.answerer.stream(desk.request())) as events:
            async for event in events:
                if isinstance(event, Answer):
                    return pieces, event, None
                pieces.append(event.text)
    except InvalidOutputError as error:
        return pieces, None, error
    raise AssertionError("no end")


def actions(answer: Answer | None) -> list[tuple[str, str]]:
    assert answer is not None
    return [(one.guard, one.action) for one in answer.receipt.guards]


async def replayed(desk: SmallDesk, answer: Answer) -> Any:
    texts = [desk.blobs.get(SCOPE, one.text_blob).decode() for one in answer.receipt.attempts]
    desk.engine = ScriptedEngine([ScriptedGeneration(text) for text in texts])
    return await desk.replay(answer.receipt)


# In one piece


async def test_pii_is_refused_and_never_repeated(make: Make) -> None:
    desk = make(guarded(REPLY, PIIGuard(retries=1)), "Call +49 30 1234567 or write to anna@mail.example.")
    with pytest.raises(GuardRefusedError) as refused:
        await desk.answerer.answer(desk.request())
    assert (refused.value.http_status, refused.value.code) == (422, "guard_refused")
    assert "anna" not in str(refused.value)
    assert "1234567" not in str(refused.value)
    assert refused.value.next_step
    assert len(desk.scripted.asked) == 2
    assert desk.receipts.count(SCOPE) == 0


async def test_reasons_of_other_guards_repeat_no_pii(make: Make) -> None:
    figures = msgspec.structs.replace(DESK.guards[0], property="", fallback="Please call.", retries=0)
    flagging = PIIGuard(action="flag", retries=0)
    desk = make(guarded(REPLY, flagging, figures, figures=DESK.figures), "Call +49 30 1234567 at once.")
    answer = await desk.answerer.answer(desk.request())
    assert answer.text == "Please call."
    assert "[removed]" in answer.receipt.guards[-1].reason + answer.receipt.guards[0].reason
    assert "1234567" not in msgspec.json.encode(answer.receipt.guards).decode()


async def test_a_flag_serves_the_text_and_says_so(make: Make) -> None:
    desk = make(guarded(REPLY, ContentGuard(required=("order number",), action="flag", retries=0)), KIND)
    answer = await desk.answerer.answer(desk.request())
    assert answer.text == KIND
    assert actions(answer) == [("content", "flag")]
    assert answer.receipt.guards[0].reason == "it does not say 'order number'"


async def test_a_refusal_comes_before_a_template(make: Make) -> None:
    template = ContentGuard("summary", forbidden=("lamp",), fallback="An order.", retries=0)
    refusing = PatternGuard("customer", pattern="B.rg", retries=0)
    desk = make(guarded(EXTRACT, template, refusing), ORDER)
    with pytest.raises(GuardRefusedError, match="pattern:customer"):
        await desk.answerer.answer(desk.request())


async def test_a_fallback_is_held_to_the_other_guards(make: Make) -> None:
    template = ContentGuard(forbidden=("parcel",), fallback="Write to anna@mail.example.", retries=0)
    desk = make(guarded(REPLY, template, PIIGuard()), KIND)
    with pytest.raises(GuardRefusedError, match="pii"):
        await desk.answerer.answer(desk.request())


async def test_a_schema_guard_is_stricter_than_the_output(make: Make) -> None:
    few = SchemaGuard("items", schema={"maxItems": 1}, retries=1)
    one = ORDER.replace('["lamp, red", "bulb"]', '["lamp"]')
    desk = make(guarded(EXTRACT, few), ORDER, one)
    answer = await desk.answerer.answer(desk.request())
    assert answer.text == one
    assert actions(answer) == [("schema:items", "retry"), ("schema:items", "pass")]


async def test_free_text_that_is_json_meets_a_schema(make: Make) -> None:
    desk = make(guarded(REPLY, SchemaGuard(schema={"type": "object", "required": ["a"]}, retries=0)), '{"b": 1}')
    with pytest.raises(GuardRefusedError):
        await desk.answerer.answer(desk.request())


async def test_groundedness_reads_the_request(make: Make) -> None:
    grounded = GroundedGuard(documents=("Parcels take 3 days.",), retries=0)
    desk = make(guarded(REPLY, grounded), "The parcel takes 3 days to JFK.", "The parcel takes 4 days.")
    assert (await desk.answerer.answer(desk.request())).text == "The parcel takes 3 days to JFK."
    with pytest.raises(GuardRefusedError, match="grounded"):
        await desk.answerer.answer(desk.request())


def no_elephant(text: str, request: Any) -> str | None:
    return None if "elephant" not in text and request["entity"]["origin"] == "JFK" else "an elephant"


async def test_a_python_function_judges(make: Make) -> None:
    guard = FunctionGuard(function=f"{__name__}:no_elephant", retries=0)
    desk = make(guarded(REPLY, guard), KIND, "An elephant is no elephant.", modules=(__name__,))
    assert actions(await desk.answerer.answer(desk.request())) == [("function", "pass")]
    with pytest.raises(GuardRefusedError):
        await desk.answerer.answer(desk.request())


async def test_a_function_of_a_module_that_is_not_named_lets_nothing_pass(make: Make) -> None:
    desk = make(guarded(REPLY, FunctionGuard(function=f"{__name__}:no_elephant", retries=0)), KIND)
    pieces, answer, error = await streamed(desk)
    assert (pieces, answer) == ([], None)
    assert isinstance(error, GuardRefusedError)


def judging(text: str, verdict: str) -> Callable[[GenerationRequest], ScriptedGeneration]:
    def script(request: GenerationRequest) -> ScriptedGeneration:
        return ScriptedGeneration(verdict if "Rubric: Is it kind?" in request.prompt else text)

    return script


@pytest.mark.parametrize(
    ("verdict", "action"), [('{"verdict": "pass"}', "pass"), ('{"verdict": "fail"}', "flag"), ("hm", "flag")]
)
async def test_a_judge_model_judges_the_whole_text(tmp_path: Path, verdict: str, action: str) -> None:
    guard = JudgeGuard(rubric="Is it kind?", version="3", action="flag", retries=0)
    desk = SmallDesk(tmp_path, ScriptedEngine(judging(KIND, verdict)), guarded(REPLY, guard))
    answer = await desk.answerer.answer(desk.request())
    assert actions(answer) == [("judge:v3", action)]
    usage, part = answer.receipt.usage, answer.receipt.judging
    assert part is not None
    assert (part.attempts, usage.attempts, len(answer.receipt.attempts)) == (1, 1, 1)
    # The scripted engine counts words: the answer's and the judge's are both the answer's cost.
    words = [len(one.split()) for one in (KIND, verdict)]
    assert (usage.completion_tokens, part.completion_tokens) == (sum(words), words[1])
    prompts = [len(one.prompt.split()) for one in desk.engine.asked]
    assert (usage.prompt_tokens, part.prompt_tokens) == (sum(prompts), prompts[1])
    assert usage.engine_seconds == pytest.approx(2 * part.engine_seconds)
    desk.close()


async def test_an_answer_without_a_judge_has_no_usage_of_one(make: Make) -> None:
    desk = make(REPLY, KIND)
    assert (await desk.answerer.answer(desk.request())).receipt.judging is None


async def test_a_judge_that_is_away_has_not_passed(make: Make) -> None:
    desk = make(guarded(REPLY, JudgeGuard(rubric="Kind?", engine="nowhere/judge", retries=0)), KIND)
    pieces, _, error = await streamed(desk)
    assert pieces == []
    assert isinstance(error, GuardRefusedError)


# Streams


async def test_sentences_are_shown_as_they_pass(make: Make) -> None:
    desk = make(guarded(REPLY, PIIGuard(), ContentGuard(forbidden=("refund",))), KIND)
    pieces, answer, _ = await streamed(desk)
    assert pieces == ["Thank you for writing. ", "The parcel is on its way! ", "We will write again."]
    assert answer is not None
    assert answer.text == "".join(pieces) == (await desk.answerer.answer(desk.request())).text
    assert answer.receipt.timing.first_byte < answer.receipt.timing.total


async def test_properties_are_shown_as_they_pass(make: Make) -> None:
    desk = make(EXTRACT, ORDER)
    pieces, answer, _ = await streamed(desk)
    assert pieces[:2] == ['{"customer": "Berg",', ' "items": ["lamp, red", "bulb"],']
    assert pieces[2:] == [' "total": 12.5,', ' "summary": "A lamp and a bulb."}']
    assert answer is not None
    assert answer.text == ORDER


async def test_a_property_whose_schema_is_another_ones_is_shown_at_the_end(make: Make) -> None:
    properties = {"seller": {"type": "string"}, "buyer": {"$ref": "#/properties/seller"}}
    desk = make(msgspec.structs.replace(EXTRACT, output_schema=json.dumps({"properties": properties})), TRADE)
    pieces, answer, _ = await streamed(desk)
    assert pieces == ['{"seller": "Berg",', ' "buyer": "Tal"}']
    assert answer is not None
    assert answer.text == TRADE


async def test_guards_of_the_whole_output_show_properties_too(make: Make) -> None:
    guards = (PIIGuard(), ContentGuard(forbidden=("full refund",)), PatternGuard(pattern=r"INT-\d+"))
    desk = make(guarded(EXTRACT, *guards), ORDER)
    pieces, _, _ = await streamed(desk)
    assert pieces[0] == '{"customer": "Berg",'
    assert "".join(pieces) == ORDER


@pytest.mark.parametrize(
    "schema",
    [
        {"dependentRequired": {"customer": ["vat"]}},
        {"properties": {"total": {"type": "number"}}, "required": []},
    ],
)
async def test_what_only_the_whole_can_meet_is_shown_whole(make: Make, schema: dict[str, Any]) -> None:
    whole = {**(EXTRACT.schema or {}), **schema}
    desk = make(msgspec.structs.replace(EXTRACT, output_schema=json.dumps(whole)), ORDER)
    pieces, _, _ = await streamed(desk)
    assert len(pieces) <= 1


async def test_a_property_that_does_not_meet_the_schema_is_not_shown(make: Make) -> None:
    desk = make(EXTRACT, ORDER.replace("12.5", "-1"))
    pieces, answer, error = await streamed(desk)
    assert "".join(pieces) == '{"customer": "Berg", "items": ["lamp, red", "bulb"],'
    assert answer is None
    assert error is not None


async def test_required_content_holds_the_last_part_back(make: Make) -> None:
    desk = make(guarded(REPLY, ContentGuard(required=("order number",), retries=0)), KIND)
    pieces, answer, error = await streamed(desk)
    assert "".join(pieces) == "Thank you for writing. The parcel is on its way! "
    assert answer is None
    assert isinstance(error, GuardRefusedError)


async def test_a_whole_guard_shows_nothing_before_the_end(make: Make) -> None:
    desk = make(guarded(REPLY, ContentGuard(forbidden=("refund",), whole=True)), KIND)
    assert (await streamed(desk))[0] == [KIND]


async def test_a_free_text_that_was_shown_goes_on_with_the_template(make: Make) -> None:
    guard = ContentGuard(forbidden=("refund",), fallback="Please call us.", retries=3)
    desk = make(guarded(REPLY, guard), "Thank you. You get a refund. Bye.")
    pieces, answer, _ = await streamed(desk)
    assert "".join(pieces) == "Thank you. Please call us."
    assert answer is not None
    assert answer.text == "Thank you. Please call us."
    assert actions(answer) == [("content", "template")]
    assert (answer.receipt.guards[0].shown, len(answer.receipt.attempts)) == (11, 1)
    again = await replayed(desk, answer)
    assert again.served_identical
    assert again.identical


async def test_nothing_shown_is_generated_again(make: Make) -> None:
    guard = ContentGuard(forbidden=("refund",), retries=1)
    desk = make(guarded(REPLY, guard), "You get a refund. Bye.", KIND)
    pieces, answer, _ = await streamed(desk)
    assert "".join(pieces) == KIND
    assert actions(answer) == [("content", "retry"), ("content", "pass")]


async def test_a_structured_output_is_generated_again_with_what_was_shown(make: Make) -> None:
    guard = ContentGuard("summary", forbidden=("lamp",), fallback="An order.", retries=1)
    again = ORDER.replace("A lamp and a bulb.", "Two things.")
    desk = make(guarded(EXTRACT, guard), ORDER, again)
    pieces, answer, _ = await streamed(desk)
    assert "".join(pieces) == again
    assert actions(answer) == [("content:summary", "retry"), ("content:summary", "pass")]
    held = json.loads(desk.scripted.asked[1].json_schema or "")
    assert held["properties"]["customer"] == {"enum": ["Berg"]}
    assert held["properties"]["items"] == {"enum": [["lamp, red", "bulb"]]}
    assert "enum" not in held["properties"]["summary"]
    assert list(held["properties"]) == ["customer", "items", "total", "summary"]


async def test_another_beginning_does_not_count(make: Make) -> None:
    guard = ContentGuard("summary", forbidden=("lamp",), fallback="An order.", retries=1)
    other = ORDER.replace("Berg", "Tal").replace("A lamp and a bulb.", "Two things.")
    desk = make(guarded(EXTRACT, guard), ORDER, other)
    pieces, answer, _ = await streamed(desk)
    assert answer is not None
    assert "".join(pieces) == answer.text
    assert json.loads(answer.text) == {**json.loads(ORDER), "summary": "An order."}
    assert answer.text.startswith('{"customer": "Berg", "items": ["lamp, red", "bulb"], "total": 12.5, ')
    assert (await replayed(desk, answer)).served_identical


async def test_a_deviating_stream_is_not_stored(make: Make) -> None:
    guard = ContentGuard(forbidden=("refund",), fallback="Please call us.", retries=0)
    desk = make(guarded(REPLY, guard, reuse=Reuse()), "Thank you. You get a refund.")
    _, shown, _ = await streamed(desk)
    whole = await desk.answerer.answer(desk.request())
    assert shown is not None
    assert (shown.text, whole.text) == ("Thank you. Please call us.", "Please call us.")
    assert whole.receipt.cache.origin == "generated"
    assert (await streamed(desk))[1].text == "Please call us."  # type: ignore[union-attr]


async def test_a_reader_that_stands_still_holds_up_nobody_with_the_same_prompt(make: Make) -> None:
    desk = make(guarded(REPLY, PIIGuard(), reuse=Reuse(mode="never")), KIND)
    async with aclosing(desk.answerer.stream(desk.request())) as events:
        assert await anext(events)
        async with asyncio.timeout(5):
            other = await desk.answerer.answer(desk.request())
        assert other.receipt.cache.origin == "identical-prompt"


async def test_the_flight_desk_shows_its_outlook_at_once(make: Make) -> None:
    good = '{"outlook": "delayed", "notice": "Delays now average 25 minutes."}'
    desk = make(msgspec.structs.replace(DESK, reuse=NEVER), good.replace("25", "40"), good)
    pieces, answer, _ = await streamed(desk)
    assert pieces[0] == '{"outlook": "delayed",'
    assert "".join(pieces) == good
    assert actions(answer) == [("figures:notice", "retry"), ("figures:notice", "pass")]


async def test_locales_print_and_read_figures(make: Make) -> None:
    figure = msgspec.structs.replace(DESK.figures[0], step=0.5, unit=("Minuten",), roles=("Verspätung",))
    prompt = msgspec.structs.replace(DESK.prompt, template="{{ features.congestion.delay }} Minuten")
    guard = msgspec.structs.replace(DESK.guards[0], property="", fallback="Wir wissen nichts.", retries=0)
    german = guarded(REPLY, guard, figures=(figure,), prompt=prompt, locale="de")
    desk = make(german, "Die Verspätung ist 25,5 Minuten.", "Die Verspätung ist 25.5 Minuten.")
    desk.features.set(desk.clock.now(), congestion__delay=25.5)
    assert (await desk.answerer.answer(desk.request())).text == "Die Verspätung ist 25,5 Minuten."
    assert "25,5 Minuten" in desk.scripted.asked[0].prompt
    assert (await desk.answerer.answer(desk.request())).text == "Wir wissen nichts."
