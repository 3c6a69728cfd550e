"""Batches beside the same requests asked online: a file of 200 MB in and checked, requests a second, and canceling.

Run ``python -m benchmarks.batches --size ci|demo|full``: a table, then one JSON line, kept in
``benchmarks/results/batches.jsonl``. The engine is simulated, so that
what is measured is everything around it. *Large*: a file of 4 KB requests is uploaded, checked and canceled; memory is
the processes' peak. *Answered*: short requests in a batch, and the same ones asked online with as many at a time.
*Canceled*, on llama.cpp with a real model: four clients ask online without a pause, a batch of long answers is under
way, and is canceled at a drawn moment; how long until its status is final. Full is 50,000 requests of 200 MB, 2,000
answered, and ten batches of 3,000 canceled.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
from benchmarks.durability.batch_kills import Client, Report, requests
from tests.chaos.harness.running import scratch, supervised
from tests.harness.ports import free_port

SIZES = {"ci": (500, 100, 1, 300), "demo": (5_000, 500, 3, 3_000), "full": (50_000, 2_000, 10, 3_000)}
"""Requests of the large file, requests that are answered, batches that are canceled, and requests of each of them."""
CONCURRENCY, ASKING = 16, 4
MODEL = "smollm2-135m"
SEED = 20130410
RESULTS = Path(__file__).parents[1] / "results" / "batches.jsonl"
_CHAT = "/v1/chat/completions"
_PAD = 3_900
_SETTINGS = """[project]
name = "batches"

[engine]
@ENGINE@

[gateway]
port = @PORT@

