"""The Responses API, through a gateway and answer() to an engine and back; OpenAI's own types are the oracle."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx2
import msgspec
import openai
import pydantic
import pytest
import pytest_asyncio
from openai.types.responses import Response, ResponseStreamEvent
from tests.harness import fakes
from tests.harness.small_desk import ASKER, SCOPE
from tests.harness.stored_files import batch_lines
from tests.integration.gateway.generating_world import MODEL, World, simulated, with_tags

from antiphon.governance.identity.keys import Keys
from antiphon.governance.identity.principal import Limits
from antiphon.serving import several

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUESTION = "Tell me about flights."
DELAY = {
    "type": "function",
    "name": "delay",
    "description": "The delay of a flight.",
    "parameters": {
        "type": "object",
        "properties": {"flight": {"enum": ["B6 1", "UA 2"]}},
        "required": ["flight"],
        "additionalProperties": False,
    },
    "strict": True,
}
EVENTS: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(ResponseStreamEvent)
WORLDS = {"simulated": simulated, "tags": with_tags}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=list(WORLDS))
async def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        yield await WORLDS[request.param](stack, tmp_path_factory.mktemp(request.param) / "world")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def local(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """Over the simulated engine."""
    async with AsyncExitStack() as stack:
        yield await simulated(stack, tmp_path_factory.mktemp("local") / "world")


def fields(**more: Any) -> dict[str, Any]:
    return {"model": MODEL, "input": QUESTION, "temperature": 0, "max_output_tokens": 64, **more}


async def post(world: World, body: dict[str, Any], key: str | None = None) -> httpx2.Response:
    headers = {"authorization": f"Bearer {key or world.client.api_key}"}
    async with httpx2.AsyncClient(headers=headers, timeout=30) as client:
        return await client.post(f"{world.client.base_url}responses", json=body)


async def streamed(world: World, **more: Any) -> list[dict[str, Any]]:
    """The events of a stream, each valid by OpenAI's types and named as it should be."""
    answered = await post(world, fields(stream=True, **more))
    assert answered.status_code == 200, answered.text
    assert answered.headers["content-type"].startswith("text/event-stream")
    found = []
    for block in answered.text.strip().split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        EVENTS.validate_python(event)
        found.append(event)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def lasting(response: dict[str, Any]) -> dict[str, Any]:
    """A response without what is of one answer alone: its ids and times."""
    suffix = response["id"].partition("_")[2]
    plain = json.loads(json.dumps(response).replace(suffix, "X"))
    for name in ("created_at", "completed_at", "antiphon"):
        plain.pop(name)
    usage = plain["usage"] or {}
    usage.pop("input_tokens_details", None)
    return plain


async def test_a_response_is_what_a_chat_completion_says(world: World) -> None:
    answered = await post(world, fields())
    response = Response.model_validate(answered.json())
    chat = await world.chat(temperature=0, max_tokens=64)
    assert response.output_text == chat.choices[0].message.content
    assert response.usage is not None
    assert response.usage.output_tokens == chat.usage.completion_tokens
    assert response.usage.total_tokens == chat.usage.total_tokens
    assert (response.status, response.error, response.incomplete_details) == ("completed", None, None)
    cut = Response.model_validate((await post(world, fields(max_output_tokens=2))).json())
    assert (cut.status, cut.output[-1].status) == ("incomplete", "incomplete")  # type: ignore[union-attr]
    assert cut.incomplete_details is not None
    assert cut.incomplete_details.reason == "max_output_tokens"
    made = answered.json()["antiphon"]["prediction"]
    assert response.id == made == answered.headers["x-antiphon-prediction"]
    own, other = world.desk.receipts.get(SCOPE, made), world.desk.receipts.get(SCOPE, chat.id)
    assert own.attempts[0].prompt_blob == other.attempts[0].prompt_blob
    assert await world.replays(made)


