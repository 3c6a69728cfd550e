"""The official client against a served gateway, and the errors in the shape that it raises."""

from __future__ import annotations

import asyncio
import json
import re

import httpx2
import openai
import pytest
from tests.harness.fakes import FakeAnswerer

from antiphon.core.errors import (
    AntiphonError,
    ConflictError,
    EngineError,
    FeatureUnavailableError,
    InvalidOutputError,
    NotFoundError,
    OverloadedError,
    UnavailableError,
    WriteConflictError,
)

MESSAGES = [{"role": "user", "content": "Will it be on time?"}]
TOOL = {"type": "function", "function": {"name": "delay"}}
CALLED = {"id": "call_1", "type": "function", "function": {"name": "delay", "arguments": "{}"}}


def soon(error: AntiphonError) -> AntiphonError:
    """The error, worth a repetition after a moment that a test can wait for."""
    error.retry_after = 0.01
    return error


@pytest.fixture
async def client(running, keys):
    async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key=keys["service"], max_retries=0) as made:
        yield made


async def test_chat_answers_and_says_what_it_was_made_from(client, answerer, database) -> None:
    raw = await client.chat.completions.with_raw_response.create(
        model="desk",
        messages=MESSAGES,
        user="passenger-1",
        extra_body={"entity": {"shop": 4}, "as_of": "2013-04-10T08:00:00-04:00", "minimum_publication": 5},
    )
    answer = raw.parse()
    assert json.loads(answer.choices[0].message.content)["outlook"] == "on_time"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == 41
    assert answer.usage.prompt_tokens_details.cached_tokens == 128
    made = answer.model_extra["antiphon"]
    assert made["prediction"] == answer.id == raw.headers["x-antiphon-prediction"]
    assert (made["role"], made["rollout"]) == ("live", None)
    assert (made["origin"], made["publication"]) == ("generated", 7)
    assert made["classes"] == {"outlook": {"on_time": 0.82, "delayed": 0.18}}
    assert raw.headers["x-antiphon-publication"] == "7"
    assert raw.headers["x-antiphon-release"] == "rel_1"
    asked = answerer.requests[0]
    assert asked.entity == {"shop": "4"}
    assert asked.as_of is not None
    assert asked.as_of.isoformat() == "2013-04-10T12:00:00+00:00"
    assert (asked.minimum_publication, asked.originating_user, asked.question) == (
        5,
        "passenger-1",
        "Will it be on time?",
    )
    assert asked.principal.id == "the-service"


async def test_an_answer_in_a_rollout_says_so(client, answerer) -> None:
    answerer.role, answerer.rollout = "canary", "roll_1"
    whole = await client.chat.completions.create(model="desk", messages=MESSAGES)
    streamed = [chunk async for chunk in await client.chat.completions.create(
        model="desk", messages=MESSAGES, stream=True
    )]  # fmt: skip
    for made in (whole.model_extra["antiphon"], streamed[-1].model_extra["antiphon"]):
        assert (made["role"], made["rollout"]) == ("canary", "roll_1")


async def test_streaming_ends_with_the_receipt(client) -> None:
    stream = await client.chat.completions.create(
        model="desk", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert json.loads(text)["notice"] == "All is well."
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage.completion_tokens == 41
    assert chunks[-1].model_extra["antiphon"]["prediction"].startswith("pred_")
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert all("antiphon" not in (chunk.model_extra or {}) for chunk in chunks[:-1])


async def test_logprobs_and_schema_reach_the_engine_and_come_back(client, answerer) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    answer = await client.chat.completions.create(
        model="tiny",
        messages=[{"role": "developer", "content": "Be brief."}, *MESSAGES],
        logprobs=True,
        top_logprobs=2,
        seed=3,
        stop=["\n"],
        max_completion_tokens=9,
        temperature=0.5,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}},
    )
    tokens = answer.choices[0].logprobs.content
    assert [token.token for token in tokens] == list(answerer.words)
    assert len(tokens[0].top_logprobs) == 2
    overrides = answerer.requests[0].overrides
    assert overrides.json_schema == schema
    assert (overrides.max_tokens, overrides.seed, overrides.stop, overrides.temperature) == (9, 3, ("\n",), 0.5)
    assert [message.role for message in answerer.requests[0].messages] == ["system", "user"]


