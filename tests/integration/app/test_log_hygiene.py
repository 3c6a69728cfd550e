"""What people send stays out of logs, traces, dumps and the bodies of errors, through real processes.

Markers are planted where secrets and personal things travel: keys, cookies, prompts, entity keys, events, feedback.
Afterwards every file that a process wrote as a log or a trace is searched for them, and so is every error body.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.chaos.harness.chaos_project import ChaosProject, write_project
from tests.chaos.harness.running import scratch, separate, until

from antiphon.operations.processes import started_ticks
from antiphon.services.apply.apply import apply
from antiphon.services.engines import commands
from antiphon.services.governance.identity import first_key
from antiphon.services.project.store import Store

MARK = "zqxmark"
PLANTED = {
    "prompt": f"{MARK}-prompt",
    "system": f"{MARK}-system",
    "answered": f"{MARK}-answered",
    "exploding": f"{MARK}-exploding",
    "entity": f"shop-{MARK}-entity",
    "event": f"{MARK}-event",
    "feedback": f"{MARK}-feedback",
    "bearer": f"ak_{MARK}-bearer",
    "cookie": f"{MARK}-cookie",
    "path": f"{MARK}-path",
    "query": f"{MARK}-query",
    "user": f"{MARK}-user",
    "schema": f"{MARK}-schema",
    "enum": f"{MARK}-enum",
    "json": f"{MARK}-json",
    "long": f"{MARK}-long",
    "trace": f"{MARK}-trace",
    "model": f"ak_{MARK}-model",
    "foreign": f"sk-proj-{MARK}-of-another-service",
}

_SABOTAGE = '''"""Loaded by Python itself: a gateway whose answerer breaks as libraries do, telling the value."""

import logging
import os
import sys

if "antiphon.app.gateway" in sys.orig_argv:
    from antiphon.core import logs
    from antiphon.serving.answerer import Answerer

    whole = Answerer._run

    def run(self, request, **how):
        if "exploding" in (request.question or "") + "".join(message.content for message in request.messages):
            try:
                {}[str(request)]
            except KeyError as error:
                raise ValueError(f"cannot use {request!r}") from error
        return whole(self, request, **how)

    Answerer._run = run
    if os.environ.get("HYGIENE") == "off":
        logs.configure = lambda level=20: logging.basicConfig(level=level, force=True)
'''


@asynccontextmanager
async def running(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, logs: dict[str, str], *, defended: bool
) -> AsyncIterator[ChaosProject]:
    """The processes of a project; what they wrote is in ``logs`` after their end."""
    (tmp_path / "sitecustomize.py").write_text(_SABOTAGE)
    known = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *([known] if known else [])]))
    monkeypatch.setenv("HYGIENE", "on" if defended else "off")
    with scratch() as folder:
        project = write_project(Path(folder) / "project", "simulated")
        store = Store.open(project.root)
        try:
            first_key(store)
            apply(store, principal="test")
            command = commands.command(store)
        finally:
            store.close()
        async with separate(project.root, project.url, command, worker=defended):
            yield project
        logs.update(written(project))


def written(project: ChaosProject) -> dict[str, str]:
    """Every file of a log or a trace."""
    files = [project.root / "processes.log", *(project.directory / "logs").glob("*")]
    return {file.name: file.read_text(encoding="utf-8", errors="replace") for file in files}


def found(texts: dict[str, str]) -> dict[str, list[str]]:
    return {
        name: lines
        for name, text in texts.items()
        if (lines := [line[:300] for line in text.splitlines() if MARK in line])
    }


def question(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "simulated", "messages": [{"role": "user", "content": text}], "max_tokens": 8, **more}


async def provoke(http: httpx2.AsyncClient, project: ChaosProject) -> list[tuple[str, httpx2.Response]]:
    """Requests that fail, each in its own way, with markers in them."""
    planted, chat = PLANTED, "/v1/chat/completions"
    entity = {"shop": planted["entity"]}
    wrong = {"authorization": f"Bearer {planted['bearer']}", "cookie": f"antiphon_session={planted['cookie']}"}
    key = {"authorization": f"Bearer {project.key}"}
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": planted["schema"]}}}
    tasks: list[tuple[str, Any]] = [
        ("a wrong key", http.post(chat, json=question(planted["prompt"]), headers=wrong)),
        ("a wrong cookie", http.get("/", headers={"cookie": f"antiphon_session={planted['cookie']}"})),
        ("an unknown path", http.get(f"/{planted['path']}?q={planted['query']}", headers=key)),
        ("a key as a model", http.post(chat, json={**question("x"), "model": planted["model"]}, headers=key)),
        ("a foreign key as a model", http.post(chat, json={**question("x"), "model": planted["foreign"]}, headers=key)),
        ("a key as a model of vectors", http.post("/v1/embeddings", headers=key, json={
            "model": planted["model"], "input": "x"})),
        ("a key as a model in a path", http.get(f"/v1/models/{planted['model']}", headers=key)),
        ("a key as a run", http.get(f"/admin/runs/{planted['foreign']}", headers=key)),
        ("a wrong method", http.put(chat, content=planted["prompt"], headers=key)),
        ("no JSON", http.post(chat, content=f'{{"messages": "{planted["json"]}', headers=key)),
        ("a wrong type", http.post(chat, json=question("x", temperature=planted["enum"]), headers=key)),
        ("a wrong role", http.post(chat, json={**question("x"), "messages": [
            {"role": planted["enum"], "content": planted["prompt"]}]}, headers=key)),
        ("a wrong schema", http.post(chat, json=question(planted["prompt"], response_format=schema), headers=key)),
        ("too long", http.post(chat, json=question(f"{planted['long']} " * 20_000), headers=key)),
        ("no features", http.post(chat, headers=key, json={
            "model": "desk", "entity": entity, "messages": [{"role": "user", "content": planted["prompt"]}]})),
        ("a wrong entity", http.post(chat, headers=key, json={
            "model": "desk", "entity": {"shop": {"x": planted["entity"]}}, "messages": []})),
        ("a wrong moment", http.post(chat, headers=key, json=question("x", as_of=planted["query"]))),
        ("feedback", http.post("/v1/feedback", headers=key, json={
            "application": "desk", "kind": "label", "value": planted["feedback"], "entity": entity,
            "at": "2026-01-01T00:00:00Z", "prediction": "pred_none"})),
        ("wrong feedback", http.post("/v1/feedback", headers=key, json={"value": {"x": planted["feedback"]}})),
        ("a wrong event", http.post("/admin/events/orders", headers=key, json={"events": [
            {"event_id": "e", "event_time": planted["event"], "available_at": "never", "payload": planted["event"]}]})),
        ("a wrong query", http.get("/admin/runs", params={"limit": planted["query"]}, headers=key)),
        ("a wrong role of a key", http.post("/admin/keys", headers=key, json={
            "name": "k", "role": planted["enum"]})),
        ("an exploding answer", http.post(chat, json=question(planted["exploding"]), headers={
            **key, "traceparent": planted["trace"]})),
        ("an exploding stream", http.post(chat, json=question(planted["exploding"], stream=True), headers=key)),
    ]  # fmt: skip
    answered = []
    for name, task in tasks:
        try:
            answered.append((name, await task))
        except httpx2.HTTPError as error:
            raise AssertionError(f"{name} was not answered") from error
    return answered


async def test_nothing_that_was_sent_is_written_or_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    logs: dict[str, str] = {}
    async with (
        running(monkeypatch, tmp_path, logs, defended=True) as project,
        httpx2.AsyncClient(base_url=project.url, timeout=30) as http,
    ):
        key = {"authorization": f"Bearer {project.key}"}
        failures = await provoke(http, project)
        for name, answer in failures:
            if name != "a wrong cookie":  # it is sent to the page where a key is entered
                assert answer.status_code >= 400 or '"error"' in answer.text, (name, answer.text[:300])
            if name != "a wrong schema":  # a declaration of the caller's own; what is wrong in it is told by name
                assert MARK not in answer.text, (name, answer.text[:500])

        # What succeeds is written nowhere either: an event, its features, an answer about its entity, a stream.
        ordered = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
        payload = {"order_id": PLANTED["event"], "shop": PLANTED["entity"], "amount": 3, "ordered": ordered,
                   "known": ordered}  # fmt: skip
        event = {"event_id": PLANTED["event"], "event_time": ordered, "available_at": ordered, "payload": payload}
        (await http.post("/admin/events/orders", json={"events": [event]}, headers=key)).raise_for_status()
        (await http.post("/admin/features/refresh", json={}, headers=key)).raise_for_status()
        desk = {"model": "desk", "entity": {"shop": PLANTED["entity"]}, "user": PLANTED["user"],
                "messages": [{"role": "user", "content": PLANTED["answered"]}]}  # fmt: skip

        async def ask() -> int:
            return (await http.post("/v1/chat/completions", json=desk, headers=key)).status_code

        await until(ask, lambda status: status == 200, 60)
        for stream in (False, True):
            body = question(PLANTED["answered"], stream=stream)
            body["messages"].insert(0, {"role": "system", "content": PLANTED["system"]})
            (await http.post("/v1/chat/completions", json=body, headers=key)).raise_for_status()
        assert _cores_allowed(project) == "0"

    assert found(logs) == {}
    assert "[struck out]" in logs["traces-gateway.jsonl"], "a key in the place of a model left a span"
    # The failures are in the log all the same: where each was raised, and of what type.
    told = logs["processes.log"]
    assert told.count("builtins.ValueError") + told.count("ValueError: (its message is withheld)") >= 2
    assert "KeyError: (its message is withheld)" in told
    assert "sitecustomize.py" in told
    assert {"traces-gateway.jsonl", "traces-engine.jsonl", "traces-worker.jsonl"} <= logs.keys()


async def test_without_the_discreet_log_the_same_search_finds_what_leaks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    logs: dict[str, str] = {}
    async with (
        running(monkeypatch, tmp_path, logs, defended=False) as project,
        httpx2.AsyncClient(base_url=project.url, timeout=30) as http,
    ):
        key = {"authorization": f"Bearer {project.key}"}
        answer = await http.post("/v1/chat/completions", json=question(PLANTED["exploding"]), headers=key)
        assert answer.status_code == 500
    assert PLANTED["exploding"] in "".join(logs.values())


_UNCAUGHT = """
import asyncio, logging, sys, threading
from antiphon.core import logs
logs.configure()
kind, mark = sys.argv[1:]
def fail():
    raise ValueError(mark)
