"""Files that are set aside at a size: they stay bounded whoever writes, and are their owner's alone."""

from __future__ import annotations

import errno
import logging
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from antiphon.core import logs
from antiphon.core.log_files import BoundedFile, RotationBounds, set_aside
from antiphon.core.logs import FORMAT, DiscreetFormatter, RepeatedLines

BOUNDS = RotationBounds(max_bytes=10_000, files=3)


def kept(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in sorted(folder.iterdir())}


def test_a_file_is_set_aside_and_the_oldest_goes(tmp_path: Path) -> None:
    out = BoundedFile(tmp_path / "traces.jsonl", BOUNDS)
    for number in range(1_000):
        out.write(f"{number:099}\n")
    out.close()
    files = kept(tmp_path)
    assert list(files) == ["traces.jsonl", "traces.jsonl.1", "traces.jsonl.2"]
    assert sum(map(len, files.values())) <= BOUNDS.max_bytes * BOUNDS.files
    newest = "".join(files[name] for name in reversed(files))
    numbers = [int(line) for line in newest.splitlines()]
    assert numbers == list(range(1_000 - len(numbers), 1_000)), "nothing is lost in between"
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}


def test_where_no_new_file_can_be_made_nothing_is_set_aside_and_no_line_lost(tmp_path: Path) -> None:
    refused = 0

    def open_file(path: Path) -> int:
        nonlocal refused
        if 100 <= lines < 500:  # in between, as while a client holds every descriptor
            refused += 1
            raise OSError(errno.EMFILE, "Too many open files")
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    lines = 0
    out = BoundedFile(tmp_path / "a.log", RotationBounds(max_bytes=10_000, files=4), open_file)
    for lines in range(600):
        out.write(f"{lines:099}\n")
    out.close()
    assert refused > 100
    assert list(kept(tmp_path)) == ["a.log", "a.log.1"]
    assert [int(line) for name in ("a.log.1", "a.log") for line in kept(tmp_path)[name].splitlines()] == [*range(600)]


def test_a_file_that_is_not_there_shifts_none_of_those_set_aside(tmp_path: Path) -> None:
    (tmp_path / "a.log.1").write_text("before")
    set_aside(tmp_path / "a.log", BOUNDS)
    assert kept(tmp_path) == {"a.log.1": "before"}


def test_a_file_of_wider_rights_is_closed_to_others(tmp_path: Path) -> None:
    file = tmp_path / "a.log"
    file.write_text("before\n")
    file.chmod(0o644)
    BoundedFile(file, BOUNDS).write("after\n")
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == ("before\nafter\n", 0o600)


@pytest.mark.parametrize(("files", "left"), [(1, []), (2, ["a.log.1"]), (3, ["a.log.1", "a.log.2"])])
def test_setting_aside_keeps_so_many(tmp_path: Path, files: int, left: list[str]) -> None:
    for number in range(4):
        (tmp_path / "a.log").write_text(str(number))
        set_aside(tmp_path / "a.log", RotationBounds(1, files))
    assert list(kept(tmp_path)) == left
    assert [kept(tmp_path)[name] for name in left] == ["3", "2"][: len(left)]


_CHILD = """
import logging, os, sys
from pathlib import Path
from antiphon.core import logs
from antiphon.core.log_files import RotationBounds
logs.configure()
if sys.argv[2] == "bound":
    logs.bound(Path(sys.argv[1]), RotationBounds(10_000, 3))
for number in range(1_000):
    os.write(2, b"a library in C writes this " + b"x" * 70 + b"\\n")
    if number % 20 == 0:
        logging.getLogger("antiphon").info("line %d", number)
"""


@pytest.mark.parametrize("bound", ["bound", "unbound"])
def test_a_process_bounds_what_its_standard_error_leads_to(tmp_path: Path, bound: str) -> None:
    log = tmp_path / "gateway.log"
    with log.open("ab") as out:
        subprocess.run([sys.executable, "-c", _CHILD, str(log), bound], stderr=out, check=True, timeout=60)
    total = sum(map(len, kept(tmp_path).values()))
    if bound == "unbound":
        assert total > 100_000, "the switch: without its bound the log grows"
        return
    # Lines of libraries between two of ours come on top.
    assert total < 3 * 10_000 + 20 * 100 * 3
    assert list(kept(tmp_path)) == ["gateway.log", "gateway.log.1", "gateway.log.2"]
    assert "line 980" in kept(tmp_path)["gateway.log"] + kept(tmp_path)["gateway.log.1"]


def test_a_log_that_is_not_this_process_s_own_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "worker.log").write_text("of the parent")
    before = logging.getLogger().handlers[:]
    logs.bound(tmp_path / "worker.log", BOUNDS)
    assert logging.getLogger().handlers == before


def test_lines_without_end_are_counted_instead_of_written() -> None:
    now = [0.0]
    lines: list[str] = []
    handler = logging.Handler()
    handler.setFormatter(DiscreetFormatter(FORMAT))
    handler.addFilter(RepeatedLines(lambda: now[0]))
    handler.emit = lambda record: lines.append(handler.format(record))  # type: ignore[method-assign]
    log = logging.getLogger("antiphon.test.flood")
    log.propagate = False
    log.addHandler(handler)
    log.setLevel(logging.INFO)

    def flood(count: int) -> None:
        for number in range(count):
            log.info("Invalid HTTP request received: %d", number)

    flood(10_000)
    assert len(lines) == logs.LINES_A_MINUTE
    log.info("another place speaks")
    assert lines.pop().endswith("another place speaks")
    now[0] = 61.0
    flood(2)
    assert len(lines) == logs.LINES_A_MINUTE + 2
    left_out = 10_000 - logs.LINES_A_MINUTE
    assert lines[-2].endswith(f"received: 0 ({left_out} more of these lines were left out)")
    assert lines[-1].endswith("received: 1")
    log.removeHandler(handler)
