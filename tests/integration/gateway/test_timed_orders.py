"""Drains on *Overview*, answers from store alone on *Releases*: for those who may see them, ended for a reason."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest
from tests.harness.fakes import APPLICATION, SECRET, make_release
from tests.harness.gateway_client import gateway_client
from tests.harness.joined_engines import join

from antiphon.catalog.database import Database
from antiphon.core.errors import ForbiddenError
from antiphon.core.scope import Scope
from antiphon.gateway.services import GatewayServices
from antiphon.governance.identity.keys import Keys
from antiphon.services.precomputed import ProjectPrecomputedModes

REASON = "<b>slow</b>"


@pytest.fixture(autouse=True)
def orders(services: GatewayServices, database: Database) -> None:
    make_release(database, Scope())
    drains = services.work.engines
    for engine in ("one", "two"):
        join(drains._store, engine)
    drains.drain("ada", "one@host", REASON, "1h")
    services.work.precomputed(Scope()).begin("ada", APPLICATION, REASON, "1h")


@asynccontextmanager
async def page_of(services: GatewayServices, key: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with gateway_client(services, key, page=True) as client:
        yield client


async def press(client: httpx2.AsyncClient, place: str, **form: str) -> httpx2.Response:
    token = re.search(r'name="csrf" value="([^"]+)"', (await client.get("/")).text)
    assert token is not None
    return await client.post(place, data={"csrf": token[1], **form}, headers={"sec-fetch-site": "same-origin"})


def refuse(services: GatewayServices, monkeypatch: pytest.MonkeyPatch, action: str, resource: str) -> GatewayServices:
    """Services whose policy refuses one thing more."""
    allowed = services.access.authorize

    def authorize(principal: object, asked: str, about: object) -> object:
        if (asked, str(about)) == (action, resource):
            raise ForbiddenError("A policy forbids it.")
        return allowed(principal, asked, about)  # type: ignore[arg-type]

    monkeypatch.setitem(services.access.__dict__, "authorize", authorize)
    return services


async def test_an_administrator_sees_both_and_ends_them_for_a_reason(
    services: GatewayServices, keys: dict[str, str]
) -> None:
    async with page_of(services, keys["admin"]) as client:
        overview, releases = (await client.get("/")).text, (await client.get("/releases")).text
        for page, what in ((overview, "one@host"), (releases, APPLICATION)):
            row = re.search(rf'<th scope="row">{what}</th>(.*?)</tr>', page, re.S)
            assert row is not None
            assert "&lt;b&gt;slow&lt;/b&gt;" in row[1]
            assert REASON not in page
            assert "<td>ada</td>" in row[1]
            since = services.clock.now().strftime("%Y-%m-%d %H:")
            assert since in row[1]
        without = await press(client, "/engines", act="resume", engine="one@host")
        assert without.status_code == 400
        assert "There is no reason." in without.text
        assert (await press(client, "/engines", act="resume", engine="one@host", reason="done")).status_code == 303
        assert "Drained engines" not in (await client.get("/")).text
        assert (await press(client, "/precomputed", act="end", application=APPLICATION)).status_code == 400
        ended = await press(client, "/precomputed", act="end", application=APPLICATION, reason="done")
        assert ended.status_code == 303
        assert "Answers from store alone" not in (await client.get("/releases")).text
    assert services.work.engines.list()[0].drain is None
    assert services.work.precomputed(Scope()).list() == ()


async def test_an_engineer_ends_the_mode_and_sees_no_drain(services: GatewayServices, keys: dict[str, str]) -> None:
    async with page_of(services, keys["engineer"]) as client:
        assert "one@host" not in (await client.get("/")).text
        assert (await press(client, "/engines", act="resume", engine="one@host", reason="mine")).status_code == 403
        ended = await press(client, "/precomputed", act="end", application=APPLICATION, reason="done")
        assert ended.status_code == 303
    assert services.work.engines.list()[0].drain is not None


async def test_a_viewer_reads_the_mode_and_has_no_button(services: GatewayServices, keys: dict[str, str]) -> None:
    async with page_of(services, keys["viewer"]) as client:
        releases = (await client.get("/releases")).text
        assert "Answers from store alone" in releases
        assert 'action="/precomputed"' not in releases
        assert "one@host" not in (await client.get("/")).text
        refused = await press(client, "/precomputed", act="end", application=APPLICATION, reason="mine")
        assert refused.status_code == 403
    assert len(services.work.precomputed(Scope()).list()) == 1


async def test_an_application_that_the_reader_may_not_read_is_not_there(
    services: GatewayServices, keys: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(services, monkeypatch, "read", f"application/{APPLICATION}")
    async with page_of(services, keys["viewer"]) as client:
        assert "Answers from store alone" not in (await client.get("/releases")).text
    async with gateway_client(services, keys["viewer"], page=False) as client:
        assert (await client.get("/admin/precomputed")).json() == {"modes": []}


async def test_other_tenants_see_no_drain(services: GatewayServices, database: Database) -> None:

    key, _ = Keys(database, SECRET).create("rival", "eve", "admin")
    async with page_of(services, key) as client:
        assert "one@host" not in (await client.get("/")).text
        assert (await press(client, "/engines", act="resume", engine="one@host", reason="mine")).status_code == 403


def test_the_moment_is_that_of_the_last_beginning(services: GatewayServices) -> None:
    modes = services.work.precomputed(Scope())
    assert isinstance(modes, ProjectPrecomputedModes)
    first = modes.began(modes.list()[0])
    modes.end("ada", APPLICATION, "done")
    modes.begin("ada", APPLICATION, "again", "1h")
    again = modes.began(modes.list()[0])
    assert first is not None
    assert again is not None
    assert again > first
