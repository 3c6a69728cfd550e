"""A worker as a process tells of its runs, and is killed between sending an event and recording that it did."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep

import pytest
from tests.integration.services.lineage.receiver import Receiver

from antiphon.services.apply.apply import apply
from antiphon.services.lineage.delivery import LineageDelivery
from antiphon.services.project.store import open_store

DEFINITIONS = """
from antiphon import Entity, Source, count, feature_view

shop = Entity("shop", keys=["shop"])
orders = Source.table("orders", path="orders.csv", event_time="ordered", event_id="id")


@feature_view(entity=shop, source=orders, refresh="1h")
class Today:
    orders = count(window=None)
"""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def folder(tmp_path: Path, receiver: Receiver) -> Path:
    (tmp_path / "antiphon.toml").write_text(
        f'[project]\nname = "shop"\n[engine]\nkind = "simulated"\n[lineage]\nurl = "{receiver.url}"\n'
    )
    (tmp_path / "definitions.py").write_text(DEFINITIONS)
    (tmp_path / "orders.csv").write_text("id,shop,ordered\n1,tea,2026-01-01T10:00:00Z\n")
    with open_store(tmp_path) as store:
        apply(store, principal="me")
    return tmp_path


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts a worker; what still runs at the end is killed."""
    begun: list[subprocess.Popen[bytes]] = []

    def started() -> subprocess.Popen[bytes]:
        with (folder / "worker.log").open("ab") as log:
            command = [sys.executable, "-m", "antiphon.app.worker", "--project", str(folder)]
            begun.append(subprocess.Popen(command, stdout=log, stderr=log, env=os.environ))
        return begun[-1]

    yield started
    for process in begun:
        process.kill()
        process.wait()


def until(condition: Callable[[], bool], folder: Path) -> None:
    """Wait for a condition; fails with the worker's log when it does not come true."""
    end = monotonic() + 120.0
    while not condition():
        assert monotonic() < end, (folder / "worker.log").read_text()
        sleep(0.05)


def test_a_worker_that_is_killed_before_its_record_sends_the_same_event_again(
    folder: Path, receiver: Receiver, start: Callable[[], subprocess.Popen[bytes]]
) -> None:
    receiver.silent = True
    worker = start()
    until(lambda: bool(receiver.bodies), folder)
    worker.kill()
    worker.wait()
    receiver.silent = False
    start()
    until(lambda: receiver.jobs("COMPLETE") == ["refresh.today"], folder)
    came: dict[tuple[str, str], list[bytes]] = defaultdict(list)
    for body, event in zip(receiver.bodies, receiver.events, strict=True):
        came[event["run"]["runId"], event["eventType"]].append(body)
    assert {len(set(bodies)) for bodies in came.values()} == {1}, "what came twice is the same"
    assert max(len(bodies) for bodies in came.values()) == 2, "the worker was killed between the two"
    with open_store(folder) as store:
        until(lambda: LineageDelivery(store).status().state == "well", folder)
