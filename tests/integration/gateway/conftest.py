"""A gateway over a real catalog in a temporary folder, served by a real uvicorn on the loopback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
import uvicorn
from tests.harness import fakes
from tests.harness.base_model import few_layers, model_path

from antiphon.catalog.database import Database
from antiphon.gateway.application import create_app
from antiphon.gateway.services import GatewayServices
from antiphon.governance.identity.keys import Keys

__all__ = ["few_layers", "model_path"]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database.open(f"sqlite:///{tmp_path}/catalog.db")
    opened.migrate()
    yield opened
    opened.close()


@pytest.fixture
def answerer(database: Database) -> fakes.FakeAnswerer:
    from antiphon.catalog.serving.receipts import Receipts

    return fakes.FakeAnswerer(Receipts(database), database.clock)


@pytest.fixture
def services(database: Database, answerer: fakes.FakeAnswerer) -> GatewayServices:
    return fakes.gateway_services(database, answerer)


@pytest.fixture
def keys(database: Database) -> dict[str, str]:
    """One key per role."""
    issued = Keys(database, fakes.SECRET)
    return {
        role: issued.create("default", f"the-{role}", role)[0] for role in ("admin", "engineer", "service", "viewer")
    }


@dataclass(frozen=True)
class Running:
    """A served gateway."""

    url: str
    port: int
    services: GatewayServices


@asynccontextmanager
async def serve(services: GatewayServices) -> AsyncIterator[Running]:
    """Serve on a free loopback port until the block ends."""
    # An event loop turns Nagle's algorithm off only where the socket names the protocol.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        config = uvicorn.Config(create_app(services), log_level="error", lifespan="on")
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            assert not task.done(), "uvicorn ended at once"
            await asyncio.sleep(0.01)
        try:
            yield Running(f"http://127.0.0.1:{port}", port, services)
        finally:
            server.should_exit = True
            await task


@pytest.fixture
async def running(services: GatewayServices) -> AsyncIterator[Running]:
    async with serve(services) as started:
        yield started


@pytest.fixture
async def http(running: Running, keys: dict[str, str]) -> AsyncIterator[httpx2.AsyncClient]:
    """A client with an engineer's key."""
    headers = {"authorization": f"Bearer {keys['engineer']}"}
    async with httpx2.AsyncClient(base_url=running.url, headers=headers, timeout=10, verify=False) as client:
        yield client
