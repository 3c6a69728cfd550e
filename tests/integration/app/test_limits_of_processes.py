"""Quotas, tiers and deadlines of a platform's own processes: two gateways before one engine, and one that is killed."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from tests.chaos.harness.running import ready, scratch, started, until
from tests.harness.ended_process import ended_process
from tests.harness.ports import free_port

from antiphon.catalog.process_leases import ProcessLeases
from antiphon.governance.identity.principal import Allowance
from antiphon.services.project.store import Store

pytestmark = pytest.mark.asyncio(loop_scope="module")

SETTINGS = """
[project]
name = "limits"

[engine]
kind = "simulated"
models = ["simulated"]
slots = 1
first_token = "200s"

[gateway]
port = {port}
max_flex = 4
queue_timeout = "100s"
"""


_INSIDE = 'antiphon_engine_gate{state="inside"} 1.0'
_WAITING = 'antiphon_engine_gate{{state="waiting"}} {}.0'


class Platform:
    """An engine that takes 20 ms a token and one request at once, and gateways before it."""

    def __init__(self, root: Path, stack: AsyncExitStack) -> None:
        self.root, self._stack, self._keys = root, stack, 0
        self.ports = [free_port(), free_port()]
        (root / "definitions.py").write_text("")
        (root / "antiphon.toml").write_text(SETTINGS.format(port=self.ports[0]))
        with closing(Store.open(root)) as store:
            self._socket = str(store.paths.engine_socket_of("engine"))

    async def start(self) -> None:
        engine = (
            sys.executable, "-m", "antiphon.engine", "--socket", self._socket, "--slots", "1", "--model", "simulated",
            "--simulated", "--simulated-call-milliseconds", "20",
        )  # fmt: skip
        await self._stack.enter_async_context(started(engine, self.root / "engine.log", 10))
        for port in self.ports:
            await self.gateway(port)

    async def gateway(self, port: int) -> Any:
        command = (
            "env", f"ANTIPHON_GATEWAY__PORT={port}",
            sys.executable, "-m", "antiphon.app.gateway", "--project", str(self.root), "--name", f"gateway-{port}",
        )  # fmt: skip
        log = self.root / f"gateway-{port}.log"
        process = await self._stack.enter_async_context(started(command, log, 10))
        await until(lambda: ready(f"http://127.0.0.1:{port}", process, log), bool, 120)
        return process

    async def divided(self) -> None:
        """Return once each gateway has half of the limits."""
        for port in self.ports:
            log = self.root / f"gateway-{port}.log"
            await until(partial(asyncio.to_thread, log.read_text), lambda text: "There are 2 gateways" in text, 20)

    async def forgets_a_dead_worker(self) -> None:
        """Return once a gateway has seen that a worker of this machine has ended: its runs need not wait for leases."""
        with closing(Store.open(self.root)) as store:
            leases = ProcessLeases(store.database, store.scope.environment)
            assert leases.acquire("worker/ghost", str(ended_process()), 600)
            await until(partial(asyncio.to_thread, leases.find, "worker/ghost"), lambda found: found is None, 10)

    def key(self, **allowance: Any) -> dict[str, str]:
        """The header of a new principal."""
        self._keys += 1
        with closing(Store.open(self.root)) as store:
            name = f"shop-{self._keys}"
            text, _ = store.keys.create(store.scope.tenant, name, "service", allowance=Allowance(**allowance))
        return {"authorization": f"Bearer {text}"}

    def at(self, which: int, headers: dict[str, str]) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(base_url=f"http://127.0.0.1:{self.ports[which]}", headers=headers, timeout=60)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def platform() -> AsyncIterator[Platform]:
    with scratch() as folder:
        async with AsyncExitStack() as stack:
            made = Platform(Path(folder), stack)
            await made.start()
            yield made


def body(tokens: int, text: str = "Hi", **fields: Any) -> dict[str, Any]:
    schema = {"type": "array", "items": {"enum": ["ab", "cd"]}, "minItems": tokens, "maxItems": tokens}
    shape = {"type": "json_schema", "json_schema": {"name": "words", "schema": schema}}
    return {
        "model": "simulated", "messages": [{"role": "user", "content": text}], "max_tokens": 8 * tokens + 8,
        "response_format": shape, **fields,
    }  # fmt: skip


async def chat(client: httpx2.AsyncClient, tokens: int, text: str = "Hi", **fields: Any) -> httpx2.Response:
    return await client.post("/v1/chat/completions", json=body(tokens, text, **fields))


async def test_priority_goes_first_flex_last_and_a_full_flex_is_told(platform: Platform) -> None:
    ended: list[str] = []
    headers = platform.key(priority=True)
    await platform.divided()  # So that two flex requests of four are this gateway's.
    async with platform.at(0, headers) as client, platform.at(1, headers) as other:

        async def ask(name: str, tokens: int, **fields: Any) -> httpx2.Response:
            answer = await chat(client, tokens, f"I am {name}", **fields)
            ended.append(name)
            return answer

        async def shown(line: str) -> None:
            await until(lambda: client.get("/metrics"), lambda told: line in told.text, 20)

        async with asyncio.TaskGroup() as group:
            group.create_task(ask("running", 200))
            await shown(_INSIDE)
            flex = [group.create_task(ask(f"flex {number}", 4, service_tier="flex")) for number in range(2)]
            await shown("antiphon_in_flight 3.0")
            default = group.create_task(ask("default", 4, service_tier="default"))
            await shown(_WAITING.format(1))  # flex passes this gate
            first = group.create_task(ask("priority", 4, service_tier="priority"))
            await shown(_WAITING.format(2))
            full = await chat(client, 4, service_tier="flex")
            assert (full.status_code, full.json()["error"]["code"]) == (429, "resource_unavailable")
            assert int(full.headers["retry-after"]) >= 1
            flex += [group.create_task(chat(other, 4, service_tier="flex")) for _ in range(2)]
        assert ended[:3] == ["running", "priority", "default"]
        tiers = [task.result().json()["service_tier"] for task in (*flex, default, first)]
        assert tiers == ["flex", "flex", "flex", "flex", "default", "priority"]


async def test_a_deadline_and_a_departure_free_the_engine_at_once(platform: Platform) -> None:
    async with platform.at(0, platform.key()) as client:
        late = await client.post("/v1/chat/completions", json=body(100), headers={"x-antiphon-timeout": "0.5"})
        assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
        with pytest.raises(httpx2.ReadTimeout):
            await client.post("/v1/chat/completions", json=body(100), timeout=0.5)
        waiting = asyncio.create_task(chat(client, 100))
        await asyncio.sleep(0.2)
        gone = asyncio.create_task(chat(client, 100))  # leaves while it waits for its turn
        await asyncio.sleep(0.2)
        waiting.cancel()
        gone.cancel()
        await asyncio.gather(waiting, gone, return_exceptions=True)
        begun = asyncio.get_running_loop().time()
        assert (await chat(client, 1)).status_code == 200
        assert asyncio.get_running_loop().time() - begun < 3.0


async def test_two_gateways_one_quota_and_a_kill_forgets_nothing(platform: Platform) -> None:
    """The last one: the others believe in two gateways, and a killed one counts for a minute."""
    headers = platform.key(requests_per_minute=12)
    clock = asyncio.get_running_loop()
    begun = clock.time()
    async with platform.at(0, headers) as one, platform.at(1, headers) as two:
        answers = await asyncio.gather(*(chat(at, 1) for _ in range(12) for at in (one, two)))
        let_in = sum(answer.status_code == 200 for answer in answers)
        said = Counter(str(answer.json().get("error", {}).get("message", "let in")) for answer in answers)
        assert 12 <= let_in <= 12 + (clock.time() - begun) / 5 + 1, said
        refused = [answer for answer in answers if answer.status_code == 429]
        assert len(refused) == 24 - let_in
        assert all(answer.headers["x-ratelimit-limit-requests"] == "12" for answer in answers)
        process = await platform.gateway(free := free_port())
        process.kill()
        await asyncio.to_thread(process.wait)
        platform.ports[0] = free
        await platform.gateway(free)
        await platform.forgets_a_dead_worker()
        async with platform.at(0, headers) as back:
            # Since the beginning one has run down every five seconds; whoever forgot would let twelve in.
            again = await asyncio.gather(*(chat(back, 1) for _ in range(12)))
        later = sum(answer.status_code == 200 for answer in again)
        assert let_in + later <= 12 + (clock.time() - begun) / 5 + 1
        wait = max(float(answer.headers["retry-after-ms"]) for answer in again if answer.status_code == 429) / 1000
        assert 0 < wait <= 5.0
        await asyncio.sleep(wait)
        assert (await chat(two, 1)).status_code == 200
