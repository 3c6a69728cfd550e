"""Batches beside the same requests asked online: a file of 200 MB in and checked, and requests a second.

Run ``python -m benchmarks.batches --size ci|demo|full``: a table, then one JSON line. The engine is simulated, so that
what is measured is everything around it. *Large*: a file of 4 KB requests is uploaded, checked and cancelled; memory is
the processes' peak. *Answered*: short requests in a batch, and the same ones asked online with as many at a time. Full
is 50,000 requests of 200 MB, and 2,000 answered.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
from benchmarks.batch_kills import Client, Report, requests

from antiphon.testing.running import free_port, scratch, supervised

SIZES = {"ci": (500, 100), "demo": (5_000, 500), "full": (50_000, 2_000)}
"""Requests of the large file, and requests that are answered."""
CONCURRENCY = 16
SEED = 20130410
_CHAT = "/v1/chat/completions"
_PAD = 3_900
_SETTINGS = """[project]
name = "batches"

[engine]
kind = "simulated"
models = ["simulated"]

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


async def measured(root: Path, size: str) -> dict[str, Any]:
    """Every figure of one run."""
    many, answered = SIZES[size]
    port, root = free_port(), root / "project"
    root.mkdir(parents=True)
    (root / "definitions.py").write_text("", encoding="utf-8")
    (root / "antiphon.toml").write_text(_SETTINGS.replace("@PORT@", str(port)), encoding="utf-8")
    url = f"http://127.0.0.1:{port}"
    async with supervised(root, url):
        key = (root / ".antiphon" / "keys" / "admin.key").read_text(encoding="utf-8").strip()
        client = Client(url, key, Report())
        try:
            return {**await _large(client, root, url, key, many), **await _answered(client, answered)}
        finally:
            await client.close()


async def _large(client: Client, root: Path, url: str, key: str, many: int) -> dict[str, Any]:
    before = {process: peak_megabytes(root, process) for process in ("gateway", "worker")}
    content = large(many)
    began = time.monotonic()
    headers = {"authorization": f"Bearer {key}", "content-type": "multipart/form-data; boundary=cut"}
    async with httpx.AsyncClient(base_url=url, timeout=300.0) as http:
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
    print(json.dumps({"benchmark": "batches", "size": options.size, "seed": SEED, **figures}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
