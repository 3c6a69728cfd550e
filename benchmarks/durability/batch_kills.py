"""Batches whose gateway, engine and worker are killed at random moments: nothing is lost, doubled or miscounted.

Run ``python -m benchmarks.durability.batch_kills --size ci|demo|full``: a table, then one JSON line. Full is 200 kills
in batches of 2,000 requests, 20 kills in each. The client is plain HTTP as a user's would be; what it sent and got is
judged by ``benchmarks.durability.batch_checker``. Moments are drawn with the seed: after a drawn share of a batch's
requests, and up to 50 ms later, so that checking, answering and finalizing are all hit.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
from benchmarks.durability.batch_checker import Evidence, check
from tests.chaos.harness.running import scratch, supervised
from tests.harness.ports import free_port

VICTIMS = ("gateway", "engine", "worker")
SIZES = {"ci": (3, 60, 3), "demo": (20, 500, 10), "full": (200, 2_000, 20)}
"""Kills, requests of a batch, kills of a batch."""
SEED = 20130410
WAIT_SECONDS = 120.0
RESULTS = Path(__file__).parents[1] / "results" / "batch_kills.jsonl"
_CHAT = "/v1/chat/completions"
_SETTINGS = """[project]
name = "kills"

[engine]
kind = "simulated"
models = ["simulated"]
slots = 16

[gateway]
port = @PORT@

[batch]
concurrency = @CONCURRENCY@

[worker]
lease = "3s"
refresh = false
"""


@dataclass
class Report:
    """The outcome of a run; ``violations`` has every check's name, and all are empty when the invariants held."""

    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(VICTIMS, 0))
    back: list[float] = field(default_factory=list)
    batches: int = 0
    requests: int = 0
    seconds: float = 0.0
    peaceful: float = 0.0
    unanswered: int = 0
    violations: dict[str, list[str]] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        return not any(self.violations.values())


