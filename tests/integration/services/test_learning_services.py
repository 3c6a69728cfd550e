"""What a project's own gateway shows and moves of models and rollouts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest
from tests.harness.gateway_client import sign_in
from tests.integration.services.test_apply_learning import Project

from antiphon.app.wiring import ProcessServices
from antiphon.gateway.application import create_app


@pytest.fixture
async def wired(tmp_path: Path) -> AsyncIterator[ProcessServices]:
    project = Project(tmp_path)
    project.apply()
    wired = ProcessServices(project.store, "test")
    yield wired
    await wired.close()


async def test_a_projects_gateway_orders_trainings_and_moves_releases(wired: ProcessServices) -> None:
    store = wired.store
    services = wired.gateway_services()
    key, _ = store.keys.create(store.scope.tenant, "builder", "engineer", None)
    async with httpx2.AsyncClient(
        transport=httpx2.ASGITransport(create_app(services)),
        base_url="http://desk",
        headers={"authorization": f"Bearer {key}"},
    ) as client:
        await sign_in(client, key)
        live = store.releases.live(store.scope, "desk")
        assert live is not None
        told = (await client.get("/admin/releases/desk/changelog")).json()["changes"]
        assert live.id in told[-1]["sentence"]
        for path in ("/releases", "/models", "/outcomes", "/runs", "/"):
            assert (path, (await client.get(path)).status_code) == (path, 200)
        ordered = await client.post("/admin/train", json={"application": "desk", "key": "first"})
        # The base model of this project is none that could be trained: that is said before there is a run.
        assert ordered.json()["error"]["code"] == "setup"
        assert [run for run in store.runs.list(store.scope) if run.workflow == "train"] == []
        lost = await client.post("/admin/train", json={"application": "gone"})
        assert (lost.status_code, "There is desk." in lost.text) == (404, True)
        refused = await client.post("/admin/releases/desk/rollback", json={"reason": "r"})
        assert refused.status_code == 422
    assert store.releases.live(store.scope, "desk") == live
