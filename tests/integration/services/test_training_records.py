"""Trainings among the processes that are shown."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from antiphon.core.clock import SystemClock
from antiphon.operations.processes import ProcessRecord, boot, started_ticks, statuses, write_record
from antiphon.services.learning.training import TrainingRecords
from antiphon.training.processes import TrainingProcess, TrainingProcesses


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield started
    started.kill()
    started.wait()


def recorded(training: SimpleNamespace, folder: Path) -> TrainingRecords:
    return TrainingRecords(cast(TrainingProcesses, training), folder, SystemClock())


def test_a_training_is_shown_while_it_runs_with_how_often_it_was_begun_again(
    tmp_path: Path, process: subprocess.Popen[bytes]
) -> None:
    training = SimpleNamespace(running=(), listen=lambda call: None)
    records = recorded(training, tmp_path)
    records.look()
    assert statuses(tmp_path) == ()
    training.running = (TrainingProcess("desk/7 b", "folder", os.getpid(), None),)
    records.look()
    records.look()
    [shown] = statuses(tmp_path)
    assert (shown.name, shown.pid, shown.state, shown.restarts) == ("training-desk-7-b", os.getpid(), "running", 0)
    training.running = (TrainingProcess("desk/7 b", "folder", process.pid, None),)
    records.look()
    assert [(one.pid, one.restarts) for one in statuses(tmp_path)] == [(process.pid, 1)]
    training.running = ()
    records.look()
    assert statuses(tmp_path) == ()


async def test_what_an_earlier_worker_left_is_forgotten_and_nothing_else(tmp_path: Path) -> None:
    clock = SystemClock()
    for name in ("training-old", "gateway"):
        write_record(tmp_path, ProcessRecord(name, 4_194_305, 1, clock.now()))
    ticks, folder = started_ticks(os.getpid()) or 0, str(tmp_path.resolve())
    write_record(tmp_path, ProcessRecord("training-beside", os.getpid(), ticks, clock.now(), 0, boot(), folder))
    stop = asyncio.Event()
    stop.set()
    await recorded(SimpleNamespace(running=(), listen=lambda call: None), tmp_path).run_until(stop)
    assert sorted(one.name for one in statuses(tmp_path)) == ["gateway", "training-beside"]
