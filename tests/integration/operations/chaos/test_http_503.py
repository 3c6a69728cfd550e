"""HTTP answers through a proxy are replaced by 503, while the connections that they come on stay right."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiohttp import web
from tests.harness.ports import free_port
from tests.integration.operations.chaos.test_guardians import RUNNER, ends, until
from tests.integration.operations.chaos.test_tcp_proxy import order

from antiphon.core.settings_processes import ProxySettings
from antiphon.operations.chaos.faults import ProxyHttpError
from antiphon.operations.chaos.guarded_fault import guarded
from antiphon.operations.chaos.guardian import RUNNER_GONE
from antiphon.operations.chaos.journal import FaultEnd, read_journal
from antiphon.operations.chaos.proxy_control import proxies_that_answer
from antiphon.operations.chaos.tcp_proxy import serving

PIECES = 40


async def _echo(request: web.Request) -> web.StreamResponse:
    """Answers with the number that was asked for: at once, or in pieces of unknown number."""
    number = (await request.text()) * 1_000
    if request.path == "/whole":
        return web.Response(text=number)
    response = web.StreamResponse()
    response.enable_chunked_encoding()
    await response.prepare(request)
    for start in range(0, len(number), len(number) // PIECES):
        await response.write(number[start : start + len(number) // PIECES].encode())
    await response.write_eof()
    return response


@asynccontextmanager
async def proxied(run: Path, peers: set[object] | None = None) -> AsyncIterator[str]:
    """A server of HTTP behind a proxy named ``http``; the proxy's URL. ``peers``: those that it was connected to."""

    @web.middleware
    async def noted(request: web.Request, handler: Any) -> web.StreamResponse:
        if peers is not None and request.transport is not None:
            peers.add(request.transport.get_extra_info("peername"))
        found: web.StreamResponse = await handler(request)
        return found

    application = web.Application(middlewares=[noted])
    application.router.add_route("*", "/{path}", _echo)
    runner = web.AppRunner(application)
    await runner.setup()
    own, behind = free_port(), free_port()
    await web.TCPSite(runner, "127.0.0.1", behind).start()
    try:
        async with serving({"http": ProxySettings(f"127.0.0.1:{own}", f"127.0.0.1:{behind}")}, run, run):
            yield f"http://127.0.0.1:{own}"
    finally:
        await runner.cleanup()


def counted(run: Path) -> list[str]:
    return [one.counted for one in read_journal(run) if isinstance(one, FaultEnd)]


async def test_a_share_of_the_answers_is_a_503_and_the_next_one_is_right_on_the_same_connection(tmp_path: Path) -> None:
    peers = set[object]()
    async with proxied(tmp_path, peers) as url, aiohttp.ClientSession() as session:
        seen: list[tuple[int, str | None]] = []

        async def ask(number: int) -> None:
            path = "whole" if number % 2 else "pieces"
            async with session.post(f"{url}/{path}", data=f"{number:04}") as response:
                text = await response.text()
                seen.append((response.status, response.headers.get("Retry-After")))
                assert response.status == 503 or text == f"{number:04}" * 1_000, "somebody else's answer"

        await ask(0)
        assert await asyncio.to_thread(proxies_that_answer, tmp_path) == {"http": "http"}
        async with guarded(order(tmp_path, ProxyHttpError("http", "600s", 0.5, "2500ms"))) as fault:
            assert fault.touched == ("proxy http",)
            for number in range(60):
                await ask(number)
        replaced = seen.count((503, "3"))
        assert 10 < replaced < 50
        assert seen.count((200, None)) == 61 - replaced
        for number in range(10):
            await ask(number)
        assert seen[-10:] == [(200, None)] * 10
        assert len(peers) == 1, "the connection was not kept"
    assert counted(tmp_path) == [f"{replaced} of 60 answers replaced"]


async def test_the_answers_are_the_servers_again_when_the_runner_is_killed(tmp_path: Path) -> None:
    async with proxied(tmp_path) as url, aiohttp.ClientSession() as session:
        pipe = asyncio.subprocess.PIPE
        runner = await asyncio.create_subprocess_exec(sys.executable, "-c", RUNNER, stdin=pipe, stdout=pipe)
        assert runner.stdin is not None
        assert runner.stdout is not None
        runner.stdin.write(msgspec.json.encode(order(tmp_path, ProxyHttpError("http", "600s"))) + b"\n")
        assert (await runner.stdout.readline()).startswith(b"begun")
        for method, body in (("GET", True), ("HEAD", False)):
            async with session.request(method, f"{url}/whole") as response:
                assert (response.status, bool(await response.read())) == (503, body)
        runner.kill()
        await runner.wait()
        await asyncio.to_thread(until, lambda: ends(tmp_path) == [RUNNER_GONE])
        async with session.get(f"{url}/whole", data="1") as response:
            assert await response.text() == "1" * 1_000
    assert counted(tmp_path) == ["2 of 2 answers replaced"]