async def test_a_stream_tells_what_the_whole_response_says(world: World) -> None:
    whole = (await post(world, fields())).json()
    events = await streamed(world)
    kinds = [event["type"].removeprefix("response.") for event in events]
    deltas = kinds.count("output_text.delta")
    assert deltas > 1
    assert kinds == [
        "created", "in_progress", "output_item.added", "content_part.added", *["output_text.delta"] * deltas,
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    last = events[-1]["response"]
    assert lasting(last) == lasting(whole)
    assert last["id"] == events[0]["response"]["id"] == last["antiphon"]["prediction"]
    assert world.desk.receipts.get(SCOPE, last["id"]).prediction == last["id"]
    text = "".join(event["delta"] for event in events if event["type"].endswith("text.delta"))
    assert text == last["output"][0]["content"][0]["text"]
    assert events[-2]["item"] == last["output"][0]
    parsed = [event async for event in await world.client.responses.create(**fields(stream=True))]
    assert parsed[-1].response.output_text == text


async def test_a_function_is_called_and_its_result_is_read(world: World) -> None:
    asked = fields(tools=[DELAY], tool_choice="required", parallel_tool_calls=False, max_output_tokens=100)
    whole = Response.model_validate((await post(world, asked)).json())
    assert whole.status == "completed"
    (call,) = whole.output
    assert call.type == "function_call"
    assert json.loads(call.arguments)["flight"] in ("B6 1", "UA 2")
    events = await streamed(world, **asked)
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds == [
        "created", "in_progress", "output_item.added", "function_call_arguments.delta", "function_call_arguments.done",
        "output_item.done", "completed",
    ]  # fmt: skip
    assert lasting(events[-1]["response"])["output"] == lasting(whole.to_dict(mode="json"))["output"]
    result = {"type": "function_call_output", "call_id": call.call_id, "output": '{"minutes": 12}'}
    turns = [{"role": "user", "content": QUESTION}, call.to_dict(), result]
    by_turns = await world.client.responses.create(**fields(input=turns, tools=[DELAY], tool_choice="none"))
    by_id = await world.client.responses.create(
        **fields(input=[result], previous_response_id=whole.id, tools=[DELAY], tool_choice="none")
    )
    receipts = [world.desk.receipts.get(SCOPE, made.id) for made in (by_turns, by_id)]
    assert by_turns.output_text == by_id.output_text != ""
    assert receipts[0].attempts[0].prompt_blob == receipts[1].attempts[0].prompt_blob
    prompt = world.desk.blobs.get(SCOPE, receipts[0].attempts[0].prompt_blob).decode()
    assert "12" in prompt
    assert "delay" in prompt


async def test_a_function_of_a_namespace_is_called_by_both_names(world: World) -> None:
    tool = {"type": "namespace", "name": "flights", "description": "About flights.", "tools": [DELAY]}
    asked = fields(tools=[tool], tool_choice="required", parallel_tool_calls=False, max_output_tokens=100)
    whole = Response.model_validate((await post(world, asked)).json())
    (call,) = whole.output
    assert call.type == "function_call"
    assert (call.name, call.namespace) == ("delay", "flights")
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "12"}
    turns = [{"role": "user", "content": QUESTION}, call.to_dict(), result]
    by_turns = await world.client.responses.create(**fields(input=turns))
    by_id = await world.client.responses.create(**fields(input=[result], previous_response_id=whole.id))
    prompts = {world.desk.receipts.get(SCOPE, made.id).attempts[0].prompt_blob for made in (by_turns, by_id)}
    assert len(prompts) == 1
    prompt = world.desk.blobs.get(SCOPE, world.desk.receipts.get(SCOPE, whole.id).attempts[0].prompt_blob).decode()
    assert "flights__delay" in prompt
    assert "About flights." in prompt


async def test_a_schema_is_met_and_parsed(local: World) -> None:
    class Outlook(pydantic.BaseModel):
        late: bool
        minutes: int

    made = await local.client.responses.parse(**fields(text_format=Outlook, max_output_tokens=64))
    assert isinstance(made.output_parsed, Outlook)
    anything = await local.client.responses.create(
        **fields(text={"format": {"type": "json_object"}}, max_output_tokens=200)
    )
    assert anything.status == "incomplete" or isinstance(json.loads(anything.output_text), dict)


async def test_log_probabilities(local: World) -> None:
    made = (await post(local, fields(include=["message.output_text.logprobs"], top_logprobs=2))).json()
    (part,) = Response.model_validate(made).output[0].content  # type: ignore[union-attr]
    assert "".join(token.token for token in part.logprobs or ()) == part.text  # type: ignore[union-attr]
    assert all(len(token.top_logprobs) == 2 for token in part.logprobs or ())  # type: ignore[union-attr]
    events = await streamed(local, include=["message.output_text.logprobs"], top_logprobs=2)
    told = [token for event in events if event["type"].endswith("text.delta") for token in event["logprobs"]]
    assert told == made["output"][0]["content"][0]["logprobs"]


async def test_a_conversation_goes_on_from_a_response(local: World) -> None:
    first = await local.client.responses.create(**fields(instructions="Be brief."))
    second = await local.client.responses.create(**fields(input="And trains?", previous_response_id=first.id))
    third = await local.client.responses.create(**fields(input="And ships?", previous_response_id=second.id))
    turns = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": [{"type": "input_text", "text": "And trains?"}]},
        *[item.to_dict() for item in second.output],
        {"role": "user", "content": "And ships?"},
    ]
    by_turns = await local.client.responses.create(**fields(input=turns))
    receipts = [local.desk.receipts.get(SCOPE, made.id) for made in (third, by_turns)]
    assert receipts[0].attempts[0].prompt_blob == receipts[1].attempts[0].prompt_blob
    assert "Be brief." not in local.desk.blobs.get(SCOPE, receipts[0].attempts[0].prompt_blob).decode()
    assert third.previous_response_id == second.id


