"""A demanded answer is in store again after a publication changed its figures, with every process as ``up`` runs it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from time import monotonic, sleep
from typing import Any

import httpx2
import pytest
from tests.integration.cli.conftest import Run, Up


@pytest.fixture(scope="module", autouse=True)
def refreshed(project) -> None:
    """The blueprint's application, with answers that are refreshed."""
    definitions = project / "definitions.py"
    text = definitions.read_text()
    assert 'reuse=Reuse("fingerprint"),' in text
    definitions.write_text(text.replace('reuse=Reuse("fingerprint"),', 'reuse=Reuse("fingerprint", refreshed=3),'))


def slow_orders(folder) -> str:
    """Events of one shop whose orders take far longer than usual."""
    now = datetime.now(UTC)
    ordered, handed_over = now - timedelta(minutes=200), now - timedelta(seconds=5)
    events = [
        {
            "order_id": f"slow-{number}",
            "shop": "tea",
            "ordered": ordered.isoformat(),
            "handed_over": handed_over.isoformat(),
            "minutes": 180.0,
            "promised": 14.0,
        }
        for number in range(40)
    ]
    file = folder / "slow.jsonl"
    file.write_text("".join(json.dumps(event) + "\n" for event in events))
    return str(file)


@pytest.fixture
def client(project, up: Up) -> Iterator[httpx2.Client]:
    key = (project / ".antiphon" / "keys" / "admin.key").read_text().strip()
    headers = {"authorization": f"Bearer {key}"}
    with httpx2.Client(base_url=f"http://127.0.0.1:{up.port}", headers=headers, timeout=30) as client:
        yield client


def test_a_demanded_answer_is_made_anew_before_somebody_asks(project, antiphon: Run, client: httpx2.Client) -> None:
    def ask(shop: str) -> dict[str, Any]:
        messages = [{"role": "user", "content": "Late?"}]
        answer = client.post(
            "/v1/chat/completions", json={"model": "desk", "entity": {"shop": shop}, "messages": messages}
        )
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()["antiphon"]
        return found

    def batch_made() -> set[str]:
        listed = client.get("/admin/predictions", params={"path": "batch", "application": "desk"}).json()
        return {one["prediction"] for one in listed["predictions"] if one["origin"] == "generated"}

    end = monotonic() + 240

    def settled() -> bool:
        runs = client.get("/admin/runs").json()["runs"]
        newest = client.get("/admin/publications").json()["publications"][:1]
        ended = len(runs) >= 2 and all(run["status"] == "succeeded" for run in runs)
        return ended and all(one["served_at"] is not None for one in newest)

    while not settled():
        assert monotonic() < end, client.get("/admin/runs").text
        sleep(0.1)
    first = [ask("tea") for _ in range(4)]
    assert [one["origin"] for one in first] == ["generated", "stored", "stored", "stored"]
    before = batch_made()
    pushed = antiphon("events", "push", "orders", slow_orders(project), "--json")
    assert pushed.code == 0, pushed.err
    ordered = client.post("/admin/features/refresh", json={})
    assert ordered.status_code < 300, ordered.text
    # Streamed events are seen before the publication that has them too.
    while not batch_made() - before:
        assert monotonic() < end, client.get("/admin/status").text
        sleep(0.1)
    found = ask("tea")
    assert (found["origin"], found["origin_path"]) == ("stored", "batch")
    status = antiphon("status", "--json").json()
    (desk,) = [one for one in status["reuse"] if one["application"] == "desk"]
    assert desk["stored"] >= 4
    assert desk["saved_tokens"] > 0
    assert 0.5 < desk["hit_rate"] < 1.0
    assert "tokens saved" in antiphon("status").out
    assert (
        'antiphon_saved_tokens_total{application="desk",origin="stored",tenant="default"}'
        in client.get("/metrics").text
    )