async def test_completions_whole_and_streamed(client, answerer) -> None:
    answer = await client.completions.create(model="tiny", prompt="Once", logprobs=1)
    assert answer.choices[0].text == "".join(answerer.words)
    assert answer.choices[0].logprobs.text_offset[1] == len(answerer.words[0])
    assert answerer.requests[0].prompt == "Once"
    stream = await client.completions.create(model="tiny", prompt="Once", stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == answer.choices[0].text


async def test_models_are_listed_and_found(client) -> None:
    assert [model.id async for model in client.models.list()] == ["desk", "tiny"]
    assert (await client.models.retrieve("tiny")).id == "tiny"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("none")


@pytest.mark.parametrize(
    ("extra", "named", "says"),
    [
        ({"temprature": 1}, "temprature", "Did you mean 'temperature'?"),
        ({"functions": []}, "functions", "not implemented"),
        ({"store": True}, "store", "Only False is accepted"),
        ({"tools": []}, "tools", "length >= 1"),
        ({"tool_choice": "auto"}, "tool_choice", "no tools"),
        ({"tools": [TOOL, TOOL]}, "tools[1].function.name", "too"),
        ({"tools": [{**TOOL, "function": {"name": "a b"}}]}, "tools[0].function.name", "matching"),
        ({"tools": [{**TOOL, "function": {"name": "a", "parameters": {"type": 1}}}]}, "tools[0].function.parameters",
         "no JSON schema"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "other"}}},
         "tool_choice.function.name", "other"),
        ({"tools": [TOOL], "stop": "x"}, "stop", "does not go with `tools`"),
        ({"tools": [TOOL], "logprobs": True}, "logprobs", "does not go with `tools`"),
        ({"tools": [TOOL], "response_format": {"type": "json_object"}}, "response_format", "does not go with"),
        ({"n": 0}, "n", ">= 1"),
        ({"n": 129}, "n", "<= 128"),
        ({"presence_penalty": 2.5}, "presence_penalty", "<= 2"),
        ({"logit_bias": {"the": 1}}, "logit_bias", "as numbers"),
        ({"logit_bias": {"5": 101}}, "logit_bias[...]", "<= 100"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "length <= 4"),
        ({"stop": [""]}, "stop", "length >= 1"),
        ({"echo": True}, "echo", "Only False"),
        ({"temperature": "hot"}, "temperature", "Expected `float"),
        ({"max_tokens": 0}, "max_tokens", ">= 1"),
        ({"top_logprobs": 3}, "top_logprobs", "logprobs: true"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "Invalid enum value."),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "is missing"),
        ({"entity": {"shop": [1]}}, "entity[...]", "Expected"),
        ({"as_of": "yesterday"}, "as_of", "RFC3339"),
        ({"as_of": "2013-04-10T08:00:00"}, "as_of", "no time zone"),
        ({"stream_options": {"include": True}}, "stream_options", "unknown field `include`"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream: true"),
        ({"messages": []}, "messages", "length >= 1"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role", "Invalid enum value."),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", "names the call"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "no content"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [CALLED]}]}, "messages[0].tool_calls", "Only"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content", "image_url"),
    ],
)  # fmt: skip
async def test_a_bad_parameter_is_named(http, answerer, extra, named, says) -> None:
    answer = await http.post("/v1/chat/completions", json={"model": "desk", "messages": MESSAGES, **extra})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"].startswith(named)
    assert says in error["message"]
    assert answerer.requests == []


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"best_of": 2}, "best_of"),
        ({"suffix": "x"}, "suffix"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": ["a", [1]]}, "prompt"),
        ({"prompt": ["a", "b"], "n": 100}, "n"),
        ({"logprobs": 6}, "logprobs"),
        ({"tools": [TOOL]}, "tools"),
    ],
)
async def test_a_bad_parameter_of_a_completion_is_named(http, answerer, extra, named) -> None:
    answer = await http.post("/v1/completions", json={"model": "tiny", "prompt": "Once", **extra})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, named), answer.text
    assert answerer.requests == []


