"""What OpenAI's API says about generating, through a gateway and answer() to an engine and back.

The same tests run over the simulated engine, over llama.cpp, and over a gateway whose engine is another gateway's URL.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import openai
import pytest
import pytest_asyncio
from tests.harness.small_desk import ASKER, SCOPE
from tests.harness.stored_files import batch_lines
from tests.integration.gateway.generating_world import CHAT, MODEL, World, over, simulated, with_tags

from antiphon.engine.backends.llamacpp.runtime import LlamaCpp
from antiphon.engine.backends.remote.engine import RemoteEngine
from antiphon.engine.execution.local import LocalEngine
from antiphon.engine.execution.runtime import Layout
from antiphon.engine.weights import Weights
from antiphon.serving import several
from antiphon.testing.scripted_engine import ScriptedEngine, ScriptedGeneration

pytestmark = pytest.mark.asyncio(loop_scope="module")

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather at an airport.",
        "parameters": {
            "type": "object",
            "properties": {"airport": {"$ref": "#/$defs/airport"}, "hours": {"enum": [1, 6, 12]}},
            "required": ["airport", "hours"],
            "additionalProperties": False,
            "$defs": {"airport": {"enum": ["JFK", "EWR", "LGA"]}},
        },
    },
}
DELAY = {"type": "function", "function": {"name": "delay", "description": "The delay of today."}}


async def llama(stack: AsyncExitStack, folder: Path, weights: Weights) -> World:
    runtime = LlamaCpp(MODEL, weights, Layout(slots=4, context_tokens=1024), threads=1)
    engine = await LocalEngine({MODEL: runtime}).start()
    stack.push_async_callback(engine.close)
    return await over(stack, folder, engine)


async def remote(stack: AsyncExitStack, folder: Path) -> World:
    behind = await simulated(stack, folder.with_name("behind"))
    url, key = str(behind.client.base_url), behind.client.api_key
    engine = RemoteEngine(url, key=key)
    stack.push_async_callback(engine.close)
    return await over(stack, folder, engine)


WORLDS: dict[str, Any] = {"simulated": simulated, "tags": with_tags, "remote": remote, "llama": llama}


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=["simulated", "tags", "remote", pytest.param("llama", marks=pytest.mark.model)],
)
async def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    start = WORLDS[request.param]
    if start is llama:
        start = partial(start, weights=request.getfixturevalue("few_layers"))
    async with AsyncExitStack() as stack:
        yield await start(stack, tmp_path_factory.mktemp(request.param) / "world")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def local(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """Over the simulated engine."""
    async with AsyncExitStack() as stack:
        yield await simulated(stack, tmp_path_factory.mktemp("local") / "world")


async def test_choices_are_told_apart_whole_and_streamed(world: World) -> None:
    asked: dict[str, Any] = {"n": 3, "temperature": 1.2, "seed": 5}
    whole = await world.chat(**asked)
    texts = [choice.message.content for choice in whole.choices]
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert len(set(texts)) == 3, texts
    made = [choice.model_extra["antiphon"]["prediction"] for choice in whole.choices]
    assert len(set(made)) == 3
    assert made[0] == whole.id
    receipts = [world.desk.receipts.get(SCOPE, prediction) for prediction in made]
    assert len({receipt.request for receipt in receipts}) == 1
    assert whole.usage.prompt_tokens == receipts[0].usage.prompt_tokens
    assert whole.usage.completion_tokens == sum(receipt.usage.completion_tokens for receipt in receipts)
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    for prediction in made:
        assert await world.replays(prediction)
    alone = await world.chat(temperature=1.2, seed=6)
    assert alone.choices[0].message.content == texts[1]
    streamed: dict[int, str] = defaultdict(str)
    ends, usage = {}, None
    async for chunk in await world.chat(**asked, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                ends[choice.index] = chunk.model_extra["antiphon"]["prediction"]
    assert [streamed[index] for index in range(3)] == texts
    assert len(set(ends.values())) == 3
    assert usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens


async def test_log_probabilities_of_the_prompt_and_of_what_follows(world: World) -> None:
    plain = await world.complete(logprobs=2)
    echoed = await world.complete(logprobs=2, echo=True)
    text, found = echoed.choices[0].text, echoed.choices[0].logprobs
    assert text == f"Flights are{plain.choices[0].text}"
    assert "".join(found.tokens) == text
    assert found.text_offset == [sum(map(len, found.tokens[:at])) for at in range(len(found.tokens))]
    assert found.token_logprobs[0] is None
    assert found.top_logprobs[0] is None
    assert all(value <= 0 for value in found.token_logprobs[1:])
    count = len(plain.choices[0].logprobs.tokens)
    assert found.token_logprobs[-count:] == plain.choices[0].logprobs.token_logprobs
    for token, logprob, top in zip(found.tokens, found.token_logprobs, found.top_logprobs, strict=True):
        if top is not None:
            assert top[token] >= logprob
            assert 2 <= len(top) <= 3
    assert echoed.usage.prompt_tokens == plain.usage.prompt_tokens == len(found.tokens) - count
    assert await world.replays(echoed.id)
    scored = await world.complete(logprobs=2, echo=True, max_tokens=0)
    assert (scored.choices[0].text, scored.choices[0].finish_reason) == ("Flights are", "length")
    assert scored.choices[0].logprobs.token_logprobs == found.token_logprobs[:-count]
    assert scored.usage.completion_tokens == 0
    assert await world.replays(scored.id)
    pieces = [chunk async for chunk in await world.complete(logprobs=2, echo=True, stream=True)]
    assert "".join(chunk.choices[0].text for chunk in pieces) == text
    offsets = [at for chunk in pieces if (some := chunk.choices[0].logprobs) for at in some.text_offset]
    assert offsets == found.text_offset


async def test_several_prompts_and_prompts_as_tokens(world: World) -> None:
    prompts = ["Flights are", "The weather is"]
    whole = await world.complete(prompt=prompts, n=2, echo=True, logprobs=1)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    assert [choice.text.startswith(prompts[at // 2]) for at, choice in enumerate(whole.choices)] == [True] * 4
    assert whole.choices[0].text == (await world.complete(echo=True)).choices[0].text
    tokens = [[102, 108, 121], [103, 111]]
    by_tokens = await world.complete(prompt=tokens, echo=True, logprobs=0, max_tokens=1)
    assert by_tokens.usage.prompt_tokens == 5
    for choice, prompt in zip(by_tokens.choices, tokens, strict=True):
        assert len(choice.logprobs.tokens) in (len(prompt), len(prompt) + 1)
    assert await world.replays(by_tokens.id)
    one = await world.complete(prompt=tokens[0], max_tokens=6)
    assert len(one.choices) == 1


async def test_stops_cut_exactly(world: World) -> None:
    text = (await world.chat(temperature=0, max_tokens=24)).choices[0].message.content
    middle = len(text) // 2
    for stop in (text[middle : middle + 3], ["never said", text[middle : middle + 7], "\u0000", "nor this"]):
        cut = text[: text.find(stop if isinstance(stop, str) else stop[1])]
        whole = await world.chat(temperature=0, max_tokens=24, stop=stop)
        assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == (cut, "stop")
        assert await world.replays(whole.id)
        stream = await world.chat(temperature=0, max_tokens=24, stop=stop, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == cut


async def test_a_seed_repeats_and_another_does_not(world: World) -> None:
    texts = [(await world.chat(temperature=1.5, seed=seed)).choices[0].message.content for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


async def test_functions_are_called_and_their_results_come_back(world: World) -> None:
    asked: dict[str, Any] = {
        "tools": [WEATHER, DELAY],
        "max_tokens": 160,
        "temperature": 0,
        "parallel_tool_calls": False,
    }
    whole = await world.chat(**asked, tool_choice={"type": "function", "function": {"name": "weather"}})
    turn = whole.choices[0].message
    assert (whole.choices[0].finish_reason, turn.content) == ("tool_calls", None)
    (call,) = turn.tool_calls
    assert (call.type, call.function.name) == ("function", "weather")
    jsonschema.validate(json.loads(call.function.arguments), WEATHER["function"]["parameters"])
    assert await world.replays(whole.id)
    result = {"role": "tool", "tool_call_id": call.id, "content": '{"wind": 31}'}
    follow = await world.chat(**asked, messages=[*CHAT, turn, result])
    assert (follow.choices[0].finish_reason, bool(follow.choices[0].message.tool_calls)) in (
        ("tool_calls", True), ("stop", False), ("length", False),
    )  # fmt: skip
    prompt = str(world.desk.blobs.get(SCOPE, world.desk.receipts.get(SCOPE, follow.id).attempts[0].prompt_blob))
    assert "wind" in prompt
    assert await world.replays(follow.id)
    plain = await world.chat(messages=[*CHAT, turn, result], temperature=0)
    assert plain.choices[0].message.tool_calls is None
    none = await world.chat(**asked, tool_choice="none")
    assert (
        none.choices[0].message.content == (await world.chat(max_tokens=160, temperature=0)).choices[0].message.content
    )


@pytest.mark.parametrize("choice", ["auto", "required"])
async def test_calls_are_streamed(world: World, choice: str) -> None:
    asked: dict[str, Any] = {"tools": [WEATHER, DELAY], "tool_choice": choice, "max_tokens": 160, "temperature": 0}
    asked["parallel_tool_calls"] = False
    message = (await world.chat(**asked)).choices[0].message
    content, calls, reason = "", [], None
    async for chunk in await world.chat(**asked, stream=True):
        delta, reason = chunk.choices[0].delta, chunk.choices[0].finish_reason or reason
        content += delta.content or ""
        calls += [(call.index, call.function.name, call.function.arguments) for call in delta.tool_calls or ()]
    expected = message.tool_calls or ()
    assert calls == [(at, call.function.name, call.function.arguments) for at, call in enumerate(expected)]
    assert content == (message.content or "")
    assert reason == ("tool_calls" if calls else reason)
    assert calls or choice == "auto"


async def test_penalties_and_bias_reach_the_choice_of_tokens(world: World) -> None:
    forced = await world.complete(logit_bias={"72": 100}, max_tokens=5)
    assert len(set(forced.choices[0].text)) == 1
    assert await world.replays(forced.id)
    repeated = await world.complete(logit_bias={"72": 60}, max_tokens=60)
    assert len(set(repeated.choices[0].text)) == 1
    varied = await world.complete(logit_bias={"72": 60}, max_tokens=60, frequency_penalty=2)
    assert varied.choices[0].text != repeated.choices[0].text
    assert varied.choices[0].text.startswith(repeated.choices[0].text[:5])
    assert await world.replays(varied.id)
    with pytest.raises(openai.BadRequestError) as refused:
        await world.complete(logit_bias={"9999999": 1})
    assert refused.value.param == "logit_bias"


async def test_schemas_are_met(world: World) -> None:
    schema = {
        "type": "object",
        "properties": {"late": {"type": "boolean"}},
        "required": ["late"],
        "additionalProperties": False,
    }
    shaped = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    whole = await world.chat(response_format=shaped, max_completion_tokens=20)
    jsonschema.validate(json.loads(whole.choices[0].message.content), schema)
    free = await world.chat(response_format={"type": "json_object"}, max_completion_tokens=300, temperature=0)
    if free.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(free.choices[0].message.content), dict)


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({"n": 2}, "n"),
        ({"tools": [DELAY]}, "tools"),
        ({"frequency_penalty": 1}, "frequency_penalty"),
        ({"presence_penalty": 1}, "presence_penalty"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"temperature": 1}, "temperature"),
        ({"stop": "x"}, "stop"),
    ],
)
async def test_an_application_keeps_its_own(local: World, extra: dict[str, Any], named: str) -> None:
    entity = {"flight": "B6 1", "origin": "JFK"}
    with pytest.raises(openai.BadRequestError) as refused:
        await local.chat(model="desk", max_tokens=64, extra_body={"entity": entity}, **extra)
    assert (refused.value.param, refused.value.code) == (named, "unsupported_parameter")


@pytest.mark.parametrize(("extra", "named"), [({"echo": True}, "echo"), ({"prompt": [72, 105]}, "prompt")])
async def test_an_applications_prompt_is_its_own(local: World, extra: dict[str, Any], named: str) -> None:
    entity = {"flight": "B6 1", "origin": "JFK"}
    with pytest.raises(openai.BadRequestError) as refused:
        await local.complete(
            **{"model": "desk", "max_tokens": 64, "temperature": None, "extra_body": {"entity": entity}, **extra}
        )
    assert refused.value.param == named


async def test_what_a_guard_replaced_is_not_in_the_log_probabilities(tmp_path: Path) -> None:
    stated = json.dumps({"outlook": "delayed", "notice": "The delay is 55 minutes."})
    async with AsyncExitStack() as stack:
        world = await over(stack, tmp_path / "world", ScriptedEngine([ScriptedGeneration(stated)], (_named(MODEL),)))
        answer = await world.chat(
            model="desk", max_tokens=64, logprobs=True, extra_body={"entity": {"flight": "B6 1", "origin": "JFK"}}
        )
    assert "55" not in answer.choices[0].message.content
    assert answer.choices[0].logprobs.content == []


async def test_lines_of_a_batch_ask_the_same(world: World) -> None:
    lines = batch_lines(world.desk.database)
    body = {
        "model": MODEL,
        "prompt": "Flights are",
        "n": 2,
        "echo": True,
        "logprobs": 1,
        "max_tokens": 4,
        "temperature": 0,
    }
    asked = lines.read("/v1/completions", json.dumps(body).encode(), SCOPE, ASKER, "req_1")
    answers = await several.answers(world.desk.answerer.answer, asked.requests)
    written = json.loads(msgspec.json.encode(asked.body(answers)))
    online = (await world.complete(n=2, echo=True, logprobs=1, max_tokens=4)).model_dump()
    for choice, other in zip(written["choices"], online["choices"], strict=True):
        assert (choice["text"], choice["logprobs"]) == (other["text"], other["logprobs"])
    assert {answer.receipt.path for answer in answers} == {"batch"}


def _named(name: str) -> Any:
    from antiphon.testing.scripted_engine import MODEL as scripted

    return msgspec.structs.replace(scripted, name=name)
