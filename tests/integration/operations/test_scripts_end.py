"""A script that started a platform is ended by a signal: supervisor, engine, gateway and worker end with it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from tests.chaos.harness.chaos_project import write_project

ROOT = Path(__file__).parents[3]
UP_WITHIN, ENDED_WITHIN = 120.0, 60.0

HARNESS = ["-m", "tests.chaos.harness.kill_harness", "--kills", "200", "--engine", "simulated", "--json", "--keep"]
DESK = """
import sys, time
from pathlib import Path
from examples.flight_desk import host
with host.running(Path(sys.argv[1]), lambda text: None):
    time.sleep(600)
"""


def until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def runs(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(("script", "number"), [("desk", signal.SIGTERM), ("harness", signal.SIGKILL)])
def test_nothing_is_left_running(script: str, number: signal.Signals, tmp_path: Path) -> None:
    root = tmp_path / "project"
    if script == "desk":
        write_project(root, "simulated")
    command = [*HARNESS, str(root)] if script == "harness" else ["-c", DESK, str(root)]
    with (tmp_path / "script.log").open("wb") as log:
        started = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=log, stderr=log)
    directory = root / ".antiphon"
    try:
        until(
            lambda: started.poll() is not None or (directory / "run" / "worker.ready").exists(), UP_WITHIN, "never up"
        )
        assert started.poll() is None, (tmp_path / "script.log").read_text()
        offspring = psutil.Process(started.pid).children(recursive=True)
        assert len(offspring) >= 4, "supervisor, engine, gateway and worker"
        started.send_signal(number)
        code = started.wait(ENDED_WITHIN)
        assert code == (143 if number == signal.SIGTERM else -number), (tmp_path / "script.log").read_text()
        until(lambda: not any(map(runs, offspring)), ENDED_WITHIN, f"left: {[one for one in offspring if runs(one)]}")
    finally:
        started.kill()
        started.wait()
