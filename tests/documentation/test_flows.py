"""Every step of the flows in ARCHITECTURE.md names code that exists, and each flow fits on a screen."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "ARCHITECTURE.md").read_text()
FLOWS = re.findall(r"^## (Follow [^\n]+)\n(.*?)(?=^## )", TEXT, re.MULTILINE | re.DOTALL)
PLACES = sorted(set(re.findall(r"`([\w/]+\.py)::([\w.]+)`", TEXT)))


def defined(path: Path) -> set[str]:
    """Names of functions, classes and their methods, as ``Class.method``."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, kinds):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{each.name}" for each in node.body if isinstance(each, kinds)}
    return names


@pytest.mark.parametrize(("file", "name"), PLACES)
def test_every_place_exists(file: str, name: str) -> None:
    assert name in defined(ROOT / "src" / "antiphon" / file)


def test_there_are_seven_flows_of_a_screen_each() -> None:
    assert [name.removeprefix("Follow ") for name, _ in FLOWS] == [
        "a request", "an event", "a batch row", "a release", "a training", "a schedule", "a measurement",
    ]  # fmt: skip
    assert max(text.count("\n") for _, text in FLOWS) <= 40
