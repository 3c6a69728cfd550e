"""An application is had answer from store alone over HTTP, and a refusal says when engines answer again."""

from __future__ import annotations

import httpx2
from tests.harness.fakes import APPLICATION, make_release

from antiphon.core.errors import PrecomputedOnlyError
from antiphon.core.scope import Scope


async def test_an_engineer_begins_and_ends_it(running, keys, database) -> None:
    make_release(database, Scope())
    said = {"reason": "users wait", "duration": "10m"}
    path = f"/admin/precomputed/{APPLICATION}"
    headers = {"Authorization": f"Bearer {keys['engineer']}"}
    async with httpx2.AsyncClient(base_url=running.url, timeout=10, headers=headers) as client:
        mode = (await client.post(f"{path}/begin", json=said)).json()
        assert (mode["application"], mode["principal"]) == (APPLICATION, "the-engineer")
        assert [one["reason"] for one in (await client.get("/admin/precomputed")).json()["modes"]] == ["users wait"]
        assert (await client.post("/admin/precomputed/gone/begin", json=said)).status_code == 404
        ended = (await client.post(f"{path}/end", json={"reason": "done"})).json()["mode"]
        assert ended["principal"] == "the-engineer"
        assert (await client.post(f"{path}/end", json={"reason": "done"})).json() == {"mode": None}
        refused = await client.post(f"{path}/begin", json=said, headers={"Authorization": f"Bearer {keys['viewer']}"})
        assert refused.status_code == 403


async def test_what_is_not_in_store_is_refused_with_the_time_of_the_end(running, keys, answerer) -> None:
    answerer.failure = PrecomputedOnlyError("From store alone.", retry_after=90.0, where="desk", next_step="Wait.")
    headers = {"Authorization": f"Bearer {keys['service']}"}
    async with httpx2.AsyncClient(base_url=running.url, timeout=10, headers=headers) as client:
        body = {"model": APPLICATION, "messages": [{"role": "user", "content": "Paid?"}]}
        refused = await client.post("/v1/chat/completions", json=body)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "90")
        assert refused.json()["error"]["code"] == "precomputed_only"
