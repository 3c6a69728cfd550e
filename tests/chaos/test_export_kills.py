"""SIGKILL at every point of an export's file: no torn file is ever seen, and less than one is written again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from tests.harness.gated_project import GatedProject
from tests.harness.refresh import run_refresh
from tests.integration.services.test_gate_runs import obeys
from tests.integration.services.test_scheduled_exports import ANN, conducting, declare, runs, write_sales

ROOT = Path(__file__).parents[2]
ROWS, PER_FILE = 500, 100
pytestmark = pytest.mark.chaos


async def ordered(folder: Path) -> None:
    """A project with an export that has been ordered."""
    write_sales(folder, ROWS)
    project = GatedProject(folder, obeys)
    declare(project, f'Export(sales, to="out/", rows_per_file={PER_FILE})')
    await run_refresh(project.store, project.wired.features)
    conducting(project)[1].begin("export-sales", ANN, "a look")
    await project.close()


def child(folder: Path, point: str, number: int) -> int:
    ended = subprocess.run(
        [sys.executable, "-m", "tests.chaos.export_child", str(folder), point, str(number)],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"}, timeout=100,
        capture_output=True, check=False,
    )  # fmt: skip
    return ended.returncode


def seen(folder: Path) -> dict[str, int]:
    """The files that another tool sees, by the time of their change; raises ``ArrowInvalid`` for one that is torn."""
    found = {}
    for file in sorted((folder / "out").rglob("*")):
        if file.is_file() and not file.name.startswith("."):
            if file.suffix == ".parquet":
                assert pyarrow.parquet.read_table(file).num_rows == PER_FILE
            found[file.name] = file.stat().st_mtime_ns
    return found


async def test_a_worker_that_is_killed_leaves_whole_files_and_writes_less_than_one_again(tmp_path: Path) -> None:
    await ordered(tmp_path)
    before: dict[str, int] = {}
    for point, number in (("write", 1), ("put", 1), ("noted", 2), ("recorded", 1), ("write", 2), ("put", 2)):
        assert child(tmp_path, point, number) == -signal.SIGKILL, point
        now = seen(tmp_path)
        again = [name for name, changed in before.items() if now[name] != changed]
        assert len(again) <= 1, (point, again)
        assert "_SUCCESS" not in now
        before = now
    assert child(tmp_path, "end", 0) == 0
    now = seen(tmp_path)
    assert sorted(now) == ["_SUCCESS", *(f"part-0000{number}.parquet" for number in range(ROWS // PER_FILE))]
    assert len([name for name, changed in before.items() if now[name] != changed]) <= 1
    shops = pyarrow.parquet.read_table(next((tmp_path / "out").iterdir())).column("shop").to_pylist()
    assert sorted(shops) == [f"shop{number:05}" for number in range(ROWS)]
    assert not list((tmp_path / "out").rglob(".*"))
    project = GatedProject(tmp_path, obeys)
    (run,) = runs(project)
    assert (run.status, run.result and run.result["rows"]) == ("succeeded", ROWS)
    await project.close()


async def test_a_file_that_is_written_in_its_place_is_found_torn(tmp_path: Path) -> None:
    await ordered(tmp_path)
    assert child(tmp_path, "torn", 1) == -signal.SIGKILL
    with pytest.raises(pyarrow.ArrowInvalid):
        seen(tmp_path)
