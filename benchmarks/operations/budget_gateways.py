"""Budgets before real gateways: two of them on one port, asked over HTTP as clients ask.

- **Forms.** One question whole, streamed and as a line of a batch: each is charged by one rule, so that all cost the
  same; one that is served again costs nothing.
- **The last cent.** Requests at once, whole and streamed by turns, of which a few fit. A client that is told to try
  again in a second does so, as OpenAI's do; one that is told to wait until the budget renews was refused. When all have
  settled no further request may fit, for then one was refused falsely.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx2
from benchmarks.durability.batch_kills import Client, Report
from tests.chaos.harness.running import supervised
from tests.harness.ports import free_port

from antiphon.services.budgets.account import LEASE_SECONDS
from antiphon.services.budgets.gate import BELIEVED_SECONDS

FORMS = ("whole", "streamed", "batched", "made first", "served again")
FIT = 60
"""Answers that the last cent is enough for, less what is left of a worst case at the end."""

_CHAT = "/v1/chat/completions"
_DEFINITIONS = '''"""One application that never serves an answer again, and one that does."""

from antiphon import Application, Decoding, Prompt, Reuse

terms = {"ungated": "a benchmark asks at once", "purpose": "budgets", "owner": "bench", "model": "simulated",
         "entities": [], "features": [], "prompt": Prompt(template="{{ question }}"),
         "decoding": Decoding(max_tokens=24)}
plain = Application("plain", reuse=Reuse("never", identical_prompts=False), **terms)
kept = Application("kept", reuse=Reuse("always"), **terms)
'''
_SETTINGS = """[project]
name = "budgets"

[engine]
kind = "simulated"
models = ["simulated"]
slots = 16

[gateway]
port = @PORT@
max_in_flight = 2000

[worker]
refresh = false

[prices]
currency = "EUR"
engine_second = 0.0
prompt_token = 0.000002
cached_prompt_token = 0.000002
completion_token = 0.00001

