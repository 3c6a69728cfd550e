"""What stood in for a release, and what came from store, as status, metrics and dashboard show it."""

from __future__ import annotations

import re

import httpx2
from tests.harness import fakes
from tests.integration.gateway.conftest import serve
from tests.integration.gateway.signing_in import sign_in

from antiphon.catalog.serving.receipts import ReuseCount
from antiphon.core.circuit_breaker import BreakerStatus

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
        assert 'antiphon_engine_failed_requests{engine="main"} 9.0' in metrics
        await sign_in(client, keys["viewer"])
        page = (await client.get("/dashboard/figures")).text
        for told in ("Engines with an open circuit", "9 of 12 requests failed", "35.0 %", "Tokens saved"):
            assert told in page
        [left_alone] = re.findall(r"Engines with an open circuit.*?</table>", page, re.DOTALL)
        assert "standby" not in left_alone
