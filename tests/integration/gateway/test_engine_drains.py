"""Engines are drained over HTTP, by administrators of the tenant that runs the installation."""

from __future__ import annotations

import httpx2
import pytest
from tests.harness.joined_engines import join

from antiphon.services.engines.drains import EngineDrains


@pytest.fixture(autouse=True)
def joined(services):
    drains = services.work.engines
    assert isinstance(drains, EngineDrains)
    for engine in ("one", "two"):
        join(drains._store, engine)


async def test_an_administrator_drains_and_resumes(running, keys) -> None:
    headers = {"Authorization": f"Bearer {keys['admin']}"}
    said = {"reason": "it is slow", "duration": "10m"}
    async with httpx2.AsyncClient(base_url=running.url, timeout=10, headers=headers) as client:
        held = (await client.post("/admin/engines/one@host/drain", json=said)).json()
        assert (held["engine"], held["principal"]) == ("one@host", "the-admin")
        listed = (await client.get("/admin/engines")).json()["engines"]
        assert {one["name"]: one["drain"] for one in listed} == {"one@host": held, "two@host": None}
        assert (await client.post("/admin/engines/two/drain", json=said)).status_code == 422
        assert (await client.post("/admin/engines/gone/drain", json=said)).status_code == 404
        assert (await client.post("/admin/engines/one/drain", json={"reason": ""})).status_code == 400
        ended = await client.post("/admin/engines/one/resume", json={"reason": "it is quick again"})
        assert ended.json() == {"drain": held}
        again = await client.post("/admin/engines/one/resume", json={"reason": "once more"})
        assert again.json() == {"drain": None}


async def test_nobody_else_does(running, keys) -> None:
    headers = {"Authorization": f"Bearer {keys['engineer']}"}
    async with httpx2.AsyncClient(base_url=running.url, timeout=10, headers=headers) as client:
        assert (await client.get("/admin/engines")).status_code == 403
        assert (await client.post("/admin/engines/one/drain", json={"reason": "mine"})).status_code == 403
