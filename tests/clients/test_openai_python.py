"""OpenAI's client for Python, unmodified."""

from __future__ import annotations

import json
import time
from typing import Any, Literal

import openai
import pydantic
import pytest
from tests.clients.conftest import EMBEDDING_MODEL, Platform

pytestmark = pytest.mark.clients

ASKED: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is the flight late?"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "delay_of",
        "description": "The delay of a flight in minutes.",
        "parameters": {
            "type": "object",
            "properties": {"flight": {"type": "string"}},
            "required": ["flight"],
            "additionalProperties": False,
        },
    },
}


class Outlook(pydantic.BaseModel):
    outlook: Literal["on_time", "delayed"]
    minutes: int


def test_chat(client: openai.OpenAI, simulated: Platform) -> None:
    made = client.chat.completions.create(
        model=simulated.model, messages=ASKED, temperature=0, max_completion_tokens=16, seed=7
    )
    (choice,) = made.choices
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert made.usage is not None
    assert made.usage.total_tokens == made.usage.prompt_tokens + made.usage.completion_tokens
    again = client.chat.completions.create(
        model=simulated.model, messages=ASKED, temperature=0, max_completion_tokens=16, seed=7
    )
    assert again.choices[0].message.content == choice.message.content
    assert again.system_fingerprint == made.system_fingerprint


def test_streaming_says_what_the_whole_answer_says(client: openai.OpenAI, simulated: Platform) -> None:
    fields: Any = {"model": simulated.model, "messages": ASKED, "temperature": 0, "max_tokens": 16}
    whole = client.chat.completions.create(**fields)
    text, usage, reason = "", None, None
    for chunk in client.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True}):
        if chunk.choices:
            text += chunk.choices[0].delta.content or ""
            reason = chunk.choices[0].finish_reason or reason
        usage = chunk.usage or usage
    assert text == whole.choices[0].message.content
    assert reason == whole.choices[0].finish_reason
    assert usage is not None
    assert whole.usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens


def test_structured_output_is_parsed(client: openai.OpenAI, simulated: Platform) -> None:
    made = client.chat.completions.parse(
        model=simulated.model, messages=ASKED, response_format=Outlook, temperature=0, max_tokens=64
    )
    parsed = made.choices[0].message.parsed
    assert parsed is not None
    assert parsed.outlook in ("on_time", "delayed")
    with client.chat.completions.stream(
        model=simulated.model, messages=ASKED, response_format=Outlook, temperature=0, max_tokens=64
    ) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == parsed


def test_completions(client: openai.OpenAI, simulated: Platform) -> None:
    made = client.completions.create(model=simulated.model, prompt="The flight", max_tokens=8, temperature=0)
    text = "".join(
        chunk.choices[0].text
        for chunk in client.completions.create(
            model=simulated.model, prompt="The flight", max_tokens=8, temperature=0, stream=True
        )
        if chunk.choices
    )
    assert made.choices[0].text == text != ""


def test_tools_are_called_and_their_results_are_read(client: openai.OpenAI, simulated: Platform) -> None:
    made = client.chat.completions.create(
        model=simulated.model, messages=ASKED, tools=[TOOL], tool_choice="required", temperature=0, max_tokens=64
    )
    (call,) = made.choices[0].message.tool_calls or ()
    assert made.choices[0].finish_reason == "tool_calls"
    assert call.type == "function"
    assert call.function.name == "delay_of"
    assert isinstance(json.loads(call.function.arguments)["flight"], str)
    told: Any = [
        *ASKED,
        made.choices[0].message.to_dict(),
        {"role": "tool", "tool_call_id": call.id, "content": '{"minutes": 12}'},
    ]
    answered = client.chat.completions.create(
        model=simulated.model, messages=told, tools=[TOOL], tool_choice="none", temperature=0, max_tokens=16
    )
    assert answered.choices[0].message.content
    names, arguments = "", ""
    for chunk in client.chat.completions.create(
        model=simulated.model, messages=ASKED, tools=[TOOL], tool_choice="required", temperature=0, max_tokens=64,
        stream=True,
    ):  # fmt: skip
        for part in (chunk.choices[0].delta.tool_calls or ()) if chunk.choices else ():
            assert part.function is not None
            names += part.function.name or ""
            arguments += part.function.arguments or ""
    assert (names, arguments) == (call.function.name, call.function.arguments)


