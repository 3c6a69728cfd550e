"""``/tokenize`` and what belongs to it, over a real engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from tests.harness import fakes
from tests.integration.gateway.conftest import serve

from antiphon.catalog.database import Database
from antiphon.engine.backends.simulated.runtime import SimulatedRuntime
from antiphon.engine.execution.local import LocalEngine
from antiphon.engine.execution.runtime import Layout
from antiphon.engine.execution.tokenization import MOST_TEXT_BYTES


@pytest.fixture
async def http(database: Database, keys: dict[str, str]) -> AsyncIterator[httpx2.AsyncClient]:
    names = ("one", "two")
    runtimes = {name: SimulatedRuntime(name, Layout(slots=2, context_tokens=512)) for name in (*names, "desk.v1")}
    engine = await LocalEngine(runtimes).start()
    services = fakes.gateway_services(
        database,
        engine=engine,
        models=lambda scope: ("desk", *names),
        max_body_bytes=4_000_000,
    )
    async with serve(services) as running:
        headers = {"authorization": f"Bearer {keys['service']}"}
        async with httpx2.AsyncClient(base_url=running.url, headers=headers, timeout=10) as client:
            yield client
    await engine.close()


async def test_tokens_there_and_back(http: httpx2.AsyncClient) -> None:
    text = "every flight waits, ça ☂"
    told = (await http.post("/tokenize", json={"model": "one", "prompt": text, "add_special_tokens": False})).json()
    assert told["count"] == len(told["tokens"]) < len(text.encode())
    assert told["max_model_len"] == 512
    back = await http.post("/detokenize", json={"model": "one", "tokens": told["tokens"]})
    assert back.json() == {"prompt": text}
    part = await http.post("/detokenize", json={"model": "one", "tokens": told["tokens"][:-1]})
    assert part.json()["prompt"].startswith("every flight waits, ça ")
    info = (await http.get("/tokenizer_info", params={"model": "two"})).json()
    assert (info["model"], info["model_max_length"], info["eos_token"]) == ("two", 512, None)
    assert "{% for message in messages %}" in info["chat_template"]


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/tokenize", {"prompt": "x"}, 400, "model"),
        ("/tokenize", {"prompt": "x", "model": "nothing"}, 404, "model"),
        # A tuned model is a tenant's, and is asked by its application alone.
        ("/tokenize", {"prompt": "x", "model": "desk.v1"}, 404, "model"),
        ("/tokenize", {"prompt": 1, "model": "one"}, 400, "prompt"),
        ("/tokenize", {"prompt": "x", "model": "one", "add_special_tokens": True}, 400, "add_special_tokens"),
        ("/tokenize", {"prompt": "x", "model": "one", "messages": []}, 400, "messages"),
        ("/detokenize", {"tokens": [10**9], "model": "one"}, 400, "tokens"),
        ("/detokenize", {"tokens": [-1], "model": "one"}, 400, "tokens[0]"),
    ],
)
async def test_what_is_wrong_is_named(
    http: httpx2.AsyncClient, path: str, body: dict[str, Any], status: int, param: str
) -> None:
    answer = await http.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text


async def test_a_viewer_and_nobody_are_refused(http: httpx2.AsyncClient, keys: dict[str, str]) -> None:
    for key, status in ((keys["viewer"], 403), ("ak_nobody", 401)):
        answer = await http.post(
            "/tokenize", json={"prompt": "x", "model": "one"}, headers={"authorization": f"Bearer {key}"}
        )
        assert answer.status_code == status


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
async def test_a_body_that_is_too_long_is_refused_before_it_is_read(http: httpx2.AsyncClient, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: {http.headers['authorization']}\r\n"
    reader, writer = await asyncio.open_connection(http.base_url.host, http.base_url.port)
    writer.write(f"{head}content-length: 3900000\r\n\r\n".encode())
    async with asyncio.timeout(10):
        answer = await reader.readuntil(b"Send it in parts.")
    writer.close()
    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_the_longest_text_may_be_escaped(http: httpx2.AsyncClient) -> None:
    escaped = b'{"model": "one", "prompt": "' + b"\\u0041" * MOST_TEXT_BYTES + b'"}'
    answer = await http.post("/tokenize", content=escaped)
    assert answer.status_code == 200, answer.text
