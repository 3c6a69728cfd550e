"""A gateway in this process, and a client of it: signed in at the dashboard, or with a key."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2

from antiphon.app.wiring import ProcessServices
from antiphon.core.ids import new_id
from antiphon.gateway.application import create_app
from antiphon.gateway.services import GatewayServices
from antiphon.governance.identity.keys import Keys
from antiphon.services.project.store import Store


async def sign_in(browser: httpx2.AsyncClient, key: str, then: str = "/", **headers: str) -> httpx2.Response:
    """Sign in as a browser does, the page first and then its form; the answer to the form."""
    page = await browser.get("/login", params={"next": then})
    token = re.search(r'name="csrf" value="([^"]+)"', page.text)
    assert token is not None, page.text
    return await browser.post("/login", params={"next": then}, data={"key": key, "csrf": token[1]}, headers=headers)


@asynccontextmanager
async def gateway_client(services: GatewayServices, key: str, *, page: bool) -> AsyncIterator[httpx2.AsyncClient]:
    """A client with this key; for a ``page`` it is signed in."""
    transport = httpx2.ASGITransport(create_app(services))
    async with httpx2.AsyncClient(transport=transport, base_url="http://desk") as opened:
        if page:
            await sign_in(opened, key)
        else:
            opened.headers["authorization"] = f"Bearer {key}"
        yield opened


@asynccontextmanager
async def project_client(folder: Path, role: str, *, page: bool = False) -> AsyncIterator[httpx2.AsyncClient]:
    """A client with a new key of this role, of a gateway over a project's folder."""
    wired = ProcessServices(Store.open(folder), "test")
    try:
        key, _ = Keys(wired.store.database, wired.store.secret("server")).create("default", new_id("the"), role)
        async with gateway_client(wired.gateway_services(), key, page=page) as opened:
            yield opened
    finally:
        await wired.close()
