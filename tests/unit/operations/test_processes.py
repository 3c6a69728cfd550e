from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime

import msgspec

from antiphon.operations.processes import (
    ProcessRecord,
    is_running,
    read_records,
    signal_group,
    started_ticks,
    statuses,
    write_record,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def me() -> ProcessRecord:
    return ProcessRecord("me", os.getpid(), started_ticks(os.getpid()) or 0, NOW, 3)


def test_a_running_process_is_found_with_its_memory_and_nice(tmp_path) -> None:
    write_record(tmp_path, me())
    (status,) = statuses(tmp_path)
    assert status.alive
    assert status.resident_bytes is not None
    assert status.resident_bytes > 1_000_000
    assert status.nice == os.getpriority(os.PRIO_PROCESS, 0)
    assert status.restarts == 3


def test_a_pid_that_was_given_to_another_process_is_not_ours(tmp_path) -> None:
    stranger = msgspec.structs.replace(me(), started_ticks=1)
    write_record(tmp_path, stranger)
    assert not is_running(stranger)
    assert signal_group(stranger, signal.SIGTERM) is False
    (status,) = statuses(tmp_path)
    assert not status.alive
    assert status.resident_bytes is None


def test_a_zombie_does_not_run() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    ticks = started_ticks(child.pid)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert started_ticks(child.pid) is None
    child.wait()
    assert ticks is None or ticks > 0


def test_unreadable_records_are_skipped(tmp_path) -> None:
    (tmp_path / "broken.pid").write_text("4711\n")
    write_record(tmp_path, me())
    assert [record.name for record in read_records(tmp_path)] == ["me"]
