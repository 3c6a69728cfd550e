"""The pages *Keys* and *Tenants* without a browser: only administrators see them, no secret is on them, and a key that
is revoked stops."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import timedelta

import httpx2
import pytest
from tests.harness import fakes
from tests.harness.gateway_client import gateway_client

from antiphon.catalog.database import Database
from antiphon.gateway.services import GatewayServices
from antiphon.governance.identity.keys import Keys
from antiphon.governance.identity.principal import Limits, Principal
from antiphon.services.budgets.project_budgets import BudgetTerms

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
async def admin(services: GatewayServices, keys: dict[str, str]) -> AsyncIterator[httpx2.AsyncClient]:
    async with gateway_client(services, keys["admin"], page=True) as client:
        yield client


async def press(client: httpx2.AsyncClient, **form: str) -> httpx2.Response:
    token = re.search(r'name="csrf" value="([^"]+)"', (await client.get("/keys")).text)
    assert token is not None
    headers = {"sec-fetch-site": "same-origin"}
    return await client.post("/keys", data={"csrf": token[1], **form}, headers=headers)


async def test_keys_are_listed_with_what_they_open_and_never_with_their_text(
    admin: httpx2.AsyncClient, database: Database, keys: dict[str, str]
) -> None:
    issued = Keys(database, fakes.SECRET)
    now = database.clock.now()
    limits = Limits(("answer",), ("application/desk",))
    text, limited = issued.create("default", "till", "service", now + timedelta(hours=1), limits=limits)
    issued.create("other", "stranger", "admin")
    page = (await admin.get("/keys")).text
    assert "answer" in page
    assert "on application/desk" in page
    assert "stranger" not in page
    for secret in (*keys.values(), text):
        assert secret not in page
    assert limited.id in page
    assert "the-viewer" not in (await admin.get("/keys?name=TILL")).text
    assert limited.id not in (await admin.get("/keys?state=revoked")).text
    assert (await admin.get("/keys?state=odd")).status_code == 400
    assert HOSTILE not in (await admin.get(f"/keys?name={HOSTILE}")).text


async def test_a_revoked_key_stops_and_it_is_on_record(
    admin: httpx2.AsyncClient, database: Database, services: GatewayServices
) -> None:
    text, record = Keys(database, fakes.SECRET).create("default", "till", "service")
    stranger = Keys(database, fakes.SECRET).create("other", "stranger", "admin")[1]
    services.access.identity.sessions.end(services.access.identity.sessions.begin(text))
    assert (await press(admin, act="revoke", key=record.id, reason="")).status_code == 400
    assert (await press(admin, act="revoke", key=stranger.id, reason="mine")).status_code == 404
    assert (await press(admin, act="revoke", key=record.id, reason="it leaked")).status_code == 303
    assert "revoked" in (await admin.get("/keys?name=till")).text
    with pytest.raises(Exception, match="key"):
        services.access.identity.sessions.begin(text)


@pytest.mark.parametrize("role", ["engineer", "service", "viewer"])
async def test_only_administrators_see_keys_and_tenants(
    role: str, services: GatewayServices, keys: dict[str, str]
) -> None:
    async with gateway_client(services, keys[role], page=True) as client:
        assert (await client.get("/keys")).status_code == 403
        assert (await client.get("/tenants")).status_code == 403
        token = re.search(r'name="csrf" value="([^"]+)"', (await client.get("/requests")).text)
        assert token is not None
        form = {"csrf": token[1], "act": "revoke", "key": "key_1", "reason": "x"}
        answer = await client.post("/keys", data=form, headers={"sec-fetch-site": "same-origin"})
        assert answer.status_code == 403


async def test_tenants_are_shown_with_their_budgets(admin: httpx2.AsyncClient, services: GatewayServices) -> None:
    who = Principal("ada", "default", "admin")
    services.work.budgets(services.scope(who)).set(
        "whole", BudgetTerms("250", "tenant", "", "month"), reason="the plan", by=who
    )
    assert "whole: 0.000000 of 250.000000 a month" in (await admin.get("/tenants")).text
