"""Quotas, tiers and deadlines as a client of OpenAI's API sees them, against served gateways."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from tests.harness import fakes
from tests.integration.gateway.conftest import Running, serve

from antiphon.catalog.database import Database
from antiphon.catalog.serving.receipts import Receipts
from antiphon.core.errors import DeadlineExceededError, EngineError, OverloadedError, ResourceUnavailableError
from antiphon.gateway import limits
from antiphon.governance.identity.keys import Keys
from antiphon.governance.identity.principal import Allowance

MESSAGES: list[Any] = [{"role": "user", "content": "Will it be on time?"}]
BODY = {"model": "tiny", "messages": MESSAGES, "max_completion_tokens": 100}
REQUESTS = "x-ratelimit-{}-requests"
TOKENS = "x-ratelimit-{}-tokens"


def key(database: Database, **allowance: Any) -> dict[str, str]:
    text, _ = Keys(database, fakes.SECRET).create("default", "shop", "service", allowance=Allowance(**allowance))
    return {"authorization": f"Bearer {text}"}


@pytest.fixture
async def shop(running: Running) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=running.url, timeout=20) as client:
        yield client


async def chat(client: httpx2.AsyncClient, headers: dict[str, str], **changes: Any) -> httpx2.Response:
    return await client.post("/v1/chat/completions", json={**BODY, **changes}, headers=headers)


async def test_every_answer_says_how_the_quotas_stand(
    shop: httpx2.AsyncClient, database: Database, answerer: fakes.FakeAnswerer
) -> None:
    headers = key(database, requests_per_minute=4, tokens_per_minute=1_200, tokens_per_day=1_000_000)
    answer = await chat(shop, headers)
    assert answer.status_code == 200
    told = answer.headers
    # One is back after a quarter of a minute, twenty tokens a second are.
    assert [told[REQUESTS.format(what)] for what in ("limit", "remaining")] == ["4", "3"]
    assert 0 < float(told[REQUESTS.format("reset")].removesuffix("s")) <= 15
    assert told[TOKENS.format("limit")] == "1200"
    assert 1_050 < int(told[TOKENS.format("remaining")]) <= 1_200
    # Reserved: a hundred tokens of answer, and the prompt as far as it is known.
    assert 999_800 < int(told["x-ratelimit-remaining-tokens-day"]) < 999_900
    spent = answer.json()["usage"]["total_tokens"]
    async with shop.stream("POST", "/v1/chat/completions", json={**BODY, "stream": True}, headers=headers) as stream:
        assert stream.headers[REQUESTS.format("remaining")] in ("2", "3")
        await stream.aread()
    answerer.failure = EngineError("It died.")
    failed = await chat(shop, headers)
    assert failed.status_code == 502
    # The failed one reserved and gave back, the others count with what they really took.
    assert int(failed.headers["x-ratelimit-remaining-tokens-day"]) < 1_000_000 - 2 * spent - 100
    answerer.failure = None
    assert int((await chat(shop, headers)).headers["x-ratelimit-remaining-tokens-day"]) < 1_000_000 - 2 * spent


async def test_a_key_without_quotas_has_no_such_headers(shop: httpx2.AsyncClient, keys: dict[str, str]) -> None:
    answer = await chat(shop, {"authorization": f"Bearer {keys['service']}"})
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("x-ratelimit")]


async def test_the_official_client_is_refused_and_told_when(running: Running, database: Database) -> None:
    text = key(database, requests_per_minute=2)["authorization"].removeprefix("Bearer ")
    async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key=text, max_retries=0) as client:
        for _ in range(2):
            await client.chat.completions.create(model="tiny", messages=MESSAGES)
        with pytest.raises(openai.RateLimitError) as refused:
            await client.chat.completions.create(model="tiny", messages=MESSAGES)
    error = refused.value
    assert (error.code, error.type, error.param) == ("rate_limit_exceeded", "requests", "requests_per_minute")
    assert error.response.headers["retry-after"] == "30"
    assert 29_000 < int(error.response.headers["retry-after-ms"]) <= 30_000
    assert error.response.headers["x-ratelimit-remaining-requests"] == "0"
    assert "2 requests per minute are used up" in error.message


async def test_the_official_client_comes_back_when_it_was_told_to(running: Running, database: Database) -> None:
    text = key(database, requests_per_minute=120)["authorization"].removeprefix("Bearer ")
    async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key=text, max_retries=4) as client:
        asking = [client.chat.completions.create(model="tiny", messages=MESSAGES) for _ in range(121)]
        assert len(await asyncio.gather(*asking)) == 121


async def test_what_is_larger_than_the_quota_is_not_worth_trying_again(
    shop: httpx2.AsyncClient, database: Database
) -> None:
    refused = await chat(shop, key(database, tokens_per_minute=50))
    assert refused.status_code == 429
    assert refused.headers["x-should-retry"] == "false"
    assert "retry-after" not in refused.headers
    assert refused.json()["error"]["param"] == "tokens_per_minute"


async def test_two_gateways_share_a_quota_and_never_let_more_in(
    database: Database, services: Any, tmp_path: Path
) -> None:
    headers = key(database, requests_per_minute=100)
    other = Database.open(f"sqlite:///{tmp_path}/catalog.db")
    second = fakes.gateway_services(other, fakes.FakeAnswerer(Receipts(other), other.clock))
    async with serve(services) as one, serve(second) as two, httpx2.AsyncClient(timeout=60) as client:
        started = asyncio.get_running_loop().time()
        answers = await asyncio.gather(
            *(
                client.post(f"{at.url}/v1/chat/completions", json=BODY, headers=headers)
                for _ in range(80)
                for at in (one, two)
            )
        )
        elapsed = asyncio.get_running_loop().time() - started
    let_in = sum(answer.status_code == 200 for answer in answers)
    assert 100 <= let_in <= 100 + elapsed * 100 / 60 + 1
    assert {answer.status_code for answer in answers} == {200, 429}
    other.close()


async def test_tokens_of_a_client_that_leaves_are_counted_and_a_refused_ones_are_not(
    shop: httpx2.AsyncClient, database: Database, answerer: fakes.FakeAnswerer
) -> None:
    headers = key(database, tokens_per_day=1_000)
    answerer.failure = OverloadedError("256 questions wait.", retry_after=0.25)
    refused = await chat(shop, headers)
    assert (refused.status_code, refused.headers["retry-after"], refused.headers["retry-after-ms"]) == (429, "1", "250")
    answerer.failure, answerer.hold = None, asyncio.Event()
    with pytest.raises(httpx2.ReadTimeout):
        await shop.post("/v1/chat/completions", json={**BODY, "max_completion_tokens": 600}, headers=headers, timeout=1)
    while answerer.running:
        await asyncio.sleep(0.01)
    answerer.hold = None
    left = await chat(shop, headers, max_completion_tokens=600)
    assert left.status_code == 429
    assert 300 < int(left.headers["x-ratelimit-remaining-tokens-day"]) < 400


async def test_tiers_are_taken_echoed_and_only_for_who_may(
    shop: httpx2.AsyncClient, database: Database, answerer: fakes.FakeAnswerer, keys: dict[str, str]
) -> None:
    plain, first = {"authorization": f"Bearer {keys['service']}"}, key(database, priority=True)
    for asked, headers, got in (
        ("auto", plain, "default"),
        ("default", plain, "default"),
        ("flex", plain, "flex"),
        ("priority", first, "priority"),
    ):
        answer = await chat(shop, headers, service_tier=asked)
        assert answer.json()["service_tier"] == got
        assert answerer.requests[-1].tier == got
    assert "service_tier" not in (await chat(shop, plain)).json()
    whole = await shop.post(
        "/v1/completions", json={"model": "tiny", "prompt": "Once", "service_tier": "flex"}, headers=plain
    )
    assert whole.json()["service_tier"] == "flex"
    stream = await chat(shop, first, service_tier="priority", stream=True)
    chunks = [line for line in stream.text.split("\n\n") if line.startswith("data: {")]
    assert chunks
    assert all('"service_tier":"priority"' in chunk for chunk in chunks)
    refused = await chat(shop, plain, service_tier="priority")
    assert refused.status_code == 403
    assert refused.json()["error"]["param"] == "service_tier"
    assert "--priority" in refused.json()["error"]["message"]
    wrong = await chat(shop, plain, service_tier="scale")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "service_tier")


async def test_flex_without_room_is_told_so(
    shop: httpx2.AsyncClient, keys: dict[str, str], answerer: fakes.FakeAnswerer
) -> None:
    answerer.failure = ResourceUnavailableError("There is no room.", retry_after=7.2, where="service_tier")
    refused = await chat(shop, {"authorization": f"Bearer {keys['service']}"}, service_tier="flex")
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "resource_unavailable")
    assert refused.headers["retry-after"] == "8"


@pytest.mark.parametrize(("sent", "status"), [("2.5", 504), ("0", 400), ("soon", 400), ("nan", 400), ("1e9", 400)])
async def test_a_request_brings_its_own_deadline(
    shop: httpx2.AsyncClient, keys: dict[str, str], answerer: fakes.FakeAnswerer, sent: str, status: int
) -> None:
    answerer.failure = DeadlineExceededError("It was not finished in time.")
    headers = {"authorization": f"Bearer {keys['service']}", "x-antiphon-timeout": sent}
    answer = await chat(shop, headers)
    assert answer.status_code == status
    if status == 504:
        assert answerer.requests[0].timeout == 2.5
    else:
        assert answer.json()["error"]["param"] == "x-antiphon-timeout"


async def test_administrators_give_quotas_and_see_their_use(
    http: httpx2.AsyncClient, shop: httpx2.AsyncClient, keys: dict[str, str]
) -> None:
    admin = {"authorization": f"Bearer {keys['admin']}"}
    asked = {"name": "till", "role": "service", "allowance": {"requests_per_minute": 2, "tokens_per_day": 5_000}}
    made = (await shop.post("/admin/keys", json=asked, headers=admin)).json()
    assert made["record"]["allowance"] == {
        "requests_per_minute": 2, "tokens_per_minute": None, "tokens_per_day": 5_000, "priority": False,
    }  # fmt: skip
    mine, record = {"authorization": f"Bearer {made['key']}"}, made["record"]["id"]
    assert [(await chat(shop, mine)).status_code for _ in range(3)] == [200, 200, 429]
    used = (await shop.get(f"/admin/keys/{record}/use", headers=admin)).json()["used"]
    assert used["requests_per_minute"] in (1, 2)
    assert used["tokens_per_day"] >= 2
    more = await shop.post(
        f"/admin/keys/{record}/allowance", json={"requests_per_minute": 100, "priority": True}, headers=admin
    )
    assert more.json()["allowance"]["priority"] is True
    assert (await chat(shop, mine, service_tier="priority")).status_code == 200
    none = await shop.post(f"/admin/keys/{record}/allowance", json={"requests_per_minute": 0}, headers=admin)
    assert (none.status_code, none.json()["error"]["param"]) == (400, "requests_per_minute")
    assert (await http.get(f"/admin/keys/{record}/use")).status_code == 403


def test_durations_are_written_as_openai_does() -> None:
    written = {0: "0ms", 0.0001: "1ms", 0.12: "120ms", 1.5: "1.5s", 360: "6m0s", 61.25: "1m1.25s", 10812: "3h0m12s"}
    assert {seconds: limits.duration(seconds) for seconds in written} == written


def test_a_prompts_size_is_learnt_from_the_last_ones_of_its_application() -> None:
    from antiphon.core.scope import Scope
    from antiphon.governance.identity.principal import Principal
    from antiphon.serving.request import AnswerRequest

    sizes, asked = limits.PromptSizes(), AnswerRequest(
        Scope(), Principal("x", "default", "service"), "desk", question="A" * 40
    )  # fmt: skip
    assert sizes.expected(asked) == 14
    sizes.saw(asked, 514)
    assert sizes.expected(asked) == 514
    sizes.saw(asked, 314)
    assert 490 < sizes.expected(asked) < 514


async def test_vectors_count_as_their_texts_do(shop: httpx2.AsyncClient, database: Database) -> None:
    headers = key(database, requests_per_minute=2, tokens_per_minute=1_000)
    for _ in range(2):
        asked = await shop.post("/v1/embeddings", json={"model": "none", "input": ["some words"] * 10}, headers=headers)
        assert asked.status_code != 429
        assert TOKENS.format("remaining") in asked.headers
    refused = await shop.post("/v1/embeddings", json={"model": "none", "input": "a text"}, headers=headers)
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
