"""The gateway's HTTP server as it ends: what a client has sent by then is answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from tests.harness.ports import free_port

from antiphon.app.gateway import server_of
from antiphon.core.settings_sections import GatewaySettings
from antiphon.gateway.http.connections import LAST_REQUEST_SECONDS

REQUEST = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"


async def fine(request: Request) -> Response:
    return PlainTextResponse("fine")


@asynccontextmanager
async def serving(gateways: int = 1) -> AsyncIterator[tuple[asyncio.Event, int]]:
    """A server, one of so many gateways, that ends once the event is set, and its port."""
    port, stop = free_port(), asyncio.Event()
    app = Starlette(routes=[Route("/", fine)])
    server = server_of(app, GatewaySettings(port=port))
    app.state.connections.among(gateways)
    served = asyncio.create_task(server.serve())
    async with asyncio.timeout(10):
        while not server.started:
            await asyncio.sleep(0.01)

    async def end() -> None:
        await stop.wait()
        server.should_exit = True

    ending = asyncio.create_task(end())
    try:
        yield stop, port
    finally:
        stop.set()
        await ending
        await asyncio.wait_for(served, 20)


async def answer(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    return head + await reader.readexactly(len(b"fine"))


async def refuses(port: int) -> None:
    """Wait until nothing listens there any more."""
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
            except ConnectionRefusedError:
                return
            except ConnectionResetError:
                pass  # It was queued when the socket closed.
            await asyncio.sleep(0.01)


async def test_a_server_that_ends_answers_one_more_request_of_each_connection() -> None:
    async with serving() as (stop, port):
        kept, kept_writer = await asyncio.open_connection("127.0.0.1", port)
        kept_writer.write(REQUEST)
        assert b"connection: close" not in await answer(kept)
        new, new_writer = await asyncio.open_connection("127.0.0.1", port)
        stop.set()
        await refuses(port)
        for reader, writer in ((kept, kept_writer), (new, new_writer)):
            writer.write(REQUEST)
            said = await answer(reader)
            assert said.startswith(b"HTTP/1.1 200")
            assert b"connection: close" in said
            assert await reader.read() == b"", "it is closed then"
            writer.close()


async def test_one_of_several_gateways_waits_longer_for_a_last_request() -> None:
    async with serving(gateways=1) as (stop, port):
        idle, writer = await asyncio.open_connection("127.0.0.1", port)
        stop.set()
        async with asyncio.timeout(5):
            assert await idle.read() == b"", "it is closed unasked"
        writer.close()
    async with serving(gateways=2) as (stop, port):
        idle, writer = await asyncio.open_connection("127.0.0.1", port)
        stop.set()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5 * LAST_REQUEST_SECONDS):
                await idle.read()
        writer.write(REQUEST)
        assert b"connection: close" in await answer(idle)
        writer.close()
