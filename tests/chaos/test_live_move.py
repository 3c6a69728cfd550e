"""A project moves while requests come, and they wait; ``make bench-migrate`` has all kinds of load, and kills."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import httpx2
import msgspec
import pytest
from tests.chaos.harness import moving_hosts
from tests.chaos.harness.network import lacking
from tests.chaos.harness.running import scratch, supervised
from tests.harness.ports import free_port
from tests.servers import PostgresProcess

from antiphon.operations.processes import read_records
from antiphon.services.moving.project import ProjectMove
from antiphon.services.project.store import open_store

SETTINGS = """[project]
name = "pumps"

[engine]
kind = "simulated"
models = ["simulated"]

[gateway]
port = {port}

[catalog]
password_variable = "MOVED_PASSWORD"
"""
QUESTION = {"model": "simulated", "messages": [{"role": "user", "content": "Hot?"}], "max_tokens": 8}


@pytest.mark.chaos
async def test_requests_wait_while_a_project_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port, root = free_port(), tmp_path / "pumps"
    root.mkdir()
    (root / "definitions.py").write_text("from antiphon import *\n")
    (root / "antiphon.toml").write_text(SETTINGS.format(port=port))
    predictions, stop = list[str](), asyncio.Event()

    async def ask() -> None:
        key = (root / ".antiphon" / "keys" / "admin.key").read_text().strip()
        async with httpx2.AsyncClient(headers={"authorization": f"Bearer {key}"}, timeout=60) as client:
            while not stop.is_set():
                answer = await client.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=QUESTION)
                assert answer.status_code == 200, answer.text
                predictions.append(answer.json()["antiphon"]["prediction"])
                await asyncio.sleep(0.1)

    with PostgresProcess() as server:
        monkeypatch.setenv("MOVED_PASSWORD", server.password)
        command = [sys.executable, "-m", "antiphon.cli.main", "migrate", "--live", "--json", "--project", str(root)]
        async with supervised(root, f"http://127.0.0.1:{port}"):
            client = asyncio.create_task(ask())
            done = await asyncio.to_thread(
                subprocess.run, [*command, "--catalog", server.url, "--freeze-at-most", "60s"], capture_output=True
            )
            records = read_records(root / ".antiphon" / "run")
            run = [record.pid for record in records if record.name in ("gateway", "worker")]
            asked = len(predictions)
            async with asyncio.timeout(60):
                while len(predictions) < asked + 3:
                    await asyncio.sleep(0.05)
            stop.set()
            await client
        assert done.returncode == 0, done.stderr
        moved = msgspec.json.decode(done.stdout, type=ProjectMove)
        assert [name.partition(" ")[0] for name in moved.processes] == ["gateway", "worker"]
        assert moved.missing == ()
        assert [int(name.split()[1]) for name in moved.processes] == run, "they are told as they are now"
        with open_store(root) as store:
            assert store.backend.place.startswith("postgresql://")
            for prediction in predictions:
                store.receipts.get(store.scope, prediction)


@pytest.mark.chaos
async def test_two_hosts_go_on_when_the_command_is_killed_right_after_its_decision() -> None:
    """Each with a worker, an engine that has joined, and a front before a server of both; the long form has more faults
    and moves every store."""
    if (why := lacking()) is not None:
        pytest.skip(why)
    with scratch() as folder:
        report = await moving_hosts.run(Path(folder), ["kill"], catalog_alone=True, replays=3)
    told = "\n".join(moving_hosts.table(report))
    assert report.violations == {name: [] for name in report.violations}, told
    assert report.failed == {}, told
    assert report.replayed == report.identical == 3, told
    assert min(report.answered, report.events, report.outside) > 5, "there was hardly any load to lose"
