"""Batch beside online on a server whose scheduler is not ours: the product's own engine behind a plain
OpenAI-compatible endpoint that tells nobody apart."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import msgspec
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from antiphon.core.errors import OverloadedError, UnsupportedParameterError
from antiphon.engine.api.messages import Delta, GenerationRequest, GenerationResult, Priority
from antiphon.engine.backends.remote.engine import RemoteEngine
from antiphon.engine.backends.simulated.runtime import SimulatedRuntime
from antiphon.engine.execution.local import LocalEngine
from antiphon.engine.execution.runtime import Layout
from antiphon.engine.scheduling.service_level import ServiceLevel


class Server:
    """What it was asked, and how many requests it had at once at the most."""

    def __init__(self) -> None:
        self.url = ""
        self.bodies: list[dict[str, object]] = []
        self.now = self.most = 0
        self.refuses = False


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    seen = Server()
    engine = await LocalEngine(
        {"words": SimulatedRuntime("words", Layout(slots=16, context_tokens=4096), call_seconds=0.002)}
    ).start()

    async def completions(request: Request) -> Response:
        body = await request.json()
        seen.bodies.append(body)
        if seen.refuses:
            return JSONResponse({"error": {"message": "Too many requests."}}, 429, {"retry-after": "1"})

        async def lines() -> AsyncIterator[str]:
            seen.now += 1
            seen.most = max(seen.most, seen.now)
            try:
                async with contextlib.aclosing(
                    engine.generate(GenerationRequest("r", "words", body["prompt"], body["max_tokens"]))
                ) as events:
                    async for event in events:
                        text = event.text if isinstance(event, Delta) else ""
                        reason = event.reason if isinstance(event, GenerationResult) else None
                        choice = {"text": text, "finish_reason": reason, "logprobs": None}
                        yield f"data: {msgspec.json.encode({'choices': [choice]}).decode()}\n\n"
            finally:
                seen.now -= 1
            yield "data: [DONE]\n\n"

        return StreamingResponse(lines(), media_type="text/event-stream")

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        seen.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        application = Starlette(routes=[Route("/v1/completions", completions, methods=["POST"])])
        uvicorn_server = uvicorn.Server(uvicorn.Config(application, log_level="error", lifespan="off"))
        task = asyncio.create_task(uvicorn_server.serve(sockets=[listener]))
        while not uvicorn_server.started:
            await asyncio.sleep(0.01)
        try:
            yield seen
        finally:
            uvicorn_server.should_exit = True
            await task
            await engine.close()


async def ask(
    engine: RemoteEngine, number: int, priority: Priority, level: ServiceLevel | None = None
) -> GenerationResult:
    request = GenerationRequest(f"r{number}", "words", f"Number {number}.", 16, priority=priority, level=level)
    async for event in engine.generate(request):
        if isinstance(event, GenerationResult):
            return event
    raise AssertionError("no end")


async def test_batch_waits_here_and_every_request_is_answered(server: Server) -> None:
    engine = RemoteEngine(server.url)
    batch = [asyncio.create_task(ask(engine, number, "batch")) for number in range(12)]
    # A bound that is missed by everybody: one batch request at a time is all that is left.
    for number in range(20, 30):
        await ask(engine, number, "online", ServiceLevel(slowdown=0.0))
    server.most = 0
    assert len(await asyncio.gather(*batch)) == 12
    assert server.most <= 2
    await engine.close()


async def test_online_never_waits_here(server: Server) -> None:
    engine = RemoteEngine(server.url)
    await asyncio.gather(*(ask(engine, number, "online") for number in range(12)))
    assert server.most > 4
    await engine.close()


async def test_a_batch_request_that_is_given_up_leaves_its_place_to_another(server: Server) -> None:
    engine = RemoteEngine(server.url)
    given_up = [asyncio.create_task(ask(engine, number, "batch")) for number in range(8)]
    await asyncio.sleep(0)
    for task in given_up:
        task.cancel()
    await asyncio.gather(*given_up, return_exceptions=True)
    async with asyncio.timeout(10):
        await asyncio.gather(*(ask(engine, number, "batch") for number in range(4)))
    await engine.close()


async def test_a_refused_batch_request_says_so_and_leaves_its_place(server: Server) -> None:
    engine = RemoteEngine(server.url)
    server.refuses = True
    for number in range(4):
        with pytest.raises(OverloadedError):
            await ask(engine, number, "batch")
    server.refuses = False
    async with asyncio.timeout(10):
        await ask(engine, 5, "batch")
    await engine.close()


async def test_any_server_is_told_nothing_that_openai_does_not_know(server: Server) -> None:
    engine = RemoteEngine(server.url)
    await ask(engine, 1, "batch")
    await ask(engine, 2, "online", ServiceLevel(slowdown=0.1))
    assert not {"priority", "vllm_xargs", "ignore_eos"} & {name for body in server.bodies for name in body}
    with pytest.raises(UnsupportedParameterError):
        async for _ in engine.generate(GenerationRequest("r", "words", "On.", 4, ignore_end=True)):
            pass
    await engine.close()


async def test_vllm_is_told_priority_and_service_level_and_decides_itself(server: Server) -> None:
    engine = RemoteEngine(server.url, serves="vllm")
    await asyncio.gather(*(ask(engine, number, "batch") for number in range(12)))
    await ask(engine, 20, "online", ServiceLevel(ttft=1.0, slowdown=0.1))
    assert server.most > 4
    assert [body["priority"] for body in server.bodies] == [1] * 12 + [0]
    assert server.bodies[-1]["vllm_xargs"] == {"antiphon_ttft": 1.0, "antiphon_slowdown": 0.1}
    await engine.close()