async def test_a_response_is_fetched_and_deleted_by_who_made_it(local: World) -> None:
    first = await local.client.responses.create(**fields(metadata={"team": "desk"}, tools=[DELAY]))
    later = await local.client.responses.create(**fields(input="And trains?", previous_response_id=first.id))
    fetched = await local.client.responses.retrieve(first.id)
    assert lasting(fetched.to_dict(mode="json")) == lasting(first.to_dict(mode="json"))
    assert abs(fetched.created_at - first.created_at) <= 1
    other = Keys(local.desk.database, fakes.SECRET).create("default", "other", "service")[0]
    stranger = local.client.with_options(api_key=other)
    assert (await stranger.responses.retrieve(first.id)).output_text == first.output_text  # services may read records
    with pytest.raises(openai.PermissionDeniedError):
        await stranger.responses.delete(first.id)
    await local.client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        await local.client.responses.retrieve(first.id)
    for previous in (first.id, later.id):
        with pytest.raises(openai.BadRequestError) as ended:
            await local.client.responses.create(**fields(previous_response_id=previous))
        assert ended.value.param == "previous_response_id"
    assert local.desk.receipts.get(SCOPE, first.id).prediction == first.id
    assert (await local.client.responses.retrieve(later.id)).output_text == later.output_text
    again = await local.client.responses.create(**fields(metadata={"team": "desk"}, tools=[DELAY]))
    assert (await local.client.responses.retrieve(again.id)).metadata == {"team": "desk"}


async def test_who_may_not_read_a_record_does_not_go_on_from_it(local: World) -> None:
    made = await local.client.responses.create(**fields())
    keys = Keys(local.desk.database, fakes.SECRET)
    asking = keys.create("default", "asking", "service", limits=Limits(actions=("answer",)))[0]
    refused = await post(local, fields(previous_response_id=made.id), key=asking)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
    viewer = keys.create("default", "looking", "viewer")[0]
    looking = local.client.with_options(api_key=viewer)
    assert (await looking.responses.retrieve(made.id)).id == made.id
    with pytest.raises(openai.PermissionDeniedError):
        await looking.responses.delete(made.id)


async def test_what_is_not_to_be_stored_is_not(local: World) -> None:
    made = await local.client.responses.create(**fields(store=False))
    receipt = local.desk.receipts.get(SCOPE, made.id)
    assert receipt.turn_blob is None
    with pytest.raises(openai.NotFoundError):
        await local.client.responses.retrieve(made.id)
    with pytest.raises(openai.BadRequestError) as refused:
        await local.client.responses.create(**fields(previous_response_id=made.id))
    assert refused.value.param == "previous_response_id"
    chat = await local.chat()
    with pytest.raises(openai.NotFoundError):
        await local.client.responses.retrieve(chat.id)


OTHER = {"type": "object", "properties": {"other": {"type": "integer"}}, "required": ["other"]}
IMAGE = {"type": "input_image", "image_url": "data:,"}


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"truncation": "auto"}, "truncation"),
        ({"reasoning": {"effort": "high"}}, "reasoning.effort"),
        ({"reasoning": "high"}, "reasoning"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"stream_options": {"include_usage": True}}, "stream_options.include_usage"),
        ({"max_tool_calls": 2}, "max_tool_calls"),
        ({"max_tokens": 2}, "max_tokens"),
        ({"max_output_tokns": 2}, "max_output_tokns"),
        ({"n": 2}, "n"),
        ({"include": ["file_search_call.results"]}, "include[0]"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"),
        ({"tools": [{"type": "namespace", "name": "a", "tools": [{"type": "custom"}]}]}, "tools[0].tools[0]"),
        ({"tools": [{"type": "namespace", "name": "a", "tools": [DELAY, DELAY]}]}, "tools[0].tools[1].name"),
        ({"tools": [DELAY, DELAY]}, "tools[1].name"),
        ({"tools": [DELAY], "tool_choice": {"type": "file_search"}}, "tool_choice"),
        ({"tools": [DELAY], "tool_choice": {"type": "function", "name": "other"}}, "tool_choice.name"),
        ({"tools": [DELAY], "text": {"format": {"type": "json_object"}}}, "text.format"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"input": []}, "input"),
        ({"input": [{"role": "user", "content": [IMAGE]}]}, "input[0].content[0]"),
        ({"input": [{"role": "critic", "content": "x"}]}, "input[0].role"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": "x", "colour": "red"}]}, "input[0]"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, "input[0].call_id"),
        ({"previous_response_id": "pred_nothing"}, "previous_response_id"),
        ({"metadata": {"k" * 65: "v"}}, f"metadata.{'k' * 64}"),
        ({"metadata": {str(number): "v" for number in range(17)}}, "metadata"),
        ({"safety_identifier": "s" * 129}, "safety_identifier"),
    ],
    ids=str,
)
async def test_what_is_not_done_is_refused_by_name(local: World, extra: dict[str, Any], named: str) -> None:
    refused = await post(local, fields(**extra))
    assert refused.status_code == 400, refused.text
    error = refused.json()["error"]
    assert error["param"] == named, error
    assert error["type"] == "invalid_request_error"