if kind == "main":
    fail()
elif kind == "thread":
    thread = threading.Thread(target=fail); thread.start(); thread.join()
elif kind == "task":
    async def main():
        loop = asyncio.get_running_loop()
        async def broken(): fail()
        task = loop.create_task(broken(), name=mark); await asyncio.sleep(0); await asyncio.sleep(0); del task
        import gc; gc.collect()
        loop.call_soon(lambda text: fail(), mark); await asyncio.sleep(0); await asyncio.sleep(0)
    asyncio.run(main())
elif kind == "format":
    logging.getLogger("antiphon").info("%d", mark)
elif kind == "line":
    logging.getLogger("antiphon").info("%s", "a" + chr(10) + "FORGED line Bearer " + mark)
"""


@pytest.mark.parametrize("kind", ["main", "thread", "task", "format", "line"])
def test_what_nobody_caught_is_told_without_its_message(kind: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _UNCAUGHT, kind, f"{MARK}secret"], capture_output=True, text=True, timeout=60
    )
    assert MARK not in ended.stdout + ended.stderr, ended.stderr
    assert ("ValueError" in ended.stderr) == (kind in ("main", "thread", "task"))
    assert ended.returncode == (1 if kind == "main" else 0)
    if kind == "line":
        assert ended.stderr.count("\n") == 1, "what is sent cannot begin a line of the log"


def _cores_allowed(project: ChaosProject) -> str:
    """The largest core that the gateway may write, by the kernel's account of the process that listens."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and started_ticks(int(entry.name)) is not None:
            try:
                command = (entry / "cmdline").read_bytes()
                if b"antiphon.app.gateway" in command and os.fsencode(project.root) in command:
                    limits = (entry / "limits").read_text()
                    return next(line for line in limits.splitlines() if "core file" in line).split()[4]
            except (OSError, StopIteration):
                continue
    raise AssertionError("no gateway runs")
