"""A name of a process belongs to one process of a project at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from antiphon.core.errors import ConflictError
from antiphon.operations.preflight import name_lock


def test_a_second_process_of_a_name_is_refused_with_the_holder_and_the_next_step(tmp_path: Path) -> None:
    run = tmp_path / ".antiphon" / "run"
    with name_lock(run, "gateway"), name_lock(run, "gateway-2"):
        told = rf"the name 'gateway' \(process {os.getpid()}\)"
        with pytest.raises(ConflictError, match=told) as refused, name_lock(run, "gateway", patience=0.0):
            pass
        assert "--name" in str(refused.value.next_step)
    with name_lock(run, "gateway", patience=0.0):
        pass


def test_a_successor_waits_for_its_predecessor_to_end(tmp_path: Path) -> None:
    had, free, taken = threading.Event(), threading.Event(), threading.Event()

    def predecessor() -> None:
        with name_lock(tmp_path, "gateway"):
            had.set()
            free.wait(30)

    def successor() -> None:
        with name_lock(tmp_path, "gateway", patience=30.0):
            taken.set()

    threads = [threading.Thread(target=each) for each in (predecessor, successor)]
    threads[0].start()
    assert had.wait(30)
    threads[1].start()
    assert not taken.wait(0.2)
    free.set()
    assert taken.wait(30)
    for each in threads:
        each.join(30)


def test_a_killed_process_leaves_its_name(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from antiphon.operations.preflight import name_lock
with name_lock(Path({str(tmp_path)!r}), "gateway"):
    print("held", flush=True)
    input()
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        with pytest.raises(ConflictError, match=str(child.pid)), name_lock(tmp_path, "gateway", patience=0.0):
            pass
        child.kill()
    with name_lock(tmp_path, "gateway", patience=0.0):
        pass
