"""Every notebook of the examples runs from first cell to last, in a fresh process; none is kept with outputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))


def cells(notebook: Path) -> list[str]:
    document = json.loads(notebook.read_text())
    assert document["nbformat"] == 4
    return ["".join(cell["source"]) for cell in document["cells"] if cell["cell_type"] == "code"]


def run(code: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """The cells one after the other, as a kernel runs them: each a piece of one module."""
    script = "\n".join(f"exec(compile({cell!r}, 'cell {number}', 'exec'))" for number, cell in enumerate(code, 1))
    return subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env={**os.environ, "OTEL_SDK_DISABLED": "true"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_runs(notebook: Path, tmp_path: Path) -> None:
    ended = run(cells(notebook), tmp_path)
    assert ended.returncode == 0, ended.stderr[-4000:]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_kept_without_outputs(notebook: Path) -> None:
    for cell in json.loads(notebook.read_text())["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_there_is_one_and_a_failing_cell_fails(tmp_path: Path) -> None:
    assert NOTEBOOKS
    ended = run(["x = 1", "assert x == 2"], tmp_path)
    assert ended.returncode != 0
    assert "cell 2" in ended.stderr
