"""Commands whose standard output is closed, or is closed while they write, end without a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = (sys.executable, "-m", "antiphon.cli.main")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "antiphon.toml").write_text('[project]\nname = "fleet"\n[engine]\nkind = "simulated"\n')
    (tmp_path / "definitions.py").write_text("")
    return tmp_path


COMMANDS = [("--help",), ("runs", "list"), ("runs", "list", "--json"), ("doctor",), ("features", "list")]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_closed_standard_output_is_written_to_nowhere(project: Path, command: tuple[str, ...]) -> None:
    shell = 'exec "$@" >&-'
    ended = subprocess.run(
        ["bash", "-c", shell, "bash", *PROGRAM, *command],
        cwd=project, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr
    assert ended.returncode in (0, 7)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_reader_that_has_gone_ends_a_command_as_sigpipe_does(project: Path, command: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run(
            [*PROGRAM, *command],
            cwd=project,
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writing)
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr
    assert ended.returncode == 141


def test_every_stream_closed(project: Path) -> None:
    shell = 'exec "$@" <&- >&- 2>&-'
    ended = subprocess.run(
        ["bash", "-c", shell, "bash", *PROGRAM, "runs", "list"], cwd=project, timeout=60, check=False
    )
    assert ended.returncode == 0