[processes]
gateways = 2
"""


class BudgetPlatform:
    """A platform that is up, and its clients."""

    def __init__(self, root: Path, url: str, key: str) -> None:
        self._root = root
        headers, limits = {"authorization": f"Bearer {key}"}, httpx2.Limits(max_connections=None)
        self._http = httpx2.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=300.0)
        self._batches = Client(url, key, Report())
        self.holders: set[str] = set()

    async def close(self) -> None:
        await self._http.aclose()
        await self._batches.close()

    async def declare(self, name: str, application: str, limit_micros: int) -> None:
        """Set a budget of an application, and wait until every process knows of it."""
        terms = {"kind": "application", "subject": application, "limit": f"{limit_micros / 1e6:.6f}", "reason": "bench"}
        (await self._http.post(f"/admin/budgets/{name}", json=terms)).raise_for_status()
        await asyncio.sleep(2 * BELIEVED_SECONDS)

    async def line(self, name: str) -> dict[str, Any]:
        """A budget, once nothing of it is held any more, not even by a process that is gone."""
        async with asyncio.timeout(LEASE_SECONDS + 60):
            while True:
                answer = await self._http.get(f"/admin/budgets/{name}")
                answer.raise_for_status()
                found: dict[str, Any] = answer.json()
                if not found["held_micros"]:
                    return found
                await asyncio.sleep(0.05)

    async def ask(self, application: str, question: str, *, stream: bool = False) -> tuple[str, float]:
        """The end of one request, ``answered`` or the code of its error, and when to try again in seconds."""
        body = {"model": application, "messages": [{"role": "user", "content": question}], "stream": stream}
        answer = await self._http.post(_CHAT, json=body)
        if answer.status_code == 200:
            whole = not stream or answer.text.rstrip().endswith("data: [DONE]")
            return "answered" if whole and '"error"' not in answer.text else "cut off", 0.0
        return str(answer.json()["error"]["code"]), float(answer.headers.get("retry-after", "0"))

    async def batch(self, application: str, question: str) -> None:
        """Ask as the one line of a batch."""
        body = {"model": application, "messages": [{"role": "user", "content": question}]}
        line = {"custom_id": "one", "method": "POST", "url": _CHAT, "body": body}
        name = await self._batches.order(json.dumps(line).encode() + b"\n")
        async with asyncio.timeout(120):
            while (found := await self._batches.batch(name))["status"] not in ("completed", "failed", "expired"):
                await asyncio.sleep(0.05)
        if found["request_counts"]["completed"] != 1:
            raise RuntimeError(f"The batch of one request ended {found['status']}: {found['request_counts']}")

    async def settled(self, application: str, question: str, *, stream: bool) -> tuple[str, int]:
        """The last end of a request, and how often it was told to try again soon."""
        again = 0
        while True:
            said, after = await self.ask(application, question, stream=stream)
            if said == "answered" or (said == "insufficient_quota" and after > 1.0):
                return said, again
            if again > 200:
                return said, again
            again += 1
            await asyncio.sleep(max(after, 0.05))

    async def watch(self, ended: asyncio.Event) -> None:
        """Note the processes that hold shares."""
        while not ended.is_set():
            with closing(sqlite3.connect(f"file:{self._root / '.antiphon' / 'catalog.db'}?mode=ro", uri=True)) as found:
                self.holders |= {row[0] for row in found.execute("SELECT holder FROM budget_shares")}
            await asyncio.sleep(0.1)


async def measured(root: Path, requests: int) -> dict[str, Any]:
    """Costs of the forms in micro-units, and what a crowd on the last cent came to, in an empty folder."""
    root.mkdir(parents=True)
    port = free_port()
    (root / "definitions.py").write_text(_DEFINITIONS, encoding="utf-8")
    (root / "antiphon.toml").write_text(_SETTINGS.replace("@PORT@", str(port)), encoding="utf-8")
    url = f"http://127.0.0.1:{port}"
    async with supervised(root, url):
        platform = BudgetPlatform(root, url, (root / ".antiphon/keys/admin.key").read_text(encoding="utf-8").strip())
        try:
            forms = await _forms(platform)
            return {"forms_micros": forms, **await _crowd(platform, requests, forms["whole"])}
        finally:
            await platform.close()


async def _forms(platform: BudgetPlatform) -> dict[str, int]:
    for application in ("plain", "kept"):
        await platform.declare(application, application, 10**9)
    found = {}
    for form in FORMS:
        # Another one for the second application: a prompt that any release has generated before is served again.
        again = form in ("made first", "served again")
        application, question = ("kept", "And asked again?") if again else ("plain", "What does a question cost?")
        before = (await platform.line(application))["spent_micros"]
        if form == "batched":
            await platform.batch(application, question)
        elif (said := await platform.ask(application, question, stream=form == "streamed"))[0] != "answered":
            raise RuntimeError(f"The question {form} was not answered: {said}")
        found[form] = (await platform.line(application))["spent_micros"] - before
    return found


async def _crowd(platform: BudgetPlatform, requests: int, cost: int) -> dict[str, Any]:
    await platform.declare("plain", "plain", (await platform.line("plain"))["spent_micros"] + FIT * cost)
    ended = asyncio.Event()
    watching, began = asyncio.create_task(platform.watch(ended)), time.perf_counter()
    try:
        crowd = (platform.settled("plain", f"Question {n:04}?", stream=n % 2 == 1) for n in range(requests))
        ends = await asyncio.gather(*crowd)
    finally:
        ended.set()
        await watching
    seconds, line = time.perf_counter() - began, await platform.line("plain")
    became = Counter(said for said, _ in ends)
    refused, false_refusals = became["insufficient_quota"], 0
    # All have settled: whoever was refused while there is room for it, was refused falsely.
    while false_refusals < refused and (await platform.ask("plain", f"Late {false_refusals:04}?"))[0] == "answered":
        false_refusals += 1
    return {
        "gateway_requests": requests, "gateway_answered": became["answered"], "gateway_refused": refused,
        "gateway_others": requests - became["answered"] - refused, "gateway_told_to_wait": sum(n for _, n in ends),
        "gateway_overshoot_micros": max(0, line["spent_micros"] - line["budget"]["limit_micros"]),
        "gateway_left_micros": line["left_micros"], "gateway_false_refusals": false_refusals,
        "gateway_holders": len(platform.holders), "gateway_seconds": round(seconds, 1),
    }  # fmt: skip


def holds(found: dict[str, Any]) -> bool:
    """Tell whether all forms cost the same, one that is served again nothing, and the crowd was let in exactly."""
    forms = found["forms_micros"]
    one_rule = forms["whole"] == forms["streamed"] == forms["batched"] > 0 == forms["served again"]
    exact = not (found["gateway_overshoot_micros"] or found["gateway_false_refusals"] or found["gateway_others"])
    return one_rule and forms["made first"] > 0 and exact and found["gateway_refused"] > 0