async def test_values_that_ask_for_nothing_are_accepted(http) -> None:
    extra = {"n": 1, "presence_penalty": 0, "tools": None, "store": False, "temperature": None}
    answer = await http.post("/v1/chat/completions", json={"model": "desk", "messages": MESSAGES, **extra})
    assert answer.status_code == 200


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b'{"model": 1', b"[" * 50_000])
async def test_malformed_json_is_said(http, content) -> None:
    answer = await http.post("/v1/chat/completions", content=content)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "body"


async def test_a_missing_field_is_named(http) -> None:
    answer = await http.post("/v1/chat/completions", json={"model": "desk"})
    assert answer.status_code == 400
    assert "`messages`" in answer.json()["error"]["message"]


async def test_a_body_past_the_bound_is_refused_with_and_without_length(http) -> None:
    large = b'{"model": "' + b"x" * 200_000 + b'"}'

    async def parts():
        for start in range(0, len(large), 10_000):
            yield large[start : start + 10_000]

    for content in (large, parts()):
        answer = await http.post("/v1/chat/completions", content=content)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "too_large"


@pytest.mark.parametrize(
    ("key", "raised"), [("ak_wrong", openai.AuthenticationError), ("sk-other", openai.AuthenticationError)]
)
async def test_a_wrong_key_is_refused(running, key, raised) -> None:
    async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key=key, max_retries=0) as client:
        with pytest.raises(raised) as caught:
            await client.chat.completions.create(model="desk", messages=MESSAGES)
    assert caught.value.code == "invalid_api_key"


async def test_errors_before_the_first_word_have_their_status_streaming_or_not(client, answerer) -> None:
    answerer.failure = FeatureUnavailableError("weather.wind is 4 h old.", where="weather.wind", next_step="Wait.")
    for stream in (False, True):
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            await client.chat.completions.create(model="desk", messages=MESSAGES, stream=stream)
        assert caught.value.code == "feature_unavailable"
        assert caught.value.param == "weather.wind"
    answerer.failure = OverloadedError("256 questions wait.", retry_after=3)
    with pytest.raises(openai.RateLimitError) as limited:
        await client.chat.completions.create(model="desk", messages=MESSAGES)
    assert limited.value.response.headers["retry-after"] == "3"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("failure", "requests"),
    [
        (FeatureUnavailableError("The feature weather.wind has no value.", where="feature weather.wind"), 1),
        (FeatureUnavailableError("The view today is not published in version 1.", where="publication 7"), 1),
        (ConflictError("The release rel_1 is live already.", where="desk"), 1),
        (NotFoundError("There is no release 'rel_1'.", where="release"), 1),
        (InvalidOutputError("The output failed its schema.", where="output_schema"), 1),
        (OverloadedError("256 questions wait.", retry_after=0.01), 3),
        (soon(WriteConflictError("Another publication came first.")), 3),
        (soon(UnavailableError("The engine cannot be reached.")), 3),
    ],
)
async def test_the_official_client_repeats_what_may_succeed_and_prints_the_subject_of_the_rest(
    running, keys, answerer, failure, requests, stream
) -> None:
    answerer.failure = failure
    async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key=keys["service"]) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(model="desk", messages=MESSAGES, stream=stream)
    assert len(answerer.requests) == requests
    assert (requests > 1) == ("retry-after" in caught.value.response.headers)
    assert failure.what in str(caught.value)


