"""``/v1/embeddings`` over HTTP: a real gateway, real receipts, the simulated encoder in a real engine."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import numpy
import openai
import pytest
from tests.harness import fakes
from tests.harness.small_desk import SmallDesk
from tests.harness.stored_files import batch_lines
from tests.integration.gateway.conftest import serve

from antiphon.core.scope import Scope
from antiphon.engine.backends.simulated.encoder import SimulatedEncoder
from antiphon.engine.execution.local import LocalEngine
from antiphon.gateway.openai.batch_lines import ENDPOINTS
from antiphon.governance.identity.keys import Keys
from antiphon.governance.identity.principal import Principal
from antiphon.serving.embedding import Embeddings
from antiphon.testing.scripted_engine import ScriptedEngine, ScriptedGeneration

MODEL = "vectors"
SCOPE = Scope("default", "dev")


@dataclass
class World:
    desk: SmallDesk
    engine: LocalEngine
    embeddings: Embeddings
    url: str
    keys: dict[str, str]

    @property
    def client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=self.keys["service"], max_retries=0)

    async def post(self, body: dict[str, Any], role: str = "service") -> httpx2.Response:
        headers = {"authorization": f"Bearer {self.keys[role]}"}
        async with httpx2.AsyncClient(timeout=10) as client:
            return await client.post(f"{self.url}/v1/embeddings", json=body, headers=headers)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    desk = SmallDesk(tmp_path, ScriptedEngine(ScriptedGeneration("text")))
    encoder = SimulatedEncoder(MODEL, tokens=8, dimensions=4)
    engine = await LocalEngine({}, encoders={MODEL: encoder}).start()
    embeddings = Embeddings(desk.services, engine, lambda scope: (MODEL,))
    issued = Keys(desk.database, fakes.SECRET)
    keys = {role: issued.create("default", f"the-{role}", role)[0] for role in ("service", "viewer")}
    services = fakes.gateway_services(desk.database, embeddings=embeddings)
    async with serve(services) as running:
        yield World(desk, engine, embeddings, running.url, keys)
    await engine.close()
    desk.close()


async def test_the_official_client_gets_the_same_vectors_as_base64_and_as_numbers(world: World) -> None:
    async with world.client as client:
        encoded = await client.embeddings.create(model=MODEL, input=["a late flight", "tea"])
        plain = await client.embeddings.create(model=MODEL, input="tea", encoding_format="float", dimensions=4)
    assert [one.index for one in encoded.data] == [0, 1]
    assert encoded.data[1].embedding == plain.data[0].embedding
    assert (encoded.model, encoded.usage.prompt_tokens, encoded.usage.total_tokens) == (MODEL, 4, 4)
    assert numpy.linalg.norm(plain.data[0].embedding) == pytest.approx(1, abs=1e-6)


async def test_base64_is_float32_in_little_endian_order(world: World) -> None:
    answer = await world.post({"model": MODEL, "input": "tea", "encoding_format": "base64"})
    numbers = await world.post({"model": MODEL, "input": "tea", "encoding_format": "float"})
    content = base64.b64decode(answer.json()["data"][0]["embedding"])
    assert numpy.frombuffer(content, "<f4").tolist() == numbers.json()["data"][0]["embedding"]
    assert numbers.json()["object"] == "list"
    assert numbers.json()["data"][0]["object"] == "embedding"


async def test_vectors_have_a_receipt_and_can_be_made_again(world: World) -> None:
    answer = await world.post({"model": MODEL, "input": ["tea", "a late flight"], "user": "grace"})
    assert answer.status_code == 200
    made = answer.headers["x-antiphon-prediction"]
    assert answer.json()["antiphon"]["prediction"] == made
    receipt = world.desk.receipts.get(SCOPE, made)
    assert (receipt.application, receipt.path, receipt.originating_user) == (MODEL, "online", "grace")
    assert receipt.request == answer.headers["x-request-id"]
    assert (receipt.policy.decision, receipt.usage.prompt_tokens, receipt.usage.completion_tokens) == ("allow", 4, 0)
    kept = world.desk.blobs.get(receipt.scope, receipt.attempts[0].prompt_blob)
    assert msgspec.json.decode(kept) == ["tea", "a late flight"]
    again = await world.desk.replay(receipt, world.engine)
    assert again.identical
    assert again.attempts[0].same_fingerprint
    other = await LocalEngine({}, encoders={MODEL: SimulatedEncoder(MODEL, tokens=8, dimensions=5)}).start()
    try:
        differs = await world.desk.replay(receipt, other)
    finally:
        await other.close()
    assert (differs.identical, differs.attempts[0].same_fingerprint) == (False, False)


async def test_flex_is_embedded_in_time_that_is_left(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    embed = world.engine.embed

    async def noted(request: Any) -> Any:
        asked.append(request.priority)
        return await embed(request)

    monkeypatch.setattr(world.engine, "embed", noted)
    for tier in ("auto", "default", "flex"):
        assert (await world.post({"model": MODEL, "input": "tea", "service_tier": tier})).status_code == 200
    assert asked == ["online", "online", "batch"]


WRONG: dict[str, tuple[dict[str, Any], int, str, str]] = {
    "no input": ({"model": MODEL}, 400, "body", "invalid_input"),
    "no model": ({"input": "tea"}, 400, "body", "invalid_input"),
    "an unknown model": ({"model": "nothing", "input": "tea"}, 404, "model", "not_found"),
    "an empty text": ({"model": MODEL, "input": ""}, 400, "input", "invalid_input"),
    "an empty list": ({"model": MODEL, "input": []}, 400, "input", "invalid_input"),
    "a blank among texts": ({"model": MODEL, "input": ["tea", " "]}, 400, "input[1]", "invalid_input"),
    "too many texts": ({"model": MODEL, "input": ["tea"] * 2_049}, 400, "input", "invalid_input"),
    "too long a text": ({"model": MODEL, "input": ["a " * 9]}, 400, "input", "context_length_exceeded"),
    "token ids": ({"model": MODEL, "input": [1, 2, 3]}, 400, "input", "invalid_input"),
    "lists of token ids": ({"model": MODEL, "input": [[1, 2], [3]]}, 400, "input", "invalid_input"),
    "other dimensions": ({"model": MODEL, "input": "tea", "dimensions": 3}, 400, "dimensions", "invalid_input"),
    "no dimensions": ({"model": MODEL, "input": "tea", "dimensions": 0}, 400, "dimensions", "invalid_input"),
    "an unknown format": (
        {"model": MODEL, "input": "tea", "encoding_format": "hex"}, 400, "encoding_format", "invalid_input",
    ),
    "an unknown tier": ({"model": MODEL, "input": "tea", "service_tier": "fast"}, 400, "service_tier", "invalid_input"),
    "a misspelt parameter": (
        {"model": MODEL, "input": "tea", "dimension": 4}, 400, "dimension", "unsupported_parameter",
    ),
    "a parameter of chat": ({"model": MODEL, "input": "tea", "tools": []}, 400, "tools", "unsupported_parameter"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(WRONG))
async def test_what_is_wrong_is_named(world: World, name: str) -> None:
    body, status, param, code = WRONG[name]
    answer = await world.post(body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (status, param, code), answer.text
    assert error["message"]
    assert world.desk.receipts.list(SCOPE) == []


async def test_who_may_not_answer_may_not_embed(world: World) -> None:
    assert (await world.post({"model": MODEL, "input": "tea"}, role="viewer")).status_code == 403
    async with httpx2.AsyncClient() as client:
        unknown = await client.post(f"{world.url}/v1/embeddings", json={"model": MODEL, "input": "tea"})
    assert unknown.status_code == 401


async def test_a_line_of_a_batch_is_the_same_request_in_time_that_is_left(world: World) -> None:
    assert "/v1/embeddings" in ENDPOINTS
    lines = batch_lines(world.desk.database)
    principal = Principal("ada", "default", "admin")
    body = msgspec.json.encode({"model": MODEL, "input": ["tea"], "encoding_format": "base64"})
    asked = lines.read("/v1/embeddings", body, SCOPE, principal, "req_1")
    assert (asked.requests[0].path, asked.requests[0].priority) == ("batch", "batch")
    embedding = await world.embeddings.embed(asked.requests[0])
    written = msgspec.to_builtins(asked.body([embedding]))
    online = await world.post({"model": MODEL, "input": "tea", "encoding_format": "base64"})
    assert list(written["data"]) == online.json()["data"]
    assert world.desk.receipts.get(SCOPE, embedding.prediction).path == "batch"
