"""Children end with the process that started them; scripts start children in no other way."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from antiphon.core.child_process import die_with_parent

ROOT = Path(__file__).parents[3]
ROOMS = ("benchmarks", "examples", "src/antiphon/testing", "tests/harness", "tests/chaos/harness")
WITHIN = 20.0

PARENT = """
import signal, subprocess, sys
# Ignored by what a shell starts in the background, and inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)
from antiphon.core.child_process import start_child
child = start_child([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
try:
    print(child.pid, flush=True)
    child.wait()
finally:
    print("unwound", flush=True)
    child.terminate()
    child.wait()
"""


def ended(pid: int) -> bool:
    deadline = time.monotonic() + WITHIN
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        os.sched_yield()
    return True


@pytest.mark.parametrize(
    ("number", "unwinds"), [(signal.SIGTERM, True), (signal.SIGINT, True), (signal.SIGKILL, False)]
)
def test_a_child_ends_with_the_process_that_started_it(number: signal.Signals, unwinds: bool) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.send_signal(number)
        said, _ = parent.communicate(timeout=WITHIN)
        assert parent.wait(WITHIN) == {signal.SIGTERM: 143, signal.SIGINT: -signal.SIGINT}.get(number, -number)
    assert ("unwound" in said) == unwinds
    assert ended(child)


def test_the_child_is_the_program_itself_with_its_environment_and_nothing_blocked(tmp_path: Path) -> None:
    tell = "import os, signal, sys; print(os.getpid(), os.environ['TOLD'], sys.argv[1:], signal.pthread_sigmask(0, ()))"
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        with subprocess.Popen(
            die_with_parent([sys.executable, "-c", tell, "a b"]), env={"TOLD": "yes"}, stdout=subprocess.PIPE, text=True
        ) as child:
            said, _ = child.communicate(timeout=WITHIN)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
    assert said.split(" ", 1) == [str(child.pid), "yes ['a b'] set()\n"]


def test_a_program_that_is_not_there_is_named() -> None:
    done = subprocess.run(die_with_parent(["no-such-program"]), capture_output=True, text=True, check=False)
    assert (done.returncode, "no-such-program cannot be run" in done.stderr) == (1, True)


def calls(path: Path) -> Iterator[tuple[int, str, str]]:
    """Line, function and first argument of everything in a file that starts a process and goes on."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            name = node.func.attr
            if name in ("Popen", "create_subprocess_exec", "create_subprocess_shell", "fork"):
                yield node.lineno, name, ast.unparse(node.args[0]) if node.args else ""


def test_scripts_start_nothing_that_could_outlive_them() -> None:
    outliving = []
    for path in (path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))):
        if "out" in path.relative_to(ROOT).parts:
            continue
        ends = "end_with_parent(" in path.read_text(encoding="utf-8")
        outliving += [
            f"{path.relative_to(ROOT)}:{line} {name}"
            for line, name, first in calls(path)
            if "die_with_parent(" not in first and not (name == "fork" and ends)
        ]
    assert not outliving