class Client:
    """A user's client: asks again when nobody answers."""

    def __init__(self, url: str, key: str, report: Report) -> None:
        self._http = httpx2.AsyncClient(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=20.0)
        self._report = report

    async def close(self) -> None:
        await self._http.aclose()

    async def send(self, method: str, path: str, **more: Any) -> httpx2.Response:
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                try:
                    answer = await self._http.request(method, path, **more)
                    if answer.status_code < 500 and answer.status_code != 429:
                        assert answer.status_code < 300, answer.text
                        return answer
                except httpx2.HTTPError:
                    self._report.unanswered += 1
                await asyncio.sleep(0.05)

    async def order(self, content: bytes) -> str:
        form = {"files": {"file": ("in.jsonl", content)}, "data": {"purpose": "batch"}}
        file = (await self.send("POST", "/v1/files", **form)).json()["id"]
        body = {"input_file_id": file, "endpoint": _CHAT, "completion_window": "24h"}
        return str((await self.send("POST", "/v1/batches", json=body)).json()["id"])

    async def batch(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = (await self.send("GET", f"/v1/batches/{name}")).json()
        return found

    async def file(self, name: str | None) -> tuple[bytes | None, int | None]:
        if name is None:
            return None, None
        size = (await self.send("GET", f"/v1/files/{name}")).json()["bytes"]
        return (await self.send("GET", f"/v1/files/{name}/content")).content, size

    async def ask(self, prompt: str) -> str:
        body = {"model": "simulated", "messages": [{"role": "user", "content": prompt}], "max_tokens": 24}
        return str((await self.send("POST", _CHAT, json=body)).json()["choices"][0]["message"]["content"])


def requests(chance: random.Random, count: int) -> bytes:
    """An input file whose prompts differ."""
    rows = []
    for number in range(count):
        content = f"Say {number} of {chance.randrange(10**9)}."
        body = {"model": "simulated", "messages": [{"role": "user", "content": content}], "max_tokens": 24}
        rows.append({"custom_id": f"r-{number}", "method": "POST", "url": _CHAT, "body": body})
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


async def run(
    root: Path,
    *,
    kills: int,
    count: int,
    each: int,
    concurrency: int = 16,
    seed: int = SEED,
    told: Callable[[str], None] = lambda _: None,
) -> Report:
    """Order batches one after the other until so many kills were made, ``each`` of them in one batch."""
    port, report = free_port(), Report()
    root.mkdir(parents=True, exist_ok=True)
    (root / "definitions.py").write_text("", encoding="utf-8")
    settings = _SETTINGS.replace("@PORT@", str(port)).replace("@CONCURRENCY@", str(concurrency))
    (root / "antiphon.toml").write_text(settings, encoding="utf-8")
    chance = random.Random(seed)
    victims = [VICTIMS[number % len(VICTIMS)] for number in range(kills)]
    chance.shuffle(victims)
    async with supervised(root, f"http://127.0.0.1:{port}") as supervisor:
        key = (root / ".antiphon" / "keys" / "admin.key").read_text(encoding="utf-8").strip()
        client = Client(f"http://127.0.0.1:{port}", key, report)
        try:
            began = time.monotonic()
            while victims:
                content = requests(chance, count)
                due = [victims.pop() for _ in range(min(each, len(victims)))]
                await _one(client, root, supervisor, content, due, chance, report)
                told(f"{time.monotonic() - began:6.0f} s  {report.batches} batches, {kills - len(victims)} kills")
            report.seconds = time.monotonic() - began
        finally:
            await client.close()
    return report


async def _one(
    client: Client,
    root: Path,
    supervisor: subprocess.Popen[bytes],
    content: bytes,
    victims: list[str],
    chance: random.Random,
    report: Report,
) -> None:
    count = len(content.splitlines())
    batch = await client.order(content)
    shares = sorted(chance.choice([0.0, 1.0, chance.random(), chance.random()]) for _ in victims)
    for share, victim in zip(shares, victims, strict=True):
        await _reach(client, batch, int(share * count))
        await asyncio.sleep(chance.random() * 0.05)
        await _kill(root, supervisor, victim, report)
    async with asyncio.timeout(WAIT_SECONDS * 5):
        while (found := await client.batch(batch))["status"] not in ("completed", "failed", "expired", "cancelled"):
            await asyncio.sleep(0.05)
    output, first = await client.file(found["output_file_id"])
    error, second = await client.file(found["error_file_id"])
    prompts = [json.loads(line)["body"]["messages"][-1]["content"] for line in content.splitlines()[:: count // 5]]
    reference = {prompt: await client.ask(prompt) for prompt in prompts}
    report.batches += 1
    report.requests += count
    for name, wrong in check(Evidence(content, found, output, error, (first, second), reference)).items():
        report.violations.setdefault(name, []).extend(f"{batch}: {one}" for one in wrong)


async def _reach(client: Client, batch: str, done: int) -> None:
    """Wait until so many requests have a line, or the batch has ended."""
    async with asyncio.timeout(WAIT_SECONDS * 5):
        while True:
            found = await client.batch(batch)
            counts = found["request_counts"]
            if counts["completed"] + counts["failed"] >= done or found["status"] == "completed":
                return
            await asyncio.sleep(0.03)


async def _kill(root: Path, supervisor: subprocess.Popen[bytes], victim: str, report: Report) -> None:
    struck, dead = time.monotonic(), _pid(root, victim)
    os.kill(dead, signal.SIGKILL)
    report.kills[victim] += 1
    async with asyncio.timeout(WAIT_SECONDS):
        while _pid(root, victim) == dead or (victim == "worker" and not (root / ".antiphon/run/worker.ready").exists()):
            assert supervisor.poll() is None, "the supervisor ended"
            await asyncio.sleep(0.01)
    report.back.append(time.monotonic() - struck)


def _pid(root: Path, victim: str) -> int:
    return int(json.loads((root / ".antiphon" / "run" / f"{victim}.pid").read_bytes())["pid"])


def table(report: Report) -> str:
    """The report for people."""
    killed = ", ".join(f"{victim} {times}" for victim, times in report.kills.items())
    lines = [
        f"{sum(report.kills.values())} kills ({killed}), back after {statistics.median(report.back):.2f} s (median)",
        f"{report.batches} batches, {report.requests} requests in {report.seconds:.0f} s "
        f"({report.requests / report.seconds:.0f}/s), {report.unanswered} requests of the client broke off",
    ]
    for name, wrong in report.violations.items():
        lines.append(f"  {'ok  ' if not wrong else 'FAIL'} {name}" + (f": {len(wrong)}" if wrong else ""))
        lines += [f"         {one}" for one in wrong[:5]]
    return "\n".join(lines)


def main() -> int:
    """Run and print; the exit code is 1 when something was violated."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.durability.batch_kills", description=__doc__)
    parser.add_argument("--size", choices=sorted(SIZES), default="ci")
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()
    kills, count, each = SIZES[options.size]
    with scratch() as folder:
        made = run(
            Path(folder) / "project",
            kills=kills,
            count=count,
            each=each,
            seed=options.seed,
            told=lambda text: print(f"  {text}", file=sys.stderr, flush=True),
        )
        report = asyncio.run(made)
    print(table(report))
    line = json.dumps(
        {
            "benchmark": "batch_kills",
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "size": options.size,
            "seed": options.seed,
            "holds": report.holds,
            "kills": report.kills,
            "batches": report.batches,
            "requests": report.requests,
            "seconds": round(report.seconds, 1),
            "back_seconds": {"median": statistics.median(report.back), "longest": max(report.back)},
            "violations": {name: len(wrong) for name, wrong in report.violations.items()},
        }
    )
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    print(line)
    return 0 if report.holds else 1


if __name__ == "__main__":
    sys.exit(main())
