"""Workers in processes of their own that never poll: what wakes them comes from this process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.catalogs import KINDS
from tests.unit.catalog.examples import DEV, open_database

from antiphon.catalog.database import Database
from antiphon.core.child_process import start_child
from antiphon.durable.run import ENDED
from antiphon.durable.runs import Runs

ROOT = Path(__file__).parents[3]
BEGINS_WITHIN = 0.1


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.setenv("ANTIPHON_TEST_CATALOG", request.param)
    opened = open_database(tmp_path)
    yield opened
    opened.close()


@contextmanager
def worker(folder: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}
    command = [sys.executable, "-m", "tests.integration.durable.doorbell_child", str(folder), name]
    process = start_child(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        process.kill()
        process.wait(timeout=30)
        process.stdout.close()


def begins_after(runs: Runs) -> tuple[float, str]:
    """How long a run waits for its worker, and whose it is."""
    submitted = time.time()
    run = runs.submit(DEV, "began", {})
    deadline = time.monotonic() + 20
    while runs.get(DEV, run).status not in ENDED:
        assert time.monotonic() < deadline, "it was never claimed"
        time.sleep(0.005)
    result = runs.get(DEV, run).result or {}
    return result["began"] - submitted, result["worker"]


def test_a_submitted_run_begins_at_once_also_beside_what_a_killed_worker_left(
    database: Database, tmp_path: Path
) -> None:
    runs, doorbell = Runs(database), tmp_path / "run" / "doorbell"
    with worker(tmp_path, "first") as first, worker(tmp_path, "second"):
        waits = [begins_after(runs) for _ in range(6)]
        assert min(took for took, _ in waits) < BEGINS_WITHIN, waits
        first.kill()
        first.wait(timeout=30)
        left = [begins_after(runs) for _ in range(6)]
        assert min(took for took, _ in left) < BEGINS_WITHIN, left
        assert {name for _, name in left} == {"second"}
        if doorbell.exists():
            assert len(list(doorbell.iterdir())) == 1, "the killed worker's pipe is there still"