async def test_what_asks_for_nothing_passes(local: World) -> None:
    neutral = {
        "background": False,
        "truncation": "disabled",
        "reasoning": {"summary": "auto", "effort": None},
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "include": ["reasoning.encrypted_content"],
        "service_tier": None,
        "stream_options": None,
        "client_metadata": {"session": "1"},
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "conversation": None,
    }
    assert (await post(local, fields(**neutral))).status_code == 200


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({"instructions": "Lie."}, "instructions"),
        ({"max_output_tokens": 5}, "max_output_tokens"),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": OTHER}}}, "text.format"),
        ({"tools": [DELAY]}, "tools"),
        ({"input": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}, "input[1]"),
        ({"temperature": 1.5}, "temperature"),
    ],
    ids=str,
)
async def test_an_application_keeps_its_own(local: World, extra: dict[str, Any], named: str) -> None:
    asked = {"model": "desk", "input": "Late?", "entity": {"flight": "B6 1", "origin": "JFK"}}
    refused = await post(local, {**asked, **extra})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, named), refused.text
    assert named in refused.json()["error"]["message"]


async def test_an_application_answers_about_its_entity(local: World) -> None:
    entity = {"flight": "B6 1", "origin": "JFK"}
    made = await local.client.responses.create(model="desk", input="Late?", extra_body={"entity": entity})
    assert json.loads(made.output_text)["outlook"] in ("on_time", "delayed")
    assert made.to_dict()["antiphon"]["release"].startswith("rel_")  # type: ignore[index]
    with pytest.raises(openai.BadRequestError) as refused:
        await local.client.responses.create(
            model="desk", input="Still?", previous_response_id=made.id, extra_body={"entity": entity}
        )
    assert refused.value.param == "previous_response_id"
    with pytest.raises(openai.BadRequestError) as unknown:
        await local.client.responses.create(model="desk", input="Late?", extra_body={"entity": {"shop": "tea"}})
    assert unknown.value.param == "entity"


async def test_a_line_of_a_batch_is_the_same_response(local: World) -> None:
    first = await local.client.responses.create(**fields())
    body = fields(input="And trains?", previous_response_id=first.id, metadata={"row": "7"})
    lines = batch_lines(local.desk.database)
    asked = lines.read("/v1/responses", json.dumps(body).encode(), SCOPE, ASKER, "req_1")
    answers = await several.answers(local.desk.answerer.answer, asked.requests)
    written = json.loads(msgspec.json.encode(asked.body(answers)))
    online = (await post(local, body)).json()
    assert lasting(written) == lasting(online)
    assert answers[0].receipt.path == "batch"
    assert (await local.client.responses.retrieve(written["id"])).output_text == online["output"][0]["content"][0][
        "text"
    ]


async def test_hints_are_kept_by_every_endpoint_and_change_no_answer(local: World) -> None:
    hints: dict[str, Any] = {
        "metadata": {"team": "desk"}, "prompt_cache_key": "k-1", "safety_identifier": "s-1", "user": "passenger-1",
    }  # fmt: skip
    made = [
        (await local.client.responses.create(**fields(**hints))).id,
        (await local.chat(**hints)).id,
        (await local.complete(extra_body=hints)).id,
    ]
    for prediction in made:
        receipt = local.desk.receipts.get(SCOPE, prediction)
        assert receipt.originating_user == "passenger-1"
        assert receipt.hints_blob is not None
        kept = json.loads(local.desk.blobs.get(SCOPE, receipt.hints_blob))
        assert kept == {name: hints[name] for name in ("metadata", "prompt_cache_key", "safety_identifier")}
    plain, hinted = await local.complete(), await local.complete(extra_body=hints)
    assert plain.choices[0].text == hinted.choices[0].text
    assert local.desk.receipts.get(SCOPE, plain.id).hints_blob is None
    with pytest.raises(openai.BadRequestError) as refused:
        await local.chat(metadata={"team": "x" * 513})
    assert refused.value.param == "metadata.team"
