"""Several gateways and workers of one project, and single processes that are started by hand."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from time import monotonic, sleep

import httpx2
import pytest
from sqlalchemy import update
from tests.harness.ended_process import ended_process
from tests.integration.cli.conftest import PROGRAM, Up

from antiphon.catalog import schema
from antiphon.catalog.process_leases import ProcessLease, ProcessLeases
from antiphon.core.child_process import start_child
from antiphon.core.errors import ConflictError
from antiphon.durable.run import Run
from antiphon.services.project.store import Store


@pytest.fixture
def several(project: Path) -> Iterator[Up]:
    settings = project / "antiphon.toml"
    before = settings.read_text()
    settings.write_text(before + "\n[processes]\ngateways = 2\nworkers = 2\n")
    started = Up(project)
    try:
        started.until(lambda told: any(line.get("event") == "up" for line in told))
        yield started
    finally:
        started.stop()
        settings.write_text(before)


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = monotonic() + seconds
    while not condition():
        assert monotonic() < end
        sleep(0.1)  # To ask opens a store: oftener, it would take the processor of what it waits for.


def lease(project: Path, name: str) -> ProcessLease | None:
    store = Store.open(project)
    try:
        return ProcessLeases(store.database, store.scope.environment).find(name)
    finally:
        store.close()


def pid_of(holder: str) -> int:
    return int(holder.split("/")[-2])


def test_gateways_share_a_port_and_workers_the_runs(project: Path, antiphon, several: Up) -> None:
    ready = {line["process"]: line["pid"] for line in several.told() if line.get("event") == "ready"}
    assert set(ready) == {"engine", "gateway", "gateway-2", "worker", "worker-2"}
    for port in (several.port, several.port + 1, several.port + 2):
        assert httpx2.get(f"http://127.0.0.1:{port}/healthz", timeout=10).status_code == 200
    duties = lease(project, "duties")
    assert duties is not None
    assert pid_of(duties.holder) in (ready["worker"], ready["worker-2"])
    os.kill(pid_of(duties.holder), signal.SIGKILL)

    def taken_over() -> bool:
        now = lease(project, "duties")
        return now is not None and now.holder != duties.holder

    until(taken_over)
    os.kill(ready["gateway"], signal.SIGKILL)
    for _ in range(20):  # Whoever takes the connection, and while the other one is started again.
        assert httpx2.get(f"http://127.0.0.1:{several.port}/readyz", timeout=10).status_code == 200
    refreshed = antiphon("features", "refresh", "--wait", "--json")
    assert (refreshed.code, refreshed.json()["status"]) == (0, "succeeded"), refreshed.err
    run = abandoned(project)
    until(lambda: run_of(project, run).status == "succeeded")
    assert run_of(project, run).attempts == 2
    by_hand(project)
    assert several.stop() == 0
    assert lease(project, "duties") is None


def abandoned(project: Path) -> str:
    """A refresh whose worker, of this machine, has ended an hour before its lease."""
    holder = str(ended_process())
    with closing(Store.open(project)) as store, store.database.transaction() as connection:
        before = store.runs.list(store.scope, 1, workflow="refresh")[0]
        run = store.runs.submit(store.scope, "refresh", before.arguments, within=connection)
        held = {"worker": "ghost", "lease_until": store.database.clock.now() + timedelta(hours=1), "status": "running"}
        connection.execute(update(schema.runs).where(schema.runs.c.id == run).values(**held, epoch=1, attempts=1))
        leases = ProcessLeases(store.database, store.scope.environment)
        leases.acquire_all({"worker/ghost": None}, holder, 600, within=connection)
    return run


def run_of(project: Path, run: str) -> Run:
    with closing(Store.open(project)) as store:
        return store.runs.get(store.scope, run)


def by_hand(project: Path) -> None:
    """A gateway on a port of its own, and a worker whose name is taken: it stands by."""
    port = 2 + int(next(line for line in (project / "antiphon.toml").read_text().splitlines() if "port" in line)[7:])
    log = project.parent / "by_hand.log"
    with log.open("w") as out:
        options = {"cwd": project, "stdout": out, "stderr": subprocess.STDOUT}
        gateway = start_child([*PROGRAM, "gateway", "--name", "third", "--port", str(port + 1)], **options)
        worker = start_child([*PROGRAM, "worker"], **options)
        twin = start_child([*PROGRAM, "gateway", "--name", "gateway", "--port", str(port + 2)], **options)
        try:

            def answers() -> bool:
                try:
                    return httpx2.get(f"http://127.0.0.1:{port + 1}/readyz", timeout=5).status_code == 200
                except httpx2.TransportError:
                    return False

            until(answers)
            until(lambda: "another process has worker/default/worker@" in log.read_text(), 90)
            until(lambda: "is held by another process" in log.read_text(), 90)
            assert "choose another --name" in log.read_text()
            assert twin.wait(90) == ConflictError.exit_code
            assert "Another process of this project has the name 'gateway' (process " in log.read_text()
        finally:
            for process in (gateway, worker, twin):
                process.send_signal(signal.SIGTERM)
                process.wait(30)
    assert (gateway.returncode, worker.returncode) == (0, 0), log.read_text()


def test_an_engine_is_started_by_itself(project: Path) -> None:
    process = start_child([*PROGRAM, "engine", "--json"], cwd=project, stdout=subprocess.PIPE, text=True)
    socket = project / ".antiphon" / "run" / "engine.sock"
    try:
        assert '"process": "engine"' in process.stdout.readline() + process.stdout.readline()
        until(socket.exists)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 0
