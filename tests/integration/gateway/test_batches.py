"""``/v1/batches`` by the official client, over a served gateway and a worker that works."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx2
import openai
import pytest
from openai.types import Batch
from tests.harness import fakes
from tests.harness.stored_files import batch_jobs, file_store
from tests.integration.gateway.conftest import Running

from antiphon.batch.request_batches import WORKFLOW
from antiphon.catalog.batch.batch_work import BatchWork, EngineSupply, RowUsage, Sizes
from antiphon.catalog.database import Database
from antiphon.core.errors import InvalidOutputError
from antiphon.core.scope import Scope
from antiphon.durable.executor import Executor, WorkflowRegistry
from antiphon.governance.audit.log import AuditLog
from antiphon.governance.identity.keys import Keys
from antiphon.governance.identity.tenants import TenantQuota, Tenants
from antiphon.services.workflows import POLICIES

SCOPE = Scope("default", "dev")
CHAT, PLAIN = "/v1/chat/completions", "/v1/completions"


@pytest.fixture
async def client(running: Running, keys: dict[str, str]) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key=keys["service"], max_retries=0) as made:
        yield made


@pytest.fixture
async def working(database: Database, answerer: fakes.FakeAnswerer) -> AsyncIterator[None]:
    """A worker for batches, beside the gateway."""
    files = file_store(database, fakes.SECRET)
    jobs = batch_jobs(database, files, fakes.SECRET, answerer.answer, (fakes.APPLICATION, fakes.MODEL))
    registry, stop = WorkflowRegistry(), asyncio.Event()
    registry.add(WORKFLOW, jobs.run, POLICIES[WORKFLOW])
    executor = Executor(database, registry, "worker", Scope(), lease=timedelta(seconds=5), poll=0.02, fair=True)
    task = asyncio.create_task(executor.run_until(stop))
    yield
    stop.set()
    await task


def lines(url: str, count: int, **more: Any) -> bytes:
    def body(number: int) -> dict[str, Any]:
        asked = {"prompt": f"n{number}"} if url == PLAIN else {"messages": [{"role": "user", "content": f"n{number}"}]}
        return {"model": "tiny", **asked, **more}

    rows = ({"custom_id": f"r{n}", "method": "POST", "url": url, "body": body(n)} for n in range(count))
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


async def order(client: openai.AsyncOpenAI, content: bytes, url: str = CHAT, **more: Any) -> Batch:
    file = await client.files.create(file=("in.jsonl", content), purpose="batch")
    made: Batch = await client.batches.create(
        input_file_id=file.id,
        endpoint=url,
        completion_window="24h",
        **more,  # type: ignore[arg-type]
    )
    return made


async def ended(client: openai.AsyncOpenAI, batch: Batch) -> Batch:
    async with asyncio.timeout(30):
        while True:
            found: Batch = await client.batches.retrieve(batch.id)
            if found.status in ("completed", "failed", "expired", "cancelled"):
                return found
            await asyncio.sleep(0.02)


async def read(client: openai.AsyncOpenAI, file: str | None) -> list[dict[str, Any]]:
    assert file is not None
    return [json.loads(line) for line in (await client.files.content(file)).text.splitlines()]


@pytest.mark.usefixtures("working")
async def test_the_official_client_orders_a_batch_and_reads_its_answers(client: openai.AsyncOpenAI) -> None:
    made = await order(client, lines(CHAT, 5), metadata={"night": "one"})
    assert (made.object, made.status, made.endpoint, made.completion_window) == ("batch", "validating", CHAT, "24h")
    assert (made.metadata, made.request_counts.model_dump()) == (
        {"night": "one"}, {"total": 0, "completed": 0, "failed": 0}
    )  # fmt: skip
    assert made.expires_at == made.created_at + 24 * 3_600
    done = await ended(client, made)
    assert done.status == "completed"
    assert done.request_counts.model_dump() == {"total": 5, "completed": 5, "failed": 0}
    assert (done.model, done.error_file_id, done.errors) == ("tiny", None, None)
    assert done.created_at <= done.in_progress_at <= done.finalizing_at <= done.completed_at
    answers = await read(client, done.output_file_id)
    assert [answer["custom_id"] for answer in answers] == [f"r{number}" for number in range(5)]
    for answer in answers:
        completion = openai.types.chat.ChatCompletion.model_validate(answer["response"]["body"])
        assert json.loads(completion.choices[0].message.content or "")["outlook"] == "on_time"
        assert (answer["error"], answer["response"]["status_code"]) == (None, 200)
    file = await client.files.retrieve(done.output_file_id)
    assert (file.purpose, file.filename) == ("batch_output", f"{done.id}_output.jsonl")


@pytest.mark.usefixtures("working")
async def test_completions_and_errors_have_their_files(
    client: openai.AsyncOpenAI, answerer: fakes.FakeAnswerer
) -> None:
    answerer.failure = InvalidOutputError("It failed its schema.", where="output_schema")
    answerer.fail_after = 0
    done = await ended(client, await order(client, lines(PLAIN, 3), PLAIN))
    assert (done.status, done.output_file_id) == ("completed", None)
    assert done.request_counts.model_dump() == {"total": 3, "completed": 0, "failed": 3}
    for row in await read(client, done.error_file_id):
        assert row["response"]["status_code"] == 422
        assert row["response"]["body"]["error"]["code"] == "output_invalid"
    answerer.failure = None
    done = await ended(client, await order(client, lines(PLAIN, 2), PLAIN))
    (first, _) = await read(client, done.output_file_id)
    assert openai.types.Completion.model_validate(first["response"]["body"]).choices[0].text


@pytest.mark.usefixtures("working")
async def test_a_file_with_mistakes_fails_with_them(client: openai.AsyncOpenAI) -> None:
    done = await ended(client, await order(client, lines(CHAT, 1) + b"{\n" + lines(CHAT, 1)))
    assert (done.status, done.failed_at is not None) == ("failed", True)
    assert done.errors.object == "list"
    assert [(error.code, error.line, error.param) for error in done.errors.data] == [
        ("invalid_json_line", 2, None), ("duplicate_custom_id", 3, "custom_id")
    ]  # fmt: skip


@pytest.mark.usefixtures("working")
async def test_a_batch_is_cancelled_with_what_was_done(
    client: openai.AsyncOpenAI, answerer: fakes.FakeAnswerer
) -> None:
    answerer.hold = asyncio.Event()
    made = await order(client, lines(CHAT, 50))
    async with asyncio.timeout(20):
        while not answerer.requests:
            await asyncio.sleep(0.02)
    stopping = await client.batches.cancel(made.id)
    assert (stopping.status, stopping.cancelling_at is not None) == ("cancelling", True)
    assert (await client.batches.cancel(made.id)).cancelling_at == stopping.cancelling_at
    # Once it has seen that, requests under way end.
    async with asyncio.timeout(20):
        while answerer.running > 0:
            answerer.hold.set()
            await asyncio.sleep(0.02)
    done = await ended(client, made)
    assert done.status == "cancelled"
    counts = done.request_counts
    assert (counts.total, counts.failed) == (50, 0)
    assert 0 < counts.completed <= 50
    assert len(await read(client, done.output_file_id)) == counts.completed
    with pytest.raises(openai.UnprocessableEntityError, match="cancelled"):
        await client.batches.cancel(made.id)


async def test_pages_of_batches_follow_one_another(client: openai.AsyncOpenAI, http: httpx2.AsyncClient) -> None:
    made = [(await order(client, lines(CHAT, 1))).id for _ in range(5)]
    assert [batch.id async for batch in client.batches.list(limit=2)] == made[::-1]
    page = (await http.get("/v1/batches", params={"limit": 3})).json()
    assert (page["first_id"], page["last_id"], page["has_more"]) == (made[4], made[2], True)
    listed = (await http.get("/admin/batch")).json()["jobs"]
    assert [(job["id"], job["kind"], job["status"]) for job in listed] == [
        (batch, "openai", "validating") for batch in made[::-1]
    ]


async def test_a_wrong_order_is_refused_by_name(client: openai.AsyncOpenAI, http: httpx2.AsyncClient) -> None:
    file = (await client.files.create(file=("in.jsonl", lines(CHAT, 1)), purpose="batch")).id
    good = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
    wrong: list[tuple[dict[str, Any], int, str]] = [
        ({"endpoint": "/v1/embeddings/"}, 400, "endpoint"),
        ({"completion_window": "48h"}, 400, "completion_window"),
        ({"input_file_id": "file-nobody"}, 404, "input_file_id"),
        ({"metadata": {"k": 1}}, 400, "metadata[...]"),
        ({"metadata": {str(n): "" for n in range(17)}}, 400, "metadata"),
        ({"metdata": {}}, 400, "metdata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, 400, "output_expires_after.seconds"),
        ({"output_expires_after": {"anchor": "now", "seconds": 3600}}, 400, "output_expires_after.anchor"),
    ]
    for change, status, param in wrong:
        refused = await http.post("/v1/batches", json={**good, **change})
        assert (refused.status_code, refused.json()["error"]["param"]) == (status, param), change
    assert (await http.get("/v1/batches")).json()["data"] == []
    with pytest.raises(openai.NotFoundError):
        await client.batches.retrieve("batch_nobody")


async def test_another_tenant_and_a_viewer_order_and_cancel_nothing(
    running: Running, client: openai.AsyncOpenAI, keys: dict[str, str], database: Database
) -> None:
    batch = await order(client, lines(CHAT, 1))
    rival = Keys(database, fakes.SECRET).create("rival", "rita", "admin")[0]
    body = {"input_file_id": batch.input_file_id, "endpoint": CHAT, "completion_window": "24h"}
    for key, seen, refused in ((rival, 404, 404), (keys["viewer"], 200, 403)):
        async with httpx2.AsyncClient(base_url=running.url, headers={"authorization": f"Bearer {key}"}) as other:
            assert (await other.get(f"/v1/batches/{batch.id}")).status_code == seen
            assert (await other.post(f"/v1/batches/{batch.id}/cancel")).status_code == refused
            assert (await other.post("/v1/batches", json=body)).status_code == refused
    assert (await client.batches.retrieve(batch.id)).status == "validating"


async def test_batches_and_bytes_of_files_are_counted(client: openai.AsyncOpenAI, http: httpx2.AsyncClient) -> None:
    content = lines(CHAT, 1)
    batch = await order(client, content)
    await order(client, content)
    await client.batches.cancel(batch.id)
    text = (await http.get("/metrics")).text
    assert 'antiphon_batches{status="validating"} 1.0' in text
    assert 'antiphon_batches{status="cancelling"} 1.0' in text
    assert f"antiphon_file_bytes {2 * len(content)}.0" in text


async def test_orders_and_cancellations_are_on_record(client: openai.AsyncOpenAI, database: Database) -> None:
    batch = await order(client, lines(CHAT, 1))
    await client.batches.cancel(batch.id)
    said = [(entry.action, entry.subject, entry.principal) for entry in AuditLog(database, fakes.SECRET).query(SCOPE)]
    for action in ("batch.create", "batch.cancel"):
        assert (action, batch.id, "the-service") in said


async def test_an_estimate_stands_in_the_batch_and_in_the_list_of_jobs(
    client: openai.AsyncOpenAI, database: Database, running: Running, keys: dict[str, str]
) -> None:
    """Of a hundred rows that take a second each, when batch work gets half of the engine; nobody works on it."""
    made = await order(client, lines(CHAT, 5))
    assert made.model_extra is not None
    assert made.model_extra["estimated_completion"] is None, "nothing was measured"
    work, now = BatchWork(database), database.clock.now()
    for bucket in range(12):
        work.supply(SCOPE, "worker", EngineSupply(now.timestamp() // 300 * 300 - 300 * bucket, 300.0, 150.0))
    work.declare(SCOPE, made.id, "openai/tiny", Sizes(100, 4_000, 4_000, 800), now + timedelta(hours=24))
    work.used(SCOPE, made.id, RowUsage(1_000, 40_000, 8_000, 10_000, 0, 4_000, 1_000.0))
    async with asyncio.timeout(20):
        while (found := await client.batches.retrieve(made.id)).model_extra["estimated_completion"] is None:  # type: ignore[index]
            await asyncio.sleep(0.5)
    assert found.model_extra is not None
    told = found.model_extra["estimated_completion"]
    assert told["earliest"] <= told["at"] <= told["latest"]
    assert 150 < told["at"] - now.timestamp() < 250
    async with httpx2.AsyncClient(base_url=running.url, headers={"authorization": f"Bearer {keys['admin']}"}) as admin:
        (job,) = (await admin.get("/admin/batch")).json()["jobs"]
    assert (job["id"], job["estimate"]["rows"], job["estimate"]["late"]) == (made.id, 100, "no")
    assert job["estimate"]["cost"] >= 0


async def test_a_batch_beyond_the_tenants_quota_is_refused_until_one_has_ended(
    client: openai.AsyncOpenAI, database: Database
) -> None:
    with database.transaction() as connection:
        Tenants(database).set_terms("default", share=None, quota=TenantQuota(batches=1), by="ann", within=connection)
    first = await order(client, lines(CHAT, 1))
    with pytest.raises(openai.RateLimitError, match="its quota is 1"):
        await order(client, lines(CHAT, 1))
    await client.batches.cancel(first.id)
    with database.transaction() as connection:
        Tenants(database).set_terms("default", share=None, quota=TenantQuota(batches=2), by="ann", within=connection)
    await order(client, lines(CHAT, 1))