def test_responses(client: openai.OpenAI, simulated: Platform) -> None:
    fields: Any = {"model": simulated.model, "input": "Is the flight late?", "temperature": 0, "max_output_tokens": 64}
    made = client.responses.create(**fields)
    with client.responses.stream(**fields) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert text == final.output_text == made.output_text != ""
    parsed = client.responses.parse(**fields, text_format=Outlook).output_parsed
    assert parsed is not None
    assert parsed.outlook in ("on_time", "delayed")
    again = client.responses.create(**{**fields, "input": "And now?"}, previous_response_id=made.id)
    assert client.responses.retrieve(again.id).previous_response_id == made.id
    client.responses.delete(again.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(again.id)


def test_several_choices(client: openai.OpenAI, simulated: Platform) -> None:
    made = client.chat.completions.create(model=simulated.model, messages=ASKED, n=3, temperature=1, max_tokens=8)
    assert [choice.index for choice in made.choices] == [0, 1, 2]
    streamed = {0: "", 1: ""}
    for chunk in client.chat.completions.create(
        model=simulated.model, messages=ASKED, n=2, temperature=1, max_tokens=8, seed=3, stream=True
    ):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert all(streamed.values())


def test_logprobs(client: openai.OpenAI, simulated: Platform) -> None:
    made = client.chat.completions.create(
        model=simulated.model, messages=ASKED, logprobs=True, top_logprobs=2, temperature=0, max_tokens=8
    )
    logprobs = made.choices[0].logprobs
    assert logprobs is not None
    assert "".join(token.token for token in logprobs.content or ()) == made.choices[0].message.content
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in logprobs.content or ())


def test_embeddings(client: openai.OpenAI) -> None:
    texts = ["a late flight", "the flight is late", "tea"]
    made = client.embeddings.create(model=EMBEDDING_MODEL, input=texts)
    assert [one.index for one in made.data] == [0, 1, 2]
    assert {len(one.embedding) for one in made.data} == {384}
    plain = client.embeddings.create(model=EMBEDDING_MODEL, input=texts[2], encoding_format="float")
    assert plain.data[0].embedding == made.data[2].embedding
    idle = client.embeddings.create(model=EMBEDDING_MODEL, input=texts, extra_body={"service_tier": "flex"})
    assert [one.embedding for one in idle.data] == [one.embedding for one in made.data]


def test_models(client: openai.OpenAI, simulated: Platform) -> None:
    names = [model.id for model in client.models.list()]
    assert names == ["desk", simulated.model, EMBEDDING_MODEL]
    assert client.models.retrieve(simulated.model).id == simulated.model
    with pytest.raises(openai.NotFoundError) as missing:
        client.models.retrieve("nothing")
    assert missing.value.param == "model"


def test_files(client: openai.OpenAI) -> None:
    content = b'{"custom_id": "r"}\n'
    made = client.files.create(file=("requests.jsonl", content), purpose="batch")
    assert (made.bytes, made.purpose) == (len(content), "batch")
    assert client.files.content(made.id).content == content
    assert made.id in [file.id for file in client.files.list(limit=1)]
    assert client.files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(made.id)


def batch_of(client: openai.OpenAI, endpoint: Any, bodies: list[dict[str, Any]]) -> tuple[Any, list[dict[str, Any]]]:
    rows = [
        {"custom_id": f"r{number}", "method": "POST", "url": endpoint, "body": body}
        for number, body in enumerate(bodies)
    ]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    file = client.files.create(file=("requests.jsonl", content), purpose="batch")
    made = client.batches.create(
        input_file_id=file.id, endpoint=endpoint, completion_window="24h", metadata={"team": "desk"}
    )
    deadline = time.monotonic() + 300
    while (batch := client.batches.retrieve(made.id)).status not in ("completed", "failed"):
        assert time.monotonic() < deadline, batch
        time.sleep(0.1)
    assert batch.status == "completed", batch.errors
    assert batch.metadata == {"team": "desk"}
    assert batch.output_file_id is not None
    return batch, [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]


