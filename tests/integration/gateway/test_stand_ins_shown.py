"""What stood in for a release, and what came from store, as status, metrics and dashboard show it."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import httpx2
import msgspec
from tests.harness import fakes
from tests.harness.gateway_client import sign_in
from tests.integration.gateway.conftest import serve

from antiphon.catalog.serving.receipts import ReuseCount
from antiphon.core.circuit_breaker import BreakerStatus
from antiphon.services.engines.remote_models import RemoteModelLine

BREAKERS = (
    BreakerStatus("main", "open", 12, 9, 2, 3.5),
    BreakerStatus("standby", "closed", 9, 0, 0, None),
)
COUNTS = (
    ReuseCount("desk", "generated", "live", 50, 0),
    ReuseCount("desk", "generated", "fallback", 5, 0),
    ReuseCount("desk", "identical-prompt", "live", 15, 900),
    ReuseCount("desk", "stored", "degraded", 10, 500),
    ReuseCount("desk", "stored", "live", 20, 1_200),
)


async def test_breakers_and_reuse_are_shown_everywhere(services, keys) -> None:
    shown = fakes.replaced(services, breakers=lambda: BREAKERS, reuse=lambda scope: COUNTS)
    async with serve(shown) as running, httpx2.AsyncClient(base_url=running.url, timeout=10) as client:
        status = (await client.get("/admin/status", headers={"authorization": f"Bearer {keys['viewer']}"})).json()
        assert [one["state"] for one in status["breakers"]] == ["open", "closed"]
        assert status["reuse"] == [
            {
                "application": "desk",
                "answers": 100,
                "stored": 20,
                "identical_prompts": 15,
                "hit_rate": 0.35,
                "saved_tokens": 2_100,
                "fallback": 5,
                "degraded": 10,
            }
        ]
        metrics = (await client.get("/metrics")).text
        assert 'antiphon_engine_breaker{engine="main"} 2.0' in metrics
        assert 'antiphon_engine_failed_requests_total{engine="main"} 9.0' in metrics
        await sign_in(client, keys["viewer"])
        page = (await client.get("/dashboard/figures")).text
        for told in ("Engines with an open circuit", "9 of 12 requests failed", "35.0 %", "Tokens saved"):
            assert told in page
        [left_alone] = re.findall(r"Engines with an open circuit.*?</table>", page, re.DOTALL)
        assert "standby" not in left_alone


async def test_a_model_that_changed_behind_its_name_is_shown(services, keys) -> None:
    at = datetime(2013, 4, 10, 12, tzinfo=UTC)
    changed = RemoteModelLine("main", "words", "v2", "log-probabilities", at, at, "v1", "its root is b", ("rel_1",))
    same = RemoteModelLine("main", "others", "v1", "name only", at, at)
    refused = msgspec.structs.replace(changed, model="refused", outdated=(), refused=True)
    shown = fakes.replaced(services, remote_models=lambda scope: (changed, same, refused))
    async with serve(shown) as running, httpx2.AsyncClient(base_url=running.url, timeout=10) as client:
        status = (await client.get("/admin/status", headers={"authorization": f"Bearer {keys['viewer']}"})).json()
        assert [(one["model"], one["version"], one["before"]) for one in status["remote_models"]] == [
            ("words", "v2", "v1"), ("others", "v1", None), ("refused", "v2", "v1"),
        ]  # fmt: skip
        await sign_in(client, keys["viewer"])
        page = (await client.get("/dashboard/figures")).text
        assert "<strong>words</strong> since 2013-04-10 12:00 UTC: its root is b; live all the same: rel_1" in page
        assert (
            "<strong>refused</strong> since 2013-04-10 12:00 UTC: its root is b; refused until it is accepted" in page
        )
        assert "<strong>others</strong>" not in page
