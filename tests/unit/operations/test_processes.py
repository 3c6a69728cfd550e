from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from tests.harness.ended_process import ended_process

from antiphon.core.child_process import name_thread
from antiphon.operations.children import Child, ChildSpec, FileExists
from antiphon.operations.processes import (
    ProcessIdentity,
    ProcessRecord,
    boot,
    is_running,
    read_records,
    signal_group,
    started_ticks,
    statuses,
    waited_seconds,
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


def test_an_end_is_seen_of_processes_of_this_machine_alone() -> None:
    own, other = ProcessIdentity.own(), ended_process()
    renamed = {name: msgspec.structs.replace(other, **{name: "another"}) for name in ("host", "boot", "namespace")}
    reused = msgspec.structs.replace(own, started_ticks=own.started_ticks - 1)
    for identity, ended, seen in (
        (own, False, False),
        (other, True, True),
        (reused, True, True),
        (renamed["host"], False, False),
        (renamed["boot"], True, False),  # It may run on another machine of this host name.
        (renamed["namespace"], True, False),  # It may run in a container beside this one.
    ):
        assert (own.has_ended(str(identity)), own.sees_end_of(str(identity))) == (ended, seen), identity
    for strange in ("", "worker", f"{own.host}/{own.boot}/1/1", f"{own.host}/{own.boot}/{own.namespace}/one/1"):
        assert not own.has_ended(strange)
        assert not own.sees_end_of(strange)


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


def test_a_process_that_was_stopped_where_it_is_is_paused(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        write_record(tmp_path, ProcessRecord("training-desk", child.pid, started_ticks(child.pid) or 0, NOW))
        child.send_signal(signal.SIGSTOP)
        os.waitpid(child.pid, os.WUNTRACED)
        assert [(one.name, one.state) for one in statuses(tmp_path)] == [("training-desk", "paused")]
    finally:
        child.kill()
        child.wait()
    assert [one.state for one in statuses(tmp_path)] == ["away"]


def test_records_of_another_start_of_the_machine_or_another_folder_are_not_ours(tmp_path: Path) -> None:
    ticks = started_ticks(os.getpid()) or 0
    write_record(tmp_path, ProcessRecord("rebooted", os.getpid(), ticks, NOW, boot="another", run=str(tmp_path)))
    write_record(tmp_path, ProcessRecord("copied", os.getpid(), ticks, NOW, boot=boot(), run="/elsewhere"))
    write_record(tmp_path, ProcessRecord("own", os.getpid(), ticks, NOW, boot=boot(), run=str(tmp_path.resolve())))
    assert {one.name: one.alive for one in statuses(tmp_path)} == {"own": True, "rebooted": False}


def test_a_thread_tells_how_long_it_waited_for_a_processor() -> None:
    assert os.getpid() in waited_seconds(os.getpid())
    assert waited_seconds(2**22 + 1) == {}


def test_waiting_is_counted_for_the_threads_that_must_turn_alone() -> None:
    named, end, found = threading.Event(), threading.Event(), list[int]()

    def turn() -> None:
        name_thread("step-loop")
        found.append(threading.get_native_id())
        named.set()
        end.wait(10)

    before = set(waited_seconds(os.getpid(), ("step-loop",)))  # of an engine in this process, if there is one
    threads = [threading.Thread(target=turn), threading.Thread(target=end.wait, args=(10,))]
    for thread in threads:
        thread.start()
    try:
        assert named.wait(10)
        assert set(waited_seconds(os.getpid(), ())) == {os.getpid()}
        assert set(waited_seconds(os.getpid(), ("step-loop",))) == {*before, *found}
        assert len(waited_seconds(os.getpid())) >= 3
    finally:
        end.set()
        for thread in threads:
            thread.join()


def test_the_last_words_of_a_log_that_was_deleted_are_none(tmp_path: Path) -> None:
    spec = ChildSpec("one", ("true",), FileExists(tmp_path / "ready"))
    gone = Child(spec, None, None, tmp_path / "gone.log", 0)  # type: ignore[arg-type]
    assert gone.last_words() == ""
