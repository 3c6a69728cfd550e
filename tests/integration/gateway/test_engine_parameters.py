"""Request fields beyond OpenAI's, from the official client through a gateway to a server that speaks OpenAI's API."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from tests.integration.gateway.generating_world import CHAT, MODEL, World, over

from antiphon.engine.api.port import Engine
from antiphon.engine.backends.remote.engine import RemoteEngine
from antiphon.engine.backends.simulated.runtime import SimulatedRuntime
from antiphon.engine.execution.local import LocalEngine
from antiphon.gateway.openai.engine_parameters import EngineParameters

FIELDS: dict[str, Any] = {
    "top_k": 20,
    "min_p": 0.05,
    "repetition_penalty": 1.1,
    "length_penalty": 1.0,
    "min_tokens": 2,
    "ignore_eos": True,
    "stop_token_ids": [2],
    "include_stop_str_in_output": True,
    "allowed_token_ids": [5, 6, 7],
    "bad_words": ["delay"],
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
    "add_special_tokens": True,
    "truncate_prompt_tokens": 100,
    "guided_json": {"type": "object"},
    "guided_regex": "[a-z]+",
    "guided_choice": ["late", "on time"],
    "guided_grammar": 'root ::= "late"',
    "guided_whitespace_pattern": " ",
    "structured_outputs": {"choice": ["late"]},
    "chat_template_kwargs": {"enable_thinking": False},
}


@dataclass
class Server:
    """A server with OpenAI's endpoints that notes what it is asked, and refuses a parameter if told to."""

    refuses: str | None = None
    bodies: list[dict[str, Any]] = field(default_factory=list)

    async def models(self, _: Request) -> Response:
        return JSONResponse({"data": [{"id": MODEL, "object": "model", "max_model_len": 2048}]})

    async def chat(self, request: Request) -> Response:
        self.bodies.append(await request.json())
        if self.refuses in self.bodies[-1]:
            return JSONResponse({"error": {"message": "secret words", "param": self.refuses}}, status_code=400)
        chunk = {"choices": [{"index": 0, "delta": {"content": "They are late."}, "finish_reason": "stop"}]}
        usage = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 4}}
        lines = [f"data: {json.dumps(one)}\n\n" for one in (chunk, usage)]
        return StreamingResponse(iter([*lines, "data: [DONE]\n\n"]), media_type="text/event-stream")

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        routes = [Route("/v1/models", self.models), Route("/v1/chat/completions", self.chat, methods=["POST"])]
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), log_level="error", lifespan="off"))
        running = asyncio.create_task(server.serve([listener]))
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        await running
        listener.close()


async def chat(world: World, **extra: Any) -> Any:
    return await world.chat(temperature=0, extra_body=extra)


Fronted = Callable[[Engine], Awaitable[World]]


@pytest.fixture
async def fronted(tmp_path: Path) -> AsyncIterator[Fronted]:
    """Puts a gateway in front of an engine, and the official client before it."""
    async with AsyncExitStack() as stack:

        async def front(engine: Engine) -> World:
            stack.push_async_callback(engine.close)
            return await over(stack, tmp_path / "desk", engine)

        yield front


async def test_a_vllm_server_is_told_every_field_and_again_by_a_replay(fronted: Fronted) -> None:
    assert FIELDS.keys() == set(EngineParameters.__struct_fields__)
    server = Server()
    async with server.listening() as url:
        world = await fronted(RemoteEngine(url, serves="vllm"))
        answer = await chat(world, **FIELDS)
        assert await world.replays(answer.id)
    asked, replayed = server.bodies
    assert {name: asked[name] for name in FIELDS} == FIELDS
    assert {name: replayed[name] for name in FIELDS} == FIELDS


async def test_another_server_is_told_what_settings_say_that_it_takes(fronted: Fronted) -> None:
    server = Server()
    async with server.listening() as url:
        world = await fronted(RemoteEngine(url, parameters=["top_k"]))
        await chat(world, top_k=20)
        assert server.bodies[-1]["top_k"] == 20
        for name, value in FIELDS.items():
            if name != "top_k":
                with pytest.raises(openai.BadRequestError, match=f"does not know `{name}`") as refused:
                    await chat(world, **{name: value})
                assert (refused.value.param, refused.value.code) == (name, "unsupported_parameter")
    assert len(server.bodies) == 1, "the server was asked although it would not have understood"


async def test_a_field_that_the_server_refuses_is_named(fronted: Fronted) -> None:
    server = Server(refuses="min_p")
    async with server.listening() as url:
        world = await fronted(RemoteEngine(url, serves="vllm"))
        with pytest.raises(openai.BadRequestError, match="refused `min_p`") as refused:
            await chat(world, min_p=0.5)
    assert refused.value.param == "min_p"
    assert "secret" not in str(refused.value)


async def test_our_own_engine_knows_one_and_refuses_the_rest(fronted: Fronted) -> None:
    world = await fronted(await LocalEngine({MODEL: SimulatedRuntime(MODEL)}).start())
    assert (await chat(world, ignore_eos=True)).usage.completion_tokens == 16
    with pytest.raises(openai.BadRequestError, match="does not know `top_k`"):
        await chat(world, top_k=20)


@pytest.mark.parametrize(("extra", "named"), [({"top_k": 20}, "top_k"), ({"ignore_eos": True}, "ignore_eos")])
async def test_an_application_keeps_its_own(fronted: Fronted, extra: dict[str, Any], named: str) -> None:
    world = await fronted(RemoteEngine("http://127.0.0.1:9", serves="vllm"))
    entity = {"flight": "B6 1", "origin": "JFK"}
    with pytest.raises(openai.BadRequestError, match=f"pins its own `{named}`"):
        await world.client.chat.completions.create(model="desk", messages=CHAT, extra_body={"entity": entity, **extra})


@pytest.mark.parametrize(("name", "value"), [("top_k", -2), ("min_p", 1.5), ("min_tokens", 2**63), ("ignore_eos", 1)])
async def test_a_value_that_no_engine_takes_is_refused_at_the_gateway(fronted: Fronted, name: str, value: Any) -> None:
    world = await fronted(RemoteEngine("http://127.0.0.1:9", serves="vllm"))
    with pytest.raises(openai.BadRequestError) as refused:
        await chat(world, **{name: value})
    assert refused.value.param == name
