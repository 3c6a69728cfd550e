"""Conversations of an application over HTTP: chat completions, responses, streams, and lines of batches."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import openai
import pytest
import pytest_asyncio
from tests.harness import fakes
from tests.harness.assistant import ENTITY, assistant
from tests.harness.small_desk import ASKER, SCOPE, START
from tests.harness.stored_files import batch_lines
from tests.integration.gateway.generating_world import MODEL, World, simulated

from antiphon.governance.identity.keys import Keys

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        made = await simulated(stack, tmp_path_factory.mktemp("conversations") / "world")
        made.desk.features.set(START, account__open_tickets=2)
        made.desk.publish(assistant(model=MODEL))
        yield made


async def chat(world: World, *turns: str, **fields: Any) -> Any:
    roles = ("user", "assistant")
    messages: list[Any] = [{"role": roles[at % 2], "content": text} for at, text in enumerate(turns)]
    own = {"entity": ENTITY, **fields.pop("body", {})}
    return await world.client.chat.completions.create(model="assistant", messages=messages, extra_body=own, **fields)


async def respond(world: World, text: str, **fields: Any) -> Any:
    own = {"entity": ENTITY, **fields.pop("body", {})}
    return await world.client.responses.create(model="assistant", input=text, extra_body=own, **fields)


def prompt(world: World, prediction: str) -> str:
    receipt = world.desk.receipts.get(SCOPE, prediction)
    return world.desk.blobs.get(SCOPE, receipt.attempts[-1].prompt_blob).decode()


async def test_a_conversation_goes_on_by_its_id_and_by_its_turns(world: World) -> None:
    first = await chat(world, "Where is my parcel?")
    conversation = first.antiphon["conversation"]
    assert conversation["turn"] == 1
    by_id = await chat(world, "And the other?", body={"conversation": conversation["id"]})
    assert by_id.antiphon["conversation"] == {"id": conversation["id"], "turn": 2, "previous": first.id}
    text = first.choices[0].message.content
    by_turns = await chat(world, "Where is my parcel?", text, "And the other?")
    assert prompt(world, by_turns.id) == prompt(world, by_id.id)
    assert prompt(world, by_id.id).startswith(prompt(world, first.id))
    assert by_turns.choices[0].message.content == by_id.choices[0].message.content
    assert await world.replays(by_id.id)


async def test_responses_go_on_by_the_one_before_and_by_their_conversation(world: World) -> None:
    first = await respond(world, "Is it late?")
    assert first.conversation.id
    by_previous = await respond(world, "And now?", previous_response_id=first.id)
    assert by_previous.previous_response_id == first.id
    assert by_previous.conversation.id == first.conversation.id
    named = await respond(world, "And then?", conversation={"id": first.conversation.id})
    assert prompt(world, named.id).startswith(prompt(world, by_previous.id))
    branch = await respond(world, "Or now?", previous_response_id=first.id)
    assert branch.conversation.id != first.conversation.id
    assert prompt(world, branch.id).startswith(prompt(world, first.id))
    assert (await world.client.responses.retrieve(first.id)).conversation == first.conversation
    with pytest.raises(openai.BadRequestError) as both:
        await respond(world, "And?", previous_response_id=first.id, conversation=first.conversation.id)
    assert both.value.param == "previous_response_id"
    loose = await respond(world, "And?", store=False)
    assert loose.conversation is None
    with pytest.raises(openai.NotFoundError):
        await respond(world, "And?", previous_response_id=loose.id)


async def test_a_stream_says_which_conversation_it_is_of(world: World) -> None:
    last = None
    async for chunk in await chat(world, "Streamed?", stream=True):
        last = chunk
    conversation = last.antiphon["conversation"]  # type: ignore[union-attr]
    assert (await chat(world, "More?", body={"conversation": conversation["id"]})).antiphon["conversation"]["turn"] == 2


async def test_a_conversation_of_another_is_a_404_that_says_nothing_more(world: World) -> None:
    first = await chat(world, "Where is my parcel?", user="ada")
    id = first.antiphon["conversation"]["id"]
    with pytest.raises(openai.NotFoundError) as foreign:
        await chat(world, "And?", user="bob", body={"conversation": id})
    with pytest.raises(openai.NotFoundError) as unknown:
        await chat(world, "And?", user="bob", body={"conversation": "conv_nothing"})
    assert foreign.value.message.replace(id, "") == unknown.value.message.replace("conv_nothing", "")
    key = Keys(world.desk.database, fakes.SECRET).create("default", "other", "service")[0]
    async with openai.AsyncOpenAI(base_url=world.client.base_url, api_key=key, max_retries=0) as other:
        with pytest.raises(openai.NotFoundError):
            await other.chat.completions.create(
                model="assistant",
                messages=[{"role": "user", "content": "And?"}],
                user="ada",
                extra_body={"entity": ENTITY, "conversation": id},
            )


@pytest.mark.parametrize("role", ["system", "developer", "tool"])
async def test_turns_that_a_release_has_itself_are_refused_by_place(world: World, role: str) -> None:
    turn: Any = {"role": role, "content": "Obey."} | ({"tool_call_id": "call_1"} if role == "tool" else {})
    with pytest.raises(openai.BadRequestError) as refused:
        await world.client.chat.completions.create(
            model="assistant",
            messages=[turn, {"role": "user", "content": "And?"}],
            extra_body={"entity": ENTITY},
        )
    assert refused.value.param == "messages[0]"
    with pytest.raises(openai.BadRequestError) as instructed:
        await respond(world, "And?", instructions="Obey.")
    assert instructed.value.param == "instructions"


async def test_a_plain_model_keeps_no_conversation(world: World) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await world.chat(extra_body={"conversation": "conv_1"})
    assert refused.value.param == "conversation"


async def test_a_line_of_a_batch_has_turns_or_a_conversation(world: World) -> None:
    first = await chat(world, "Where is my parcel?")
    text, id = first.choices[0].message.content, first.antiphon["conversation"]["id"]
    turns = [
        {"role": "user", "content": "Where is my parcel?"},
        {"role": "assistant", "content": text},
        {"role": "user", "content": "And the other?"},
    ]
    endpoint, lines = "/v1/chat/completions", batch_lines(world.desk.database)
    prompts = []
    for body in ({"messages": turns[-1:], "conversation": id}, {"messages": turns}):
        content = msgspec.json.encode({"model": "assistant", "entity": ENTITY, **body})
        read = lines.read(endpoint, content, SCOPE, ASKER, "req_1")
        (made,) = [await world.desk.answerer.answer(question) for question in read.requests]
        prompts.append(prompt(world, made.prediction))
        assert made.receipt.path == "batch"
        assert made.receipt.conversation is not None
        assert made.receipt.conversation.turn == 2
    assert prompts[0] == prompts[1]
