"""Memory of a large body is given back when its request has been answered, not while it is held."""

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from antiphon.core.memory import LARGE_BYTES, MemoryRelease
from antiphon.gateway.http.incoming import BodyRelease, body


async def test_a_large_body_is_given_back_after_its_answer() -> None:
    released, answering, answered = asyncio.Event(), asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        assert len(await body(Request(scope, receive), 2 * LARGE_BYTES)) == LARGE_BYTES
        answering.set()
        await answered.wait()

    async def receive() -> Message:
        return {"type": "http.request", "body": b"x" * LARGE_BYTES, "more_body": False}

    async def send(_: Message) -> None:
        raise AssertionError("nothing is sent")

    memory = MemoryRelease(lambda: loop.call_soon_threadsafe(released.set), delay=0.0)
    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/", "headers": []}
    serving = asyncio.create_task(BodyRelease(application, memory)(scope, receive, send))
    await answering.wait()
    for _ in range(20):
        await asyncio.sleep(0)
    assert not released.is_set(), "it is still held"
    answered.set()
    await serving
    await asyncio.wait_for(released.wait(), 5)
    assert "content" not in scope["state"]
