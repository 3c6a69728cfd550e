"""Streams that tell open pages of a change: their own tenant's, under policy, bounded, and ended with the gateway."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager

import httpx2
import pytest
from tests.harness import fakes
from tests.harness.gateway_client import sign_in

from antiphon.app.gateway import server_of
from antiphon.core.errors import UnavailableError
from antiphon.core.settings_sections import GatewaySettings
from antiphon.gateway.application import create_app
from antiphon.gateway.dashboard import live
from antiphon.governance.identity.keys import Keys

CHANGED = "event: changed"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(live, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(live, "BEAT_SECONDS", 0.2)


@asynccontextmanager
async def served(services):
    """The gateway behind the server that the process uses, with its live pages."""
    app = create_app(services)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = server_of(app, GatewaySettings(), on_exit=app.state.pages.live.close)
        task = asyncio.create_task(server.serve([listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", app.state.pages.live, server, task
        finally:
            server.should_exit = True
            await task


@pytest.fixture
async def gateway(services):
    async with served(services) as found:
        yield found


@asynccontextmanager
async def reader(url, key):
    async with httpx2.AsyncClient(base_url=url, timeout=20) as client:
        await sign_in(client, key)
        yield client


async def answer(url, key):
    async with httpx2.AsyncClient(base_url=url, headers={"authorization": f"Bearer {key}"}) as client:
        body = {"model": "desk", "messages": [{"role": "user", "content": "x"}]}
        (await client.post("/v1/chat/completions", json=body)).raise_for_status()


async def until(found) -> None:
    async with asyncio.timeout(10):
        while not found():
            await asyncio.sleep(0.01)


async def told(lines, most: int = 6) -> bool:
    """Tells whether one of the next lines that say something is a change."""
    seen = 0
    async for line in lines:
        if line == CHANGED:
            return True
        seen += line.startswith(":")
        if seen >= most:
            return False
    return False


async def test_a_change_is_told_to_its_own_tenant_alone(gateway, keys, database) -> None:
    url, streams, _, _ = gateway
    other, _ = Keys(database, fakes.SECRET).create("other", "stranger", "admin")
    async with reader(url, keys["viewer"]) as own, reader(url, other) as foreign:
        path = "/dashboard/changes?topic=requests"
        async with own.stream("GET", path) as first, foreign.stream("GET", path) as second:
            assert first.headers["content-type"].startswith("text/event-stream")
            lines, others = first.aiter_lines(), second.aiter_lines()
            assert not await told(lines, 2)
            await answer(url, keys["service"])
            assert await told(lines)
            assert not await told(others)
    await until(lambda: streams.watched == 0)


async def test_many_pages_of_a_tenant_are_one_look_at_the_catalog(gateway, keys, monkeypatch) -> None:
    url, streams, _, _ = gateway
    monkeypatch.setattr(live, "MOST_EACH", 5)
    async with reader(url, keys["viewer"]) as client, asyncio.TaskGroup() as group:
        ended = asyncio.Event()

        async def hold() -> None:
            async with client.stream("GET", "/dashboard/changes?topic=overview") as stream:
                assert stream.status_code == 200
                await ended.wait()

        for _ in range(5):
            group.create_task(hold())
        await until(lambda: streams._open.total() == 5)
        assert streams.watched == 1
        refused = await client.get("/dashboard/changes?topic=overview")
        assert refused.status_code == 429
        assert (await client.get("/dashboard/changes?topic=secrets")).status_code == 404
        ended.set()
    await until(lambda: streams.watched == 0)
    assert streams._open.total() == 0


async def test_who_has_no_session_has_no_stream_and_an_ended_one_ends_it(gateway, keys, database) -> None:
    url, _, _, _ = gateway
    async with httpx2.AsyncClient(base_url=url) as stranger:
        assert (await stranger.get("/dashboard/changes?topic=runs")).status_code == 401
    async with reader(url, keys["viewer"]) as client:
        async with client.stream("GET", "/dashboard/changes?topic=runs") as stream:
            lines = stream.aiter_lines()
            assert not await told(lines, 2)
            record = next(key for key in Keys(database, fakes.SECRET).list("default") if key.role == "viewer")
            headers = {"authorization": f"Bearer {keys['admin']}"}
            async with httpx2.AsyncClient(base_url=url, headers=headers) as admin:
                assert (await admin.delete(f"/admin/keys/{record.id}")).status_code == 200
            async with asyncio.timeout(10):
                async for _ in lines:
                    pass
        assert (await client.get("/dashboard/changes?topic=runs")).status_code == 401


async def test_a_gateway_that_ends_waits_for_no_stream(gateway, keys) -> None:
    url, _, server, task = gateway
    async with reader(url, keys["viewer"]) as client, client.stream("GET", "/dashboard/changes?topic=runs") as stream:
        lines = stream.aiter_lines()
        assert not await told(lines, 1)
        server.should_exit = True
        async with asyncio.timeout(8):  # Below the time for which a server waits for its answers.
            async for _ in lines:
                pass
    await task


async def test_without_a_catalog_streams_end_and_come_back(services, keys, monkeypatch) -> None:
    away = False

    def stamp(scope):
        if away:
            raise UnavailableError("The catalog is away.")
        return 1

    async with served(services) as (url, streams, _, _):
        streams._stamps = {"runs": stamp}
        async with reader(url, keys["viewer"]) as client:
            async with client.stream("GET", "/dashboard/changes?topic=runs") as stream:
                lines = stream.aiter_lines()
                assert not await told(lines, 2)
                away = True
                async with asyncio.timeout(10):
                    async for _ in lines:
                        pass
            away = False
            async with client.stream("GET", "/dashboard/changes?topic=runs") as stream:
                assert not await told(stream.aiter_lines(), 2)