def test_a_batch_of_chats(client: openai.OpenAI, simulated: Platform) -> None:
    good = {"model": simulated.model, "messages": ASKED, "temperature": 0, "max_tokens": 8}
    batch, lines = batch_of(client, "/v1/chat/completions", [good, {**good, "max_tokens": "many"}, good])
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (3, 2, 1)
    online = client.chat.completions.create(**good)
    texts = {line["response"]["body"]["choices"][0]["message"]["content"] for line in lines}
    assert texts == {online.choices[0].message.content}
    (wrong,) = client.files.content(batch.error_file_id).text.splitlines()
    assert json.loads(wrong)["response"]["body"]["error"]["param"] == "max_tokens"
    assert made_before(client, batch.id)


def test_a_batch_of_responses(client: openai.OpenAI, simulated: Platform) -> None:
    good = {"model": simulated.model, "input": ASKED, "temperature": 0, "max_output_tokens": 64}
    batch, lines = batch_of(client, "/v1/responses", [good, {**good, "background": True}, good])
    assert (batch.request_counts.completed, batch.request_counts.failed) == (2, 1)
    online = client.responses.create(**good)
    for line in lines:
        body = line["response"]["body"]
        assert [item["content"][0]["text"] for item in body["output"]] == [online.output_text]
        assert client.responses.retrieve(body["id"]).output_text == online.output_text
    (wrong,) = client.files.content(batch.error_file_id).text.splitlines()
    assert json.loads(wrong)["response"]["body"]["error"]["param"] == "background"


def made_before(client: openai.OpenAI, batch: str) -> bool:
    return any(one.id == batch for one in client.batches.list(limit=5))


def test_a_batch_of_embeddings(client: openai.OpenAI) -> None:
    bodies = [{"model": EMBEDDING_MODEL, "input": [f"text {number}", "tea"]} for number in range(5)]
    batch, lines = batch_of(client, "/v1/embeddings", bodies)
    assert (batch.request_counts.completed, batch.model) == (5, EMBEDDING_MODEL)
    online = client.embeddings.create(**bodies[3], encoding_format="float")
    found = next(line for line in lines if line["custom_id"] == "r3")["response"]["body"]["data"]
    assert [one["embedding"] for one in found] == [one.embedding for one in online.data]


def test_a_batch_that_asks_for_vectors_of_a_model_that_writes_is_refused(
    client: openai.OpenAI, simulated: Platform
) -> None:
    body = {"model": simulated.model, "input": "tea"}
    row = {"custom_id": "r", "method": "POST", "url": "/v1/embeddings", "body": body}
    file = client.files.create(file=("requests.jsonl", json.dumps(row).encode()), purpose="batch")
    made = client.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h")
    deadline = time.monotonic() + 60
    while (batch := client.batches.retrieve(made.id)).status != "failed":
        assert time.monotonic() < deadline, batch
        time.sleep(0.1)
    assert batch.errors is not None
    assert [(error.code, error.param) for error in batch.errors.data or ()] == [("model_not_found", "body.model")]


def test_errors_are_the_clients_own(client: openai.OpenAI, simulated: Platform) -> None:
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(model=simulated.model, messages=ASKED, extra_body={"temprature": 1})
    assert (wrong.value.param, wrong.value.code) == ("temprature", "unsupported_parameter")
    assert (wrong.value.request_id or "").startswith("req_")
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=simulated.base_url, api_key="ak_nobody", max_retries=0).models.list()
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nothing", messages=ASKED)
    with pytest.raises(openai.BadRequestError) as tokens:
        client.embeddings.create(model=EMBEDDING_MODEL, input=[1, 2])
    assert tokens.value.param == "input"


async def test_the_asynchronous_client(simulated: Platform) -> None:
    async with openai.AsyncOpenAI(base_url=simulated.base_url, api_key=simulated.key) as client:
        made = await client.chat.completions.create(model=simulated.model, messages=ASKED, max_tokens=8)
        assert made.choices[0].message.content
        stream = await client.chat.completions.create(model=simulated.model, messages=ASKED, max_tokens=8, stream=True)
        assert [chunk async for chunk in stream]
