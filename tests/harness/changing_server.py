"""An OpenAI-compatible server over HTTP whose weights may change behind the name of its model."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route


class ChangingServer:
    """Serves the model ``words``: log-probabilities follow from ``weights`` and the prompt, give or take ``noise``.

    Attributes:
        most: greatest number of its requests at once; ``now``: the present one.
        held: while it is cleared, answers say nothing.
    """

    def __init__(self) -> None:
        self.url = ""
        self.weights, self.system, self.noise = "A", "fp_a", 0.0
        self.logprobs = True
        self.status = 200
        self.now = self.most = self.answered = 0
        self.held = asyncio.Event()
        self.held.set()
        self._chance = Random(1)

    async def models(self, _: Request) -> Response:
        return JSONResponse({"data": [{"id": "words", "owned_by": "tests", "max_model_len": 2048}]})

    async def completions(self, request: Request) -> Response:
        body = await request.json()
        if self.status != 200:
            return JSONResponse({"error": {"message": "Not now."}}, self.status)
        self.now += 1
        self.most = max(self.most, self.now)

        async def lines() -> AsyncIterator[str]:
            try:
                await self.held.wait()
                choice = {"index": 0, "text": " a", "finish_reason": "stop", "logprobs": self._logprobs(body)}
                chunk = {"choices": [choice], "system_fingerprint": self.system}
                yield f"data: {msgspec.json.encode(chunk).decode()}\n\ndata: [DONE]\n\n"
                self.answered += 1
            finally:
                self.now -= 1

        return StreamingResponse(lines(), media_type="text/event-stream")

    def _logprobs(self, body: dict[str, Any]) -> dict[str, Any] | None:
        if not self.logprobs or not body.get("logprobs"):
            return None
        drawn = Random(f"{self.weights} {body['prompt']}")
        top = {
            f" {letter}": -drawn.uniform(0.1, 5.0) + self._chance.uniform(-self.noise, self.noise) for letter in "abcde"
        }
        return {"tokens": [" a"], "token_logprobs": [top[" a"]], "top_logprobs": [top]}

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[ChangingServer]:
        routes = [Route("/v1/models", self.models), Route("/v1/completions", self.completions, methods=["POST"])]
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
            server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), log_level="error", lifespan="off"))
            task = asyncio.create_task(server.serve(sockets=[listener]))
            try:
                yield self
            finally:
                self.held.set()
                server.should_exit = True
                await task
