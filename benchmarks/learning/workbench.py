"""The workbench says what production said: byte by byte, with the real model, under load.

A project is asked about shops (features, a schema, a guard) and for letters (free text), several at once. Features are
then published anew, and `antiphon prompts try` answers the same requests with the live release while other questions
are being answered. Beside it stands a draft with another system text, most of whose texts are others.

    python -m benchmarks.learning.workbench [--size ci|demo|full]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
from benchmarks.engine.parity import AT_ONCE, at_once, body, publish, requests, write_project
from tests.chaos.harness.running import scratch, supervised, until
from tests.harness.ports import free_port

from antiphon.core.child_process import start_child

SIZES = {"ci": 8, "demo": 48, "full": 200}
RESULTS = Path(__file__).parents[1] / "results"

LETTERS = """
Application("letters", features=[], model="smollm2-135m", purpose="answer letters", ungated="a benchmark asks at once",
            decoding=Decoding(max_tokens=24),
            prompt=Prompt("Letter {{ question }}", system="You answer letters to a bakery in one sentence."))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="full")
    options = parser.parse_args()
    with scratch() as folder:
        summary = asyncio.run(measure(Path(folder), SIZES[options.size]))
    for name, found in summary["applications"].items():
        print(f"{name}: {found['identical']} of {found['requests']} texts identical, {found['errors']} errors", end="")
        print(f"; with another system text {found['draft_identical']}")
    print(f"asked in {summary['asked_seconds']:.0f} s, tried in {summary['tried_seconds']:.0f} s")
    line = json.dumps({"at": datetime.now(UTC).isoformat(timespec="seconds"), "size": options.size, **summary})
    with (RESULTS / "workbench.jsonl").open("a", encoding="utf-8") as out:
        out.write(line + "\n")
    print(line)
    return 0 if summary["holds"] else 1


async def measure(folder: Path, number: int) -> dict[str, Any]:
    """Ask production, publish anew, and try the live release and a draft on what was asked."""
    port = free_port()
    root = write_project(folder, port)
    definitions = root / "definitions.py"
    text = definitions.read_text(encoding="utf-8")
    definitions.write_text(text + "\nfrom antiphon import Application, Decoding, Prompt\n" + LETTERS, encoding="utf-8")
    url, shops = f"http://127.0.0.1:{port}", number // 4
    async with supervised(root, url):
        key = (root / ".antiphon" / "keys" / "admin.key").read_text(encoding="utf-8").strip()
        headers = {"authorization": f"Bearer {key}"}
        async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=300.0) as client:
            await publish(client)
            rows = requests(shops)
            await until(lambda: answered(client, body(rows[0]) | {"entity": {"shop": "tea"}}), bool, 120)
            began = time.monotonic()
            letters = [{"model": "letters", "messages": [turn(place)]} for place in range(number - shops)]
            await at_once(AT_ONCE, [lambda sent=sent: ask(client, sent) for sent in (*map(body, rows), *letters)])
            asked = time.monotonic() - began
            (await client.post("/admin/features/refresh", json={"key": "again"})).raise_for_status()
            began, found = time.monotonic(), {}
            async with talking(client):
                for application in ("desk", "letters"):
                    found[application] = await tried(root, application, number)
            took = time.monotonic() - began
            for application in ("desk", "letters"):
                (root / "system.txt").write_text("Answer in one word.", encoding="utf-8")
                other = ("--sample", str(min(shops, 8)), "--path", "online", "--system", "system.txt")
                draft = await run(root, "prompts", "try", application, *other)
                found[application]["draft_identical"] = draft["comparison"]["identical"]
    return {
        "applications": found,
        "asked_seconds": asked,
        "tried_seconds": took,
        "requests": sum(one["requests"] for one in found.values()),
        "identical": sum(one["identical"] for one in found.values()),
        "holds": all(one["identical"] == one["requests"] for one in found.values()),
    }


def turn(place: int) -> dict[str, str]:
    return {"role": "user", "content": f"number {place}: my cake of {place % 9 + 1} euros came late. What do you do?"}


async def answered(client: httpx2.AsyncClient, sent: dict[str, Any]) -> bool:
    """Whether what was published is served by now."""
    return (await client.post("/v1/chat/completions", json=sent)).status_code == 200


async def ask(client: httpx2.AsyncClient, sent: dict[str, Any]) -> None:
    response = await client.post("/v1/chat/completions", json=sent)
    assert response.status_code == 200, response.text


@asynccontextmanager
async def talking(client: httpx2.AsyncClient) -> AsyncIterator[None]:
    """Sampled chat with the plain model for as long as the block lasts, two at a time: trials share steps with it."""

    async def talk(speaker: int) -> None:
        for place in range(100_000):
            message = {"role": "user", "content": f"Tell me about bread {speaker} {place}."}
            sent = {"model": "smollm2-135m", "messages": [message], "seed": place, "max_tokens": 8 + place % 24}
            await ask(client, sent)
            await asyncio.sleep(0.5)

    talks = [asyncio.create_task(talk(speaker)) for speaker in range(2)]
    try:
        yield
        assert not any(one.done() for one in talks)
    finally:
        for one in talks:
            one.cancel()
        await asyncio.gather(*talks, return_exceptions=True)


async def tried(root: Path, application: str, number: int) -> dict[str, Any]:
    """The live release on all that users asked of an application."""
    made = await run(root, "prompts", "try", application, "--sample", str(number), "--path", "online")
    answers = made["answers"]
    return {
        "requests": len(answers),
        "identical": sum(one["identical"] is True for one in answers),
        "errors": sum(one["draft"]["error"] is not None for one in answers),
        "texts": len({one["live"]["characters"] for one in answers}),
    }


async def run(root: Path, *arguments: str) -> dict[str, Any]:
    """What a command says as JSON."""
    process = start_child(
        [sys.executable, "-m", "antiphon.cli.main", *arguments, "--json"], cwd=root,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.to_thread(process.communicate)
    assert process.returncode == 0, err.decode()
    found: dict[str, Any] = json.loads(out)
    return found


if __name__ == "__main__":
    sys.exit(main())
