"""Workers killed with SIGKILL: completed steps are not run again, transactional effects happen exactly once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.catalogs import KINDS
from tests.unit.catalog.examples import DEV, open_database

from antiphon.catalog.features.events import EventLog
from antiphon.durable.run import StepRecord
from antiphon.durable.runs import Runs

ROOT = Path(__file__).parents[3]
KILLS = int(os.environ.get("ANTIPHON_KILLS", "3"))
PAIRS = 4


@pytest.fixture(params=KINDS, autouse=True)
def _kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is killed has its runs in a file or on a server."""
    monkeypatch.setenv("ANTIPHON_TEST_CATALOG", request.param)


def spawn(folder: Path, worker: str, lease: float = 60.0) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.integration.durable.child", str(folder), worker, str(lease)],
        cwd=ROOT,
        env=environment,
    )


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.002)


def executions(folder: Path) -> Counter[str]:
    path = folder / "effects"
    return Counter(path.read_text().split() if path.exists() else ())


@pytest.mark.chaos
def test_a_killed_workflow_resumes_without_repeating_what_was_recorded(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    runs, log = Runs(database), EventLog(database)
    pairs = 4 * KILLS + 4
    run = runs.submit(DEV, "pairs", {"pairs": pairs, "seconds": 0.1}, max_attempts=KILLS + 1)
    moment = random.Random(7)
    frozen: dict[str, int] = {}

    def recorded() -> list[StepRecord]:
        return [step for step in runs.steps(DEV, run) if step.name == "plain"]

    for number in range(KILLS):
        before = sum(executions(tmp_path).values())
        worker = spawn(tmp_path, "w1")
        wait_for(lambda before=before: sum(executions(tmp_path).values()) > before)
        if number == KILLS - 1:  # However slow the machine: one kill at least finds a record.
            wait_for(lambda: bool(recorded()))
        time.sleep(moment.uniform(0.0, 0.3))  # not a wait: how long the worker lives is what varies
        worker.send_signal(signal.SIGKILL)
        assert worker.wait(10) == -signal.SIGKILL
        assert runs.get(DEV, run).status == "running", "it was killed too late to test anything"
        for step in recorded():
            effect = f"{run}:{step.occurrence}"
            frozen.setdefault(effect, executions(tmp_path)[effect])
    assert spawn(tmp_path, "w1").wait(60) == 0
    ended = runs.get(DEV, run)
    assert (ended.status, ended.result) == ("succeeded", {"seen": list(range(pairs))})
    assert frozen, "every kill came before the first record"
    assert {effect: executions(tmp_path)[effect] for effect in frozen} == frozen, "a recorded step was run again"
    effects = [stored.event.payload["number"] for stored in log.read(DEV, "effects", 0, 1000)]
    assert effects == list(range(pairs))
    assert set(executions(tmp_path)) == {f"{run}:{number}" for number in range(pairs)}
    assert sum(executions(tmp_path).values()) <= pairs + KILLS
    database.close()


@pytest.mark.chaos
def test_a_killed_workflow_is_rolled_back_step_by_step_and_each_of_them_in_its_turn(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    runs, half, moment = Runs(database), max(KILLS - 2, 1), random.Random(11)
    kills, steps = 2 * half, 4 * half + 2
    run = runs.submit(DEV, "undone", {"steps": steps, "seconds": 0.1}, max_attempts=kills + 1)
    for number in range(kills):  # Half of them while steps are done, the others while they are undone.
        sign = ":-" if number >= half else ":"

        def effects(sign: str = sign) -> int:
            return sum(count for effect, count in executions(tmp_path).items() if sign in effect)

        before, worker = effects(), spawn(tmp_path, "w1")
        wait_for(lambda before=before, effects=effects: effects() > before)
        time.sleep(moment.uniform(0.0, 0.3))  # not a wait: how long the worker lives is what varies
        worker.send_signal(signal.SIGKILL)
        assert worker.wait(10) == -signal.SIGKILL
        assert runs.get(DEV, run).status == "running", "it was killed too late to test anything"
    assert spawn(tmp_path, "w1").wait(60) == 0
    ended = runs.get(DEV, run)
    assert (ended.status, ended.error, ended.rollback) == ("failed", "It cannot be sent.", "done")
    order = [int(line.rpartition(":")[2]) for line in (tmp_path / "effects").read_text().split()]
    assert list(dict.fromkeys(order)) == [*range(steps), *range(-steps, 0)]
    assert order == sorted(order, key=list(dict.fromkeys(order)).index), "a step was done or undone out of its turn"
    assert len(order) <= 2 * steps + kills
    database.close()


@pytest.mark.chaos
def test_a_worker_that_fell_silent_is_replaced_and_commits_nothing_more(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    runs, log = Runs(database), EventLog(database)
    run = runs.submit(DEV, "pairs", {"pairs": PAIRS, "seconds": 0.0, "stall_at": 2})
    first = spawn(tmp_path, "w1", lease=2.0)
    wait_for(lambda: "stalling" in executions(tmp_path))
    second = spawn(tmp_path, "w2", lease=30.0)
    assert [second.wait(60), first.wait(60)] == [0, 0]
    ended = runs.get(DEV, run)
    assert (ended.status, ended.epoch) == ("succeeded", 2)
    stored = [s.event.payload for s in log.read(DEV, "effects", 0, 1000)]
    assert [(payload["number"], payload["worker"]) for payload in stored] == [
        (0, "w1"), (1, "w1"), (2, "w2"), (3, "w2"),
    ]  # fmt: skip
    assert [step.result for step in runs.steps(DEV, run) if step.name == "stall"] == ["w2"]
    database.close()


def test_two_workers_share_runs_and_no_run_is_held_twice(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    runs, log = Runs(database), EventLog(database)
    submitted = [runs.submit(DEV, "pairs", {"pairs": PAIRS, "seconds": 0.0}) for _ in range(12)]
    workers = [spawn(tmp_path, name) for name in ("w1", "w2")]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    assert {run.status for run in runs.list(DEV)} == {"succeeded"}
    assert executions(tmp_path) == Counter(f"{run}:{number}" for run in submitted for number in range(PAIRS))
    effects = Counter((s.event.payload["run"], s.event.payload["number"]) for s in log.read(DEV, "effects", 0, 1000))
    assert effects == Counter((run, number) for run in submitted for number in range(PAIRS))
    database.close()