[worker]
refresh = false
"""


def large(count: int) -> bytes:
    """A file of requests of about 4 KB."""
    rows = []
    for number in range(count):
        body = {"model": "simulated", "messages": [{"role": "user", "content": f"{number} {'x' * _PAD}"}]}
        rows.append(json.dumps({"custom_id": f"r{number}", "method": "POST", "url": _CHAT, "body": body}).encode())
    return b"\n".join(rows)


def peak_megabytes(root: Path, process: str) -> float:
    """The most memory that a process has held."""
    pid = json.loads((root / ".antiphon" / "run" / f"{process}.pid").read_bytes())["pid"]
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


@asynccontextmanager
async def running(root: Path, engine: str) -> AsyncIterator[tuple[Client, str, str]]:
    """A platform in an empty folder: a client, its URL and a key."""
    port = free_port()
    root.mkdir(parents=True)
    (root / "definitions.py").write_text("", encoding="utf-8")
    settings = _SETTINGS.replace("@PORT@", str(port)).replace("@ENGINE@", engine)
    (root / "antiphon.toml").write_text(settings, encoding="utf-8")
    url = f"http://127.0.0.1:{port}"
    async with supervised(root, url):
        key = (root / ".antiphon" / "keys" / "admin.key").read_text(encoding="utf-8").strip()
        client = Client(url, key, Report())
        try:
            yield client, url, key
        finally:
            await client.close()


async def measured(root: Path, size: str) -> dict[str, Any]:
    """Every figure of one run."""
    many, answered, batches, canceled = SIZES[size]
    project = root / "simulated"
    async with running(project, 'kind = "simulated"\nmodels = ["simulated"]') as (client, url, key):
        figures = {**await _large(client, project, url, key, many), **await _answered(client, answered)}
    async with running(root / "real", f'models = ["{MODEL}"]') as (client, _, _):
        return {**figures, **await _canceled(client, batches, canceled)}


async def _large(client: Client, root: Path, url: str, key: str, many: int) -> dict[str, Any]:
    before = {process: peak_megabytes(root, process) for process in ("gateway", "worker")}
    content = large(many)
    began = time.monotonic()
    headers = {"authorization": f"Bearer {key}", "content-type": "multipart/form-data; boundary=cut"}
    async with httpx2.AsyncClient(base_url=url, timeout=300.0) as http:
        sent = await http.post("/v1/files", content=_form(content), headers=headers)
    assert sent.status_code == 200, sent.text
    uploaded = time.monotonic() - began
    body = {"input_file_id": sent.json()["id"], "endpoint": _CHAT, "completion_window": "24h"}
    batch = (await client.send("POST", "/v1/batches", json=body)).json()["id"]
    began = time.monotonic()
    while (found := await client.batch(batch))["status"] == "validating":
        await asyncio.sleep(0.02)
    checked = time.monotonic() - began
    assert found["status"] == "in_progress", found
    assert found["request_counts"]["total"] == many
    await client.send("POST", f"/v1/batches/{batch}/cancel")
    while (await client.batch(batch))["status"] != "cancelled":
        await asyncio.sleep(0.1)
    megabytes = len(content) / 1e6
    return {
        "large_megabytes": round(megabytes, 1),
        "large_requests": many,
        "upload_megabytes_per_second": round(megabytes / uploaded, 1),
        "checked_megabytes_per_second": round(megabytes / checked, 1),
        **{f"{name}_grew_megabytes": round(peak_megabytes(root, name) - was, 1) for name, was in before.items()},
    }


async def _form(content: bytes) -> AsyncIterator[bytes]:
    yield b'--cut\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    yield b'--cut\r\ncontent-disposition: form-data; name="file"; filename="large.jsonl"\r\n\r\n'
    for start in range(0, len(content), 1 << 16):
        yield content[start : start + (1 << 16)]
    yield b"\r\n--cut--\r\n"


async def _answered(client: Client, count: int) -> dict[str, Any]:
    content = requests(random.Random(SEED), count)
    bodies = [json.loads(line)["body"] for line in content.splitlines()]
    batch = await client.order(content)
    began = time.monotonic()
    while (found := await client.batch(batch))["status"] != "completed":
        await asyncio.sleep(0.1)
    in_batch = time.monotonic() - began
    assert found["request_counts"] == {"total": count, "completed": count, "failed": 0}, found
    waiting = iter(bodies)

    async def one_after_another() -> None:
        for body in waiting:
            await client.send("POST", _CHAT, json={**body, "seed": 1})

    began = time.monotonic()
    await asyncio.gather(*(one_after_another() for _ in range(CONCURRENCY)))
    online = time.monotonic() - began
    return {
        "answered": count,
        "batch_requests_per_second": round(count / in_batch, 1),
        "online_requests_per_second": round(count / online, 1),
    }


async def _canceled(client: Client, batches: int, count: int) -> dict[str, Any]:
    chance, seconds, online = random.Random(SEED), [], 0

    def request(tokens: int) -> dict[str, Any]:
        prompt = (
            f"{chance.randrange(1 << 30)}: tell a long story of the harbor and its {chance.randrange(900)} ferries."
        )
        return {"model": MODEL, "messages": [{"role": "user", "content": prompt}], "max_tokens": tokens}

    async def asking() -> None:
        nonlocal online
        while True:
            await client.send("POST", _CHAT, json=request(48))
            online += 1

    people = [asyncio.create_task(asking()) for _ in range(ASKING)]
    try:
        for _ in range(batches):
            rows = [
                json.dumps({"custom_id": f"r{number}", "method": "POST", "url": _CHAT, "body": request(400)})
                for number in range(count)
            ]
            batch = await client.order("\n".join(rows).encode())
            while (await client.batch(batch))["status"] == "validating":
                await asyncio.sleep(0.05)
            await asyncio.sleep(chance.uniform(3.0, 8.0))
            began = time.monotonic()
            await client.send("POST", f"/v1/batches/{batch}/cancel")
            while (await client.batch(batch))["status"] != "cancelled":
                await asyncio.sleep(0.02)
            seconds.append(time.monotonic() - began)
    finally:
        for one in people:
            one.cancel()
        await asyncio.gather(*people, return_exceptions=True)
    return {
        "canceled_batches": batches,
        "canceled_requests_each": count,
        "asked_online_meanwhile": online,
        "canceled_seconds_median": round(statistics.median(seconds), 2),
        "canceled_seconds_most": round(max(seconds), 2),
    }


def table(figures: dict[str, Any]) -> str:
    """The figures for people."""
    return "\n".join(f"{name.replace('_', ' '):<32} {value}" for name, value in figures.items())


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batches", description=__doc__)
    parser.add_argument("--size", choices=sorted(SIZES), default="ci")
    options = parser.parse_args()
    with scratch() as folder:
        figures = asyncio.run(measured(Path(folder), options.size))
    print(table(figures))
    at = datetime.now(UTC).isoformat(timespec="seconds")
    line = json.dumps({"benchmark": "batches", "at": at, "size": options.size, "seed": SEED, **figures})
    with RESULTS.open("a", encoding="utf-8") as kept:
        kept.write(line + "\n")
    print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
