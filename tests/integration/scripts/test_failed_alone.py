"""What failed beside others is tried again alone, and what must not be is not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "failed-alone"
ONCE = """
from pathlib import Path

def test_fails_once():
    mark = Path(__file__).with_suffix(".mark")
    failed_before = mark.exists()
    mark.touch()
    assert failed_before
"""
ALWAYS = """
def test_fails():
    raise AssertionError
"""


class Tree:
    """A folder with tests and the script, whose tests failed once."""

    def __init__(self, root: Path, tests: dict[str, str]) -> None:
        self.root = root
        (root / "scripts").mkdir()
        shutil.copy(SCRIPT, root / "scripts")
        (root / "pytest.ini").write_text("[pytest]\n")
        for name, text in tests.items():
            (root / "tests" / name).parent.mkdir(parents=True, exist_ok=True)
            (root / "tests" / name).write_text(text)
        assert self.run("-m", "pytest", "-q", "tests").returncode == 1

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        return subprocess.run(
            [sys.executable, *words], cwd=self.root, env=environment, capture_output=True, text=True, timeout=60
        )

    def tried_again(self) -> subprocess.CompletedProcess[str]:
        return self.run("scripts/failed-alone")


def test_one_that_passes_alone_is_named_and_fails_nothing(tmp_path: Path) -> None:
    tried = Tree(tmp_path, {"chaos/test_one.py": ONCE}).tried_again()
    assert tried.returncode == 0
    assert "tried again alone: tests/chaos/test_one.py::test_fails_once" in tried.stdout


@pytest.mark.parametrize(
    ("tests", "said"),
    [
        ({"chaos/test_one.py": ONCE, "unit/test_two.py": ALWAYS}, "1 failed, 1 passed"),
        ({"simulation/test_one.py": ONCE}, "does not depend on the machine"),
        ({"pentest/test_one.py": ONCE, "unit/test_two.py": ONCE}, "does not depend on the machine"),
        ({f"unit/test_{number}.py": ONCE for number in range(4)}, "4 tests failed"),
    ],
    ids=["fails alone", "simulation", "attack", "too many"],
)
def test_others_fail(tmp_path: Path, tests: dict[str, str], said: str) -> None:
    tried = Tree(tmp_path, tests).tried_again()
    assert tried.returncode == 1
    assert said in tried.stdout


def test_without_a_failed_test_it_fails(tmp_path: Path) -> None:
    """`make test` may fail of something else."""
    tree = Tree(tmp_path, {"unit/test_one.py": ALWAYS})
    shutil.rmtree(tmp_path / ".pytest_cache")
    tried = tree.tried_again()
    assert (tried.returncode, "0 tests failed" in tried.stdout) == (1, True)