async def test_a_response_that_fails_in_the_middle_says_so_in_its_last_event(http, answerer, running) -> None:
    answerer.fail_after = 2
    for failure, code in (
        (EngineError("The engine died."), "server_error"),
        (OverloadedError("Full."), "rate_limit_exceeded"),
    ):
        answerer.failure = failure
        answered = await http.post("/v1/responses", json={"model": "desk", "input": "Late?", "stream": True})
        events = [json.loads(line[6:]) for line in answered.text.splitlines() if line.startswith("data: ")]
        last = events[-1]
        assert (answered.status_code, last["type"], last["response"]["status"]) == (200, "response.failed", "failed")
        assert last["sequence_number"] == len(events) - 1
        assert (last["response"]["error"]["code"], last["response"]["error"]["type"]) == (code, failure.code)
        assert failure.what in last["response"]["error"]["message"]
        assert answerer.running == 0
    answerer.fail_after = 0
    refused = await http.post("/v1/responses", json={"model": "desk", "input": "Late?", "stream": True})
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")


async def test_an_engine_that_dies_in_the_middle_is_an_error_of_this_stream_alone(client, answerer, running) -> None:
    answerer.failure, answerer.fail_after = EngineError("The engine died."), 2
    stream = await client.chat.completions.create(model="desk", messages=MESSAGES, stream=True)
    words = []

    async def read() -> None:
        async for chunk in stream:
            words.append(chunk.choices[0].delta.content)

    with pytest.raises(openai.APIError, match="The engine died"):
        await read()
    assert words[1:] == list(answerer.words[:2])
    answerer.failure = None
    assert (await client.chat.completions.create(model="desk", messages=MESSAGES)).choices
    assert answerer.running == 0


async def test_an_unexpected_failure_tells_nothing_of_the_inside(running, keys, answerer, caplog) -> None:
    answerer.failure = RuntimeError("secret path /x")
    async with httpx2.AsyncClient(base_url=running.url, headers={"authorization": f"Bearer {keys['service']}"}) as http:
        for stream in (False, True):
            body = {"model": "desk", "messages": MESSAGES, "stream": stream}
            answer = await http.post("/v1/chat/completions", json=body)
            assert answer.status_code == 500
            assert "secret" not in answer.text
            error = answer.json()["error"]
            assert error["code"] == "internal_error"
            (reference,) = re.findall(r"err_\w+", error["message"])
            assert sum(reference in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_vanishes_during_silent_prefill_frees_its_slot(
    running, keys, answerer: FakeAnswerer, stream
) -> None:
    answerer.hold = asyncio.Event()
    body = json.dumps({"model": "desk", "messages": MESSAGES, "stream": stream}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {keys['service']}\r\n"

    async def seconds_until_free() -> float:
        _, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        async with asyncio.timeout(5):
            while answerer.running == 0:
                await asyncio.sleep(0.001)
            loop = asyncio.get_running_loop()
            left = loop.time()
            writer.close()
            while answerer.running:
                await asyncio.sleep(0)
            return loop.time() - left

    # One decode step of the engine takes about 7 ms (FACTS); the slot must be free within one. A busy machine may take
    # the processor away once, and not always.
    assert min([await seconds_until_free() for _ in range(5)]) < 0.007
    assert running.services.predictions.receipts.list(answerer.requests[0].scope) == []
    answerer.hold = None
    async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key=keys["service"]) as client:
        assert (await client.chat.completions.create(model="desk", messages=MESSAGES)).choices


async def test_a_client_that_vanishes_between_words_frees_its_slot(running, keys, answerer: FakeAnswerer) -> None:
    answerer.words = ["word "] * 200_000
    async with httpx2.AsyncClient(base_url=running.url, headers={"authorization": f"Bearer {keys['service']}"}) as http:
        body = {"model": "desk", "messages": MESSAGES, "stream": True}
        async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
            async for _ in answer.aiter_lines():
                break
            assert answerer.running == 1
    async with asyncio.timeout(5):
        while answerer.running:
            await asyncio.sleep(0.001)
